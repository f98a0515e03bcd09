"""The seal itself: what is sealed opens in its own place with its own key, and nowhere else."""

import sys
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_idempotency import encryption
from django_idempotency.core.record import CompletionRecord
from django_idempotency.encryption import LABEL, Sealer, SettingKeys, Unreadable
from django_idempotency.exceptions import PolicyError, StoreUnavailable
from tests.encryption.conftest import NEW, OLD

KEYS = {"new": b"n" * 32, "old": b"o" * 32}
DIGEST = b"d" * 32

digests = st.binary(min_size=32, max_size=32)
places = st.sampled_from([b"answer 200", b"answer 201", b"progress", b"request"])


def sealer(keys=KEYS, current="new", *, require=False):
    return Sealer(SettingKeys(keys, current), require=require)


def seal(plain=b"secret", digest=DIGEST, place=b"progress"):
    return b"".join(sealer().seal("scope", digest, place, plain))


@given(plain=st.binary(max_size=5000), digest=digests, place=places)
def test_what_is_sealed_opens(plain, digest, place):
    stored = seal(plain, digest, place)
    assert sealer().open("scope", digest, place, stored) == plain
    assert len(plain) < 8 or plain not in stored


@given(digest=digests, other=digests, place=places, elsewhere=places)
def test_it_opens_in_its_own_place_alone(digest, other, place, elsewhere):
    """Neither another identity's row, nor another column, nor another status."""
    stored = seal(b"secret", digest, place)
    if (digest, place) != (other, elsewhere):
        with pytest.raises(Unreadable):
            sealer().open("scope", other, elsewhere, stored)


@given(position=st.integers(min_value=0), bit=st.integers(min_value=0, max_value=7))
def test_a_flipped_bit_shows(position, bit):
    """Wherever it is. Without its mark a value is no sealed one, and with `require` does not open either."""
    stored = bytearray(seal())
    stored[position % len(stored)] ^= 1 << bit
    with pytest.raises(Unreadable):
        sealer(require=True).open("scope", DIGEST, b"progress", bytes(stored))


@given(length=st.integers(min_value=0))
def test_a_value_that_is_cut_off_does_not_open(length):
    stored = seal()
    with pytest.raises(Unreadable):
        sealer(require=True).open("scope", DIGEST, b"progress", stored[: length % len(stored)])


@given(st.binary())
def test_garbage_is_unreadable(rest):
    """Whatever follows the mark, and no other error."""
    with pytest.raises(Unreadable):
        sealer().open("scope", DIGEST, b"progress", LABEL + rest)


def test_one_plain_text_is_sealed_differently_each_time():
    assert seal() != seal()


def test_rotation():
    """The old key opens what it has sealed, and seals nothing any more. Without it, or with another of its id: no."""
    stored = b"".join(sealer(current="old").seal("scope", DIGEST, b"progress", b"secret"))
    assert sealer().open("scope", DIGEST, b"progress", stored) == b"secret"
    assert seal().startswith(encryption.label_of("new"))
    for keys in ({"new": KEYS["new"]}, {"new": KEYS["new"], "old": b"?" * 32}):
        with pytest.raises(Unreadable, match="'old'"):
            sealer(keys).open("scope", DIGEST, b"progress", stored)


def test_plain_values_stay_readable_unless_sealed_ones_are_required():
    assert sealer().open("scope", DIGEST, b"progress", b"[]") == b"[]"
    with pytest.raises(Unreadable, match="REQUIRE"):
        sealer(require=True).open("scope", DIGEST, b"progress", b"[]")


@given(status=st.integers(100, 599), body=st.binary(max_size=300), value=st.text(st.characters(codec="ascii")))
def test_an_answer_is_two_columns(status, body, value):
    """Which belong together, and to their status."""
    record = CompletionRecord(status=status, headers=(("X-A", value),), body=body)
    active = sealer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encryption, "sealer", lambda: active)
        first, again = (encryption.seal_answer("scope", DIGEST, record) for _ in range(2))
        assert encryption.open_answer("scope", DIGEST, *first) == (record.head(), body)
        assert encryption.open_answer("scope", DIGEST, status, first[1], memoryview(first[2])) == (record.head(), body)
        assert first[2] != again[2]
        with pytest.raises(Unreadable):
            encryption.open_answer("scope", DIGEST, status + 1, *first[1:])


class Broken:
    """Keys that cannot be asked, or are none."""

    def __init__(self, found=None):
        self.found = found

    def for_scope(self, scope):
        return self.found

    def get(self, id, scope):
        raise ConnectionError("the key service is away")


def test_keys_that_cannot_be_asked_are_no_lost_keys():
    """The caller is told to come back."""
    with pytest.raises(StoreUnavailable):
        Sealer(Broken(), require=False).open("scope", DIGEST, b"progress", seal())


@pytest.mark.parametrize(
    "found", [("a b", b"k" * 32), ("", b"k" * 32), ("ä", b"k" * 32), ("x" * 65, b"k" * 32), ("x", b"k" * 16)]
)
def test_a_bad_key_of_the_project_is_named(found):
    with pytest.raises(PolicyError, match="KEYS"):
        Sealer(Broken(found), require=False).seal("scope", DIGEST, b"progress", b"secret")


def test_keys_may_leave_a_scope_unsealed_unless_sealing_is_required():
    assert Sealer(Broken(), require=False).seal("scope", DIGEST, b"progress", b"plain") == (b"", b"plain")
    with pytest.raises(PolicyError, match="REQUIRE"):
        Sealer(Broken(), require=True).seal("scope", DIGEST, b"progress", b"plain")


BAD = {
    "no dict": (5, "must be a dict"),
    "no keys": ({}, "'KEYS'"),
    "unknown": ({"KEYS": {"a": OLD}, "KEY": 1}, "has no 'KEY'"),
    "empty": ({"KEYS": {}}, "is empty"),
    "not base64": ({"KEYS": {"a": "?" * 44}}, r"\['a'\] must be 32 random bytes in base64"),
    "too short": ({"KEYS": {"a": b64encode(b"k" * 16).decode()}}, "must be 32 random bytes"),
    "bytes": ({"KEYS": {"a": b"k" * 32}}, "must be 32 random bytes"),
    "an id with a space": ({"KEYS": {"a b": OLD}}, "visible ASCII"),
    "a number as an id": ({"KEYS": {2026: OLD}}, "visible ASCII"),
    "one key twice": ({"KEYS": {"a": OLD, "b": OLD}}, r"\['b'\] is the key of 'a' again"),
    "an unknown current one": ({"KEYS": {"a": OLD}, "CURRENT": "b"}, "must be an id of 'KEYS'"),
    "require a word": ({"KEYS": {"a": OLD}, "REQUIRE": "yes"}, "True or False"),
    "require what is not sealed": ({"KEYS": {"a": OLD}, "CURRENT": None, "REQUIRE": True}, "'CURRENT': None"),
    "no module": ({"KEYS": "no.such.module"}, "cannot be imported"),
    "a class": ({"KEYS": "tests.encryption.test_sealing.Broken"}, "object with the methods"),
    "no keys of ours": ({"KEYS": object()}, "object with the methods"),
    "current of an object": ({"KEYS": Broken(), "CURRENT": "a"}, "for_scope"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_is_named(name, settings):
    """And no message has a key in it."""
    setting, says = BAD[name]
    settings.IDEMPOTENCY = {"ENCRYPTION": setting}
    with pytest.raises(PolicyError, match=says) as caught:
        encryption.sealer()
    assert OLD not in str(caught.value)


def test_the_first_key_seals_unless_another_is_current(encrypt):
    for options, expected in (({}, "a"), ({"CURRENT": "b"}, "b"), ({"CURRENT": None}, None)):
        encrypt({"a": OLD, "b": NEW}, **options)
        found = encryption.sealer().keys.for_scope("scope")
        assert (found and found[0]) == expected


def test_keys_of_the_project_are_found_by_their_path(encrypt, monkeypatch):
    keys = Broken()
    monkeypatch.setattr(sys.modules[__name__], "keys", keys, raising=False)
    encrypt(f"{__name__}.keys")
    assert encryption.sealer().keys is keys


def test_without_cryptography_the_error_names_the_extra(encrypt, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    encrypt({"a": OLD})
    with pytest.raises(PolicyError, match=r"pip install 'django-idempotency\[encryption\]'"):
        encryption.sealer()
