"""The key: what a header may hold, and what is made of it."""

import re
import uuid

import http_sf
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from django_idempotency.core.keys import (
    CLOCK_TOLERANCE,
    Identity,
    check_age,
    check_key,
    derive_key,
    is_uuid,
    key_format,
    parse_key,
    time_of,
)
from django_idempotency.exceptions import KeyExpired, KeyInvalid
from tests.ids import spelt

PRINTABLE = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=",")
KEYS = st.text(PRINTABLE, min_size=1, max_size=255)
TOKENS = st.text(VISIBLE, min_size=1, max_size=255).filter(lambda text: text[0] != '"')
# Bits of structured fields, right and wrong, from which hypothesis puts headers together.
PIECES = st.sampled_from([
    *'"\\;=aA1,%*() \té\0\x7f', '\\"', "\\\\", "z9_-.*", "-1", "1.5", "1.", "1.2345", "1234567890123.4", "@1", "@-1",
    "@1.5", "?1", "?2", ":YQ==:", "tok/en",
])  # fmt: skip


def quoted(key: str) -> str:
    """RFC 9651, 4.1.6."""
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def outcome(value: str) -> str | None:
    """The key that *value* spells, or None where it is refused. Any other exception fails the test."""
    try:
        return parse_key(value)
    except KeyInvalid:
        return None


def independent(value: str) -> str | None:
    """The same by RFC 9651's parser of somebody else's, for a value that begins with a quote."""
    try:
        key, _ = http_sf.parse(value.encode(), tltype="item")
    except (http_sf.StructuredFieldError, UnicodeEncodeError):
        return None
    return key if type(key) is str and 1 <= len(key) <= 255 else None


@given(KEYS)
def test_a_string_says_its_key(key):
    """A quoted string gives back exactly the text that was quoted."""
    assert parse_key(quoted(key)) == key


@given(TOKENS)
def test_a_bare_token_is_its_key(key):
    """A bare token is the key as it stands, and quoting it changes nothing."""
    assert parse_key(key) == key == parse_key(quoted(key))


@given(TOKENS, st.sampled_from(["", " ", "\t", " \t "]), st.sampled_from(["", " ", "\t"]))
def test_space_around_a_value_is_not_the_keys(key, before, after):
    """White space at the ends belongs to the header line (RFC 9110, 5.5)."""
    assert parse_key(before + key + after) == key


@given(st.text())
@example('"' * 3)
@example("\ud800")
@example("٣")
@example('"a";b="')
def test_any_text_is_a_key_or_key_invalid(value):
    """Whatever arrives, nothing but a key of 1 to 255 printable ASCII characters or KeyInvalid comes out."""
    key = outcome(value)

    assert key is None or re.fullmatch(r"[ -~]{1,255}", key)


@given(st.lists(PIECES, max_size=12).map("".join))
@example('a";b="c\\"d"')
@example('a"; b;c=?0')
@example('a" ;b')
@example('a";B')
@example('a";b=@1.5')
@example('a";b=1234567890123.4')
@example('a";b=1234567890123456')
@example('a";b=:YQ==:')
@example('a";b=%"c%c3%a9"')
@example('a";b=%"c%zz"')
def test_strings_are_read_as_rfc_9651_reads_them(tail):
    """A value that opens with a quote is a key exactly where another implementation of RFC 9651 finds a string."""
    value = ('"' + tail).strip(" \t")

    assert outcome(value) == independent(value)


@given(st.text(PRINTABLE, min_size=1).filter(lambda text: text.strip() and text.strip()[0] != '"'))
def test_a_bare_token_has_no_space_and_no_comma(value):
    """Outside quotes a comma would be two header lines joined, and a space no token."""
    value = value.strip()
    expected = None if " " in value or "," in value or len(value) > 255 else value

    assert outcome(value) == expected


MALFORMED = {
    "empty": "", "blank": " ", "empty string": '""', "long token": "a" * 256, "long string": f'"{"a" * 256}"',
    "unterminated": '"abc', "quote": '"', "unfinished escape": '"a\\', "escape of another character": '"a\\b"',
    "two tokens": "a,b", "two strings": '"a", "b"', "text after a string": '"a"b', "space in a token": "a b",
    "NUL": "a\x00b", "line feed": '"a\nb"', "DEL": "a\x7f", "Latin-1": "é", "Latin-1 in a string": '"é"',
    "non-ASCII": "\u2603", "parameter without a name": '"a";', "parameter that is only a value": '"a";=1',
    "parameter without its value": '"a";b=',
}  # fmt: skip


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED)
def test_malformed_keys_are_refused(value):
    """Each malformed class is KeyInvalid."""
    with pytest.raises(KeyInvalid):
        parse_key(value)


@pytest.mark.parametrize("length", [1, 255])
def test_the_longest_and_the_shortest_key(length):
    """1 and 255 characters count after unquoting."""
    key = '"' * length

    assert parse_key(quoted(key)) == key


def test_keys_keep_their_case():
    """Keys compare byte for byte."""
    assert parse_key("ABC") != parse_key("abc")


@given(KEYS)
def test_a_callables_key_may_be_any_printable_text(key):
    """`check_key` takes what a string in a header could hold."""
    assert check_key(key) == key


def test_a_callables_key_may_be_a_number_or_a_uuid():
    """Senders number their events."""
    number = uuid.uuid4()

    assert check_key(7) == "7"
    assert check_key(number) == str(number)


@pytest.mark.parametrize("key", ["", "a" * 256, "é", "a\n", True, b"a", 1.5, ["a"]], ids=spelt)
def test_a_callables_bad_key_is_refused(key):
    """Anything but text, number and UUID, and any text that no header could hold, is KeyInvalid."""
    with pytest.raises(KeyInvalid):
        check_key(key)


@given(st.uuids(), st.booleans())
def test_a_uuid_in_either_case_is_one(value, upper):
    """The canonical text form, RFC 9562, 4."""
    assert is_uuid(str(value).upper() if upper else str(value))


@given(st.one_of(st.text(max_size=40), st.uuids().map(lambda value: value.hex), st.uuids().map("{{{}}}".format)))
@example("z" * 36)
def test_other_spellings_are_no_uuid(text):
    """Only the form of 36 characters is one: two spellings would be two keys."""
    assert is_uuid(text) == bool(re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text))


def test_key_formats():
    """`uuid`, a pattern that must match the whole key, and a callable."""
    assert key_format("uuid")(str(uuid.uuid4()))
    assert not key_format("uuid")("order-1")
    assert key_format(r"order-\d+")("order-1")
    assert not key_format(r"order-\d+")("order-1x")
    assert key_format(re.compile("ORDER", re.IGNORECASE))("order")
    assert key_format(lambda key: key.startswith("o") or None)("order") is True


@given(st.lists(st.text(max_size=8), min_size=3, max_size=3), st.lists(st.text(max_size=8), min_size=3, max_size=3))
@example(["ab", "c", "d"], ["a", "bc", "d"])
def test_two_identities_share_no_digest(one, other):
    """Scope, operation and key make the digest, each at its own place."""
    assert (Identity(*one).digest == Identity(*other).digest) == (one == other)


def test_an_identity_in_a_log_does_not_show_its_key():
    """What is logged is the digest."""
    identity = Identity("app.user:1", "POST pay/", "secret-key")

    assert "secret" not in str(identity)
    assert str(identity) == identity.digest.hex()
    assert len(identity.digest) == 32


class TestDerivedKeys:
    """Keys for downstream systems."""

    IDENTITY = Identity("auth.user:1", "POST payments/", "8e03978e-40d5-43dd-bc93-6894a57f9324")

    def test_known_answers(self):
        """They stay the same from release to release: a gateway remembers them for days."""
        assert derive_key(self.IDENTITY, b"\x01" * 32, "gateway") == "1e1ae194-73fe-81a8-bec4-cacacf3a2317"
        assert derive_key(self.IDENTITY, b"\x02" * 32, "gateway") == "b695a987-3424-85d6-9a27-3d6463a3b21d"
        assert self.IDENTITY.digest.hex() == "2828f74756e6d2275b78e438d2d5cfd16363ae278351f23e8c51c73c7245702b"

    @given(st.binary(min_size=32, max_size=32), st.text())
    def test_shape(self, fingerprint, name):
        """A UUID of version 8, in its canonical form (RFC 9562, 5.8)."""
        key = derive_key(self.IDENTITY, fingerprint, name.encode(errors="replace").decode())

        assert is_uuid(key)
        assert uuid.UUID(key).version == 8
        assert uuid.UUID(key).variant == uuid.RFC_4122

    def test_each_part_counts(self):
        """Another name, a mended payload, another user or another key gives another derived key."""
        other = Identity(self.IDENTITY.scope, self.IDENTITY.operation, "another")
        of_another = Identity("auth.user:2", self.IDENTITY.operation, self.IDENTITY.key)
        keys = {
            derive_key(self.IDENTITY, b"\x01" * 32, "gateway"),
            derive_key(self.IDENTITY, b"\x01" * 32, "mail"),
            derive_key(self.IDENTITY, b"\x02" * 32, "gateway"),
            derive_key(other, b"\x01" * 32, "gateway"),
            derive_key(of_another, b"\x01" * 32, "gateway"),
        }

        assert len(keys) == 5


class TestAge:
    """Keys that tell when they were made."""

    @pytest.mark.parametrize(
        ("key", "made"),
        [
            ("017F22E2-79B0-7CC3-98C4-DC0C0C07398F", 1645557742.0),  # RFC 9562, A.6
            ("01ARYZ6S41TSV4RRFFQ69G5FAV", 1469918176.385),  # https://github.com/ulid/javascript, its tests
            ("7ZZZZZZZZZZZZZZZZZZZZZZZZZ", (2**48 - 1) / 1000),  # the last one
            ("8e03978e-40d5-43dd-bc93-6894a57f9324", None),  # version 4
            ("017F22E2-79B0-7CC3-C8C4-DC0C0C07398F", None),  # another variant
            ("017F22E2-79B0-7CC3-98C4-DC0C0C07398", None),
            ("017F22E2-79B0-7CC3-98C4-DC0C0C07398G", None),
            ("8ZZZZZZZZZZZZZZZZZZZZZZZZZ", None),  # more than 128 bits
            ("01ARYZ6S41TSV4RRFFQ69G5FAU", None),  # no U in Crockford's digits
            ("01ARYZ6S41 SV4RRFFQ69G5FAV", None),
            ("order-7", None),
        ],
    )
    def test_known_answers(self, key, made):
        """In upper and lower case alike."""
        assert time_of(key) == time_of(key.lower()) == made

    @pytest.mark.parametrize(
        ("now", "refusal"),
        [
            (-CLOCK_TOLERANCE - 0.001, KeyExpired),
            (-CLOCK_TOLERANCE, None),
            (3600.0, None),
            (3600.001, KeyExpired),
        ],
    )
    def test_the_bounds(self, now, refusal):
        """A key is good from a minute before it was made until it is too old."""
        try:
            check_age("017F22E2-79B0-7CC3-98C4-DC0C0C07398F", 3600.0, 1645557742.0 + now)
        except KeyExpired:
            assert refusal is KeyExpired
        else:
            assert refusal is None

    def test_a_key_without_a_time_is_malformed(self):
        """Nobody can tell its age."""
        with pytest.raises(KeyInvalid, match="UUID of version 7, or a ULID"):
            check_age("8e03978e-40d5-43dd-bc93-6894a57f9324", 3600.0, 0.0)
