"""Fingerprints: framing, canonical JSON, and what may be left out."""

import copy
import json

import pytest
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from django_idempotency import fingerprints
from django_idempotency.core.fingerprint import canonical_json, digest, framed, parse_json, without, without_field
from django_idempotency.exceptions import PolicyError
from tests.ids import spelt

PARTS = st.lists(st.binary(max_size=6), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(PARTS, PARTS)
def test_framing_is_injective(one, other):
    """Two different lists of parts never give the same bytes."""
    assert (framed(*one) == framed(*other)) == (one == other)


@given(PARTS)
def test_framed_parts_can_be_read_back(parts):
    """The lengths before the parts tell where each ends: that is why framing is injective."""
    data, read = framed(*parts), []
    while data:
        length = int.from_bytes(data[:8])
        read.append(data[8 : 8 + length])
        data = data[8 + length :]

    assert read == parts


@given(PARTS)
def test_a_digest_has_32_bytes_and_a_kind(parts):
    """Equal parts of different kinds differ."""
    assert len(digest(b"raw", *parts)) == 32
    assert digest(b"raw", *parts) != digest(b"form", *parts)


@given(JSON)
def test_canonical_json_has_one_spelling(value):
    """However its members are ordered and spaced, one value has one spelling, and it says the same."""
    shuffled = json.loads(json.dumps(value, indent=3, sort_keys=True))

    assert canonical_json(value) == canonical_json(shuffled)
    assert json.loads(canonical_json(value)) == value


def test_canonical_json_takes_lone_surrogates():
    """JSON may escape half a character: it is no reason for a 500."""
    assert canonical_json(json.loads(r'"\ud800"'))


@pytest.mark.parametrize("value", [object(), {1: 2, "a": 3}, {"a": {1, 2}}], ids=spelt)
def test_canonical_json_refuses_what_is_not_json(value):
    """A value that is not JSON is an error, never a guess."""
    with pytest.raises((TypeError, ValueError)):
        canonical_json(value)


@given(JSON, st.lists(st.lists(st.text(max_size=4), min_size=1, max_size=3).map(tuple), max_size=3))
def test_leaving_out_changes_no_original(value, paths):
    """`without` copies: the request's data stays as it is. Paths that lead nowhere are no error."""
    before = copy.deepcopy(value)

    without(value, paths)

    assert value == before


def test_members_are_left_out_by_path():
    """Dotted paths enter objects, and lists on the way."""
    value = {"a": 1, "b": {"a": 2, "c": 3}, "d": [{"a": 4, "e": 5}, 6]}

    assert without(value, [("a",)]) == {"b": {"a": 2, "c": 3}, "d": [{"a": 4, "e": 5}, 6]}
    assert without(value, [("b", "a"), ("d", "a")]) == {"a": 1, "b": {"c": 3}, "d": [{"e": 5}, 6]}
    assert without([value, 7], [("b",), ("d",)]) == [{"a": 1}, 7]


@given(JSON)
def test_parsing_json_keeps_values(value):
    """Whatever is JSON for Python is the same value, and parsing its canonical form changes nothing."""
    parsed = parse_json(json.dumps(value))

    assert parsed == value
    assert canonical_json(parse_json(canonical_json(parsed))) == canonical_json(parsed)


@pytest.mark.parametrize("same", [["1", "1.0", "1e0", "10e-1"], ["0", "-0", "-0.0", "0e9"], ["0.1", "0.10", "1E-1"]])
def test_equal_numbers_have_one_spelling(same):
    """RFC 8785: a client's JSON library chooses the spelling, not its user."""
    assert len({canonical_json(parse_json(number)) for number in same}) == 1


def test_large_integers_stay_different():
    """Identifiers of 64 bits are more than a double holds; they are not another account's."""
    assert parse_json("9007199254740993") != parse_json("9007199254740992")


@pytest.mark.parametrize(
    "number", ["1234567890123456.78", "1e400", "-1e400", "1e-400", "1e-99999999999999999999", "NaN", "Infinity"]
)
def test_what_a_double_cannot_hold_is_not_compared_by_value(number):
    """Nor is what Python reads and JSON does not have."""
    with pytest.raises(ValueError, match=r"double|not JSON"):
        parse_json(number)


@pytest.mark.parametrize(
    ("form", "left"),
    [
        (b"token=x&a=1", b"a=1"),
        (b"a=1&token=x", b"a=1"),
        (b"a=1&token&b=2", b"a=1&b=2"),
        (b"a=token&tokens=1", b"a=token&tokens=1"),
        (b'{"token": "a&b"}', b'{"token": "a&b"}'),
        (b"", b""),
    ],
)
def test_a_field_is_left_out_of_a_form(form, left):
    """And every other byte stays: not every body of that type is a form."""
    assert without_field(form, b"token") == left


class TestJsonOption:
    """`fingerprint=fingerprints.json(...)`."""

    @staticmethod
    def request(body, path="/pay/", **extra):
        return RequestFactory().post(path, body, content_type="application/json", **extra)

    def test_spelling_does_not_matter(self):
        """Order of members and white space are not the meaning."""
        fingerprint = fingerprints.json()

        assert fingerprint(self.request('{"a":1,"b":2}')) == fingerprint(self.request('{ "b": 2, "a": 1 }'))
        assert fingerprint(self.request('{"a":1}')) != fingerprint(self.request('{"a":2}'))

    def test_numbers_are_compared_by_value(self):
        """However a client spells them; NaN is no number of JSON's, and is compared by its bytes."""
        fingerprint = fingerprints.json()

        assert fingerprint(self.request('{"a":1}')) == fingerprint(self.request('{"a":1.0}'))
        assert fingerprint(self.request('{"a":NaN}')) != fingerprint(self.request('{ "a": NaN }'))

    def test_excluded_members_do_not_matter(self):
        """A time stamp that each attempt writes anew is left out; everything else counts."""
        fingerprint = fingerprints.json(exclude=["sent_at", "meta.attempt"])
        first = self.request('{"amount": 1, "sent_at": 1, "meta": {"attempt": 1, "by": "x"}}')

        assert fingerprint(first) == fingerprint(self.request('{"amount": 1, "meta": {"attempt": 2, "by": "x"}}'))
        assert fingerprint(first) != fingerprint(self.request('{"amount": 1, "meta": {"attempt": 1, "by": "y"}}'))
        assert fingerprint(first) != fingerprint(self.request('{"amount": 2, "meta": {"attempt": 1, "by": "x"}}'))

    def test_the_rest_of_the_request_counts(self):
        """Path, query, host and preconditions count as always."""
        fingerprint = fingerprints.json()
        requests = [
            self.request("{}"),
            self.request("{}", "/other/"),
            self.request("{}", "/pay/?a=1"),
            self.request("{}", headers={"host": "tenant-a.example"}),
            self.request("{}", headers={"if-match": '"1"'}),
        ]

        assert len({fingerprint(request) for request in requests}) == len(requests)

    @pytest.mark.parametrize(
        "body", ["", "{", "nul", "[" * 100_000, b"\xff"], ids=["empty", "open", "word", "deep", "bytes"]
    )
    def test_a_body_that_is_not_json_counts_byte_for_byte(self, body):
        """It is fingerprinted, not refused: the view says what is wrong with it."""
        fingerprint = fingerprints.json()

        assert fingerprint(self.request(body)) == fingerprint(self.request(body))
        assert fingerprint(self.request(body)) != fingerprint(self.request(b"x"))

    @pytest.mark.parametrize("exclude", ["sent_at", ["a..b"], [""], [1]], ids=spelt)
    def test_a_bad_exclude_is_an_error(self, exclude):
        """A lone text would be read as letters: it is refused at start-up."""
        with pytest.raises(PolicyError, match="exclude"):
            fingerprints.json(exclude=exclude)
