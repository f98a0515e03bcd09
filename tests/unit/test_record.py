"""The completion record: what is stored of an answer, and how it comes back."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_idempotency.core.record import (
    BYTES,
    JSON,
    LEFT_OUT,
    NEVER_STORED,
    CompletionRecord,
    encode_reference,
    storable_headers,
)

# What HttpResponse accepts in a header: NUL and Latin-1 among it; surrogates come from bytes that were decoded.
TEXT = st.text(st.characters(exclude_characters="\r\n", exclude_categories=()))
NAMES = st.sampled_from(["Content-Type", "Location", "ETag", "X-Request-Cost", "content-length", "SET-COOKIE", "Date"])


@given(
    st.integers(100, 599),
    TEXT,
    st.lists(st.tuples(TEXT, TEXT | st.none()), max_size=5).map(tuple),
    st.binary(max_size=64),
    st.text(max_size=8),
    st.sampled_from(["", LEFT_OUT, BYTES, JSON]),
    st.sampled_from(["", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]),
)
def test_a_record_comes_back_as_it_was(status, reason, headers, body, request_id, instead, trace):
    """Bytes in, bytes out: NUL, Latin-1 and lone surrogates included."""
    record = CompletionRecord(
        status=status, reason=reason, headers=headers, body=body, request_id=request_id, instead=instead, trace=trace
    )

    for kind in (bytes, memoryview):  # what the drivers return
        assert CompletionRecord.from_stored(status, kind(record.head()), kind(body), request_id) == record


@given(st.lists(st.tuples(NAMES | st.sampled_from(sorted(NEVER_STORED)), TEXT), max_size=8))
def test_what_belongs_to_one_connection_is_never_stored(headers):
    """Hop-by-hop headers, Date, Server and Set-Cookie are left out in any case; the rest keeps order and value."""
    stored = storable_headers(headers)

    assert not {name.lower() for name, _ in stored} & NEVER_STORED
    kept = [(name, value) for name, value in headers if name.lower() not in NEVER_STORED]
    assert [name for name, _ in stored] == [name for name, _ in kept]
    for (name, value), (_, original) in zip(stored, kept, strict=True):
        assert value == (None if name.lower() == "content-length" else original)


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization"),
        *("Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade"),
        *("Authorization", "Set-Cookie", "Date", "Server"),
    ],
)
def test_a_header_that_is_never_stored(name):
    """By name, whatever the package's own list has: those of one connection, one client and one moment."""
    assert storable_headers([(name, "1"), ("X-Kept", "2")]) == (("X-Kept", "2"),)


def test_a_form_of_another_version_is_not_read():
    """It would be sent as the answer's body."""
    with pytest.raises(ValueError, match="'sealed' is stored in the place of its body"):
        CompletionRecord.from_stored(200, b'["", [], "sealed"]', b"?", "")


@pytest.mark.parametrize("head", [b"[1, []]", b'["", [["X-Count", 5]]]', b'["", [[5, "X-Count"]]]'])
def test_what_is_no_string_is_not_read(head):
    """A server could not send it."""
    with pytest.raises(TypeError):
        CompletionRecord.from_stored(200, head, b"", "")


@pytest.mark.parametrize(
    ("status", "head"),
    [
        (99, rb'["", []]'),
        (600, rb'["", []]'),
        (200, rb'["OK\r\nX-Injected: 1", []]'),
        (200, rb'["", [["X-Value", "1\nX-Injected: 1"]]]'),
        (200, rb'["", [["X-Name\r", "1"]]]'),
    ],
)
def test_what_would_be_another_response_is_displayed_but_not_sent(status, head):
    """A row that somebody has changed puts no header of its own into an answer."""
    assert CompletionRecord.from_stored(status, head, b"", "", to_send=False).status == status
    with pytest.raises(ValueError, match="line break"):
        CompletionRecord.from_stored(status, head, b"", "")


JSON_VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children | st.none()),
    max_leaves=5,
)


@given(JSON_VALUES | st.binary())
def test_a_reference_comes_back_as_it_was(value):
    """Bytes as bytes, all else as JSON."""
    instead, stored = encode_reference(value)

    record = CompletionRecord(status=200, body=stored, instead=instead)
    assert record.is_reference
    assert record.reference == value


@pytest.mark.parametrize("value", [None, (1, 2), {1: 2}, {1}, float("nan"), object, Decimal(1)], ids=repr)
def test_what_is_no_reference(value):
    """None is a forgotten return; anything else that JSON would change, or cannot write, would come back as another."""
    with pytest.raises(ValueError):  # noqa: PT011 its message is the reader's
        encode_reference(value)


@pytest.mark.parametrize("value", ["X-Hop, close", "x-hop", " X-HOP "])
def test_headers_that_connection_names_are_hop_by_hop(value):
    """RFC 9110, 7.6.1."""
    assert storable_headers([("X-Hop", "1"), ("X-Kept", "2"), ("Connection", value)]) == (("X-Kept", "2"),)


def test_a_record_cannot_be_changed():
    """It is immutable until it expires."""
    with pytest.raises(AttributeError):
        CompletionRecord(status=200).status = 500
