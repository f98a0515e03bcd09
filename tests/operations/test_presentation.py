"""What a record says to people, whatever bytes are in its row."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from django_idempotency.core.record import CompletionRecord
from django_idempotency.models import DatabaseNow, IdempotencyRecord
from django_idempotency.operations import presentation
from django_idempotency.operations.presentation import BodyKind, Presented, State, present, state, visible
from django_idempotency.stores import stores
from django_idempotency.stores.stored import Location, StoredRecord

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def row(**fields: Any) -> StoredRecord:
    """A record as a store reads it."""
    values: dict[str, Any] = {
        "digest": bytes(32),
        "scope": "auth.user:1",
        "operation": "POST pay/",
        "key": "key-1",
        "fingerprint": b"\x01" * 32,
        "request": "POST shop.example pay/",
        "request_id": "r-1",
        "status": 201,
        "head": CompletionRecord(status=201, headers=(("Content-Type", "application/json"),)).head(),
        "body": b'{"id":1}',
        "executed_at": NOW - timedelta(hours=1),
        "expires_at": NOW + timedelta(hours=23),
        "now": NOW,
        "location": Location(store=stores["default"], using="default"),
    }
    return StoredRecord(**values | fields)


def answered(body: bytes, content_type: str | None = None, **headers: str) -> Presented:
    """A row whose answer has this body and these headers."""
    named = [("Content-Type", content_type)] if content_type is not None else []
    named += [(name.replace("_", "-"), value) for name, value in headers.items()]
    return present(row(head=CompletionRecord(status=201, headers=tuple(named)).head(), body=body))


def test_what_was_asked_and_answered():
    """Every column is there, in words."""
    shown = present(row())

    assert (shown.method, shown.host, shown.route) == ("POST", "shop.example", "pay/")
    assert (shown.scope, shown.operation, shown.key) == ("auth.user:1", "POST pay/", "key-1")
    assert (shown.identity, shown.fingerprint, shown.request_id) == ("00" * 32, "01" * 32, "r-1")
    assert (shown.state, shown.status, shown.reason) == (State.COMPLETED, 201, "Created")
    assert shown.headers == (("Content-Type", "application/json"),)
    assert shown.body.kind is BodyKind.JSON
    assert shown.body.text == '{\n  "id": 1\n}'
    assert shown.body.size == 8
    assert shown.problems == ()


@pytest.mark.parametrize(
    ("request_text", "parts"),
    [
        ("", ("", "", "")),
        ("POST", ("POST", "", "")),
        ("POST shop.example ", ("POST", "shop.example", "")),
        ("POST shop.example a route/", ("POST", "shop.example", "a route/")),
    ],
)
def test_the_request_may_be_short(request_text, parts):
    """Work that arrived without a request has none; a route may be empty, or hold spaces."""
    shown = present(row(request=request_text))

    assert (shown.method, shown.host, shown.route) == parts


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, State.COMPLETED),
        ({"status": 0}, State.UNSETTLED),
        ({"expires_at": NOW}, State.EXPIRED),
        ({"expires_at": NOW, "status": 0}, State.EXPIRED),
    ],
)
def test_the_state_is_what_the_next_request_meets(fields, expected):
    """At the instant of its expiry a record is gone for the claim, so it is for people."""
    assert state(row(**fields)) is expected


def test_an_unsettled_claim_has_no_answer():
    """Its status is no HTTP status, its head is no head; none of them is a problem."""
    shown = present(row(status=0, head=b"", body=b""))

    assert (shown.status, shown.reason, shown.headers, shown.body, shown.problems) == (None, "", None, None, ())


def test_without_the_response_its_columns_are_not_touched():
    """They are not even loaded for those who may not see them."""
    shown = present(row(head=None, body=None), response=False)

    assert (shown.status, shown.reason, shown.headers, shown.body) == (201, "Created", None, None)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xff\xfe\x00",
        b"{}",
        b"[]",
        b"null",
        b'["OK"]',
        b'["OK", [["a"]]]',
        b'["OK", [["a", "b", "c"]]]',
        b'["OK", [["a", 1]]]',
        b'["OK", [[1, "a"]]]',
        b'[1, [["a", "b"]]]',
        b"[" * 100_000,
        b'["OK", 5]',
    ],
)
def test_a_broken_head_is_said(head):
    """The body is shown all the same."""
    shown = present(row(head=head))

    assert shown.headers is None
    assert len(shown.problems) == 1
    assert shown.reason == "Created"
    assert shown.body.text == '{\n  "id": 1\n}'


@pytest.mark.parametrize("status", [2, 99, 299, 999, 32767])
def test_a_status_that_http_does_not_know(status):
    assert (present(row(status=status)).status, present(row(status=status)).reason) == (status, "")


def test_a_reason_of_its_own():
    assert present(row(head=CompletionRecord(status=201, reason="Paid").head())).reason == "Paid"


def test_what_a_page_swallows_and_a_terminal_obeys_is_spelled_out():
    """NUL in a header, an escape sequence in a scope, a right-to-left override in a body."""
    head = CompletionRecord(status=200, reason="O\x00K", headers=(("X-A", "a\x00b\r\nc"), ("X-L", None))).head()
    shown = present(row(head=head, body="a\u202eb\x1b[2J\tc\r\nd".encode(), scope="\x1b[2Jme", request_id="\ud800"))

    assert shown.reason == r"O\x00K"
    assert shown.headers == (("X-A", r"a\x00b\r\nc"), ("X-L", None))
    assert shown.body.text == "a\\u202eb\\x1b[2J\tc\nd"
    assert shown.scope == r"\x1b[2Jme"
    assert shown.request_id == r"\ud800"


def test_a_line_stays_a_line():
    assert visible("a\tb\nc\u2028d") == r"a\tb\nc\u2028d"
    assert visible("a\tb\nc", lines=True) == "a\tb\nc"


@pytest.mark.parametrize("value", [{"a": [1, {"b": [], "c": {}}], "d": 'é,{}[]:"\\'}, [None, 1.5, -0.0], "text"])
def test_json_is_laid_out_as_python_does(value):
    """One member a line; characters are not escaped."""
    shown = answered(json.dumps(value).encode(), "application/problem+json; charset=utf-8").body

    assert shown.kind is BodyKind.JSON
    assert shown.text == json.dumps(value, indent=2, ensure_ascii=False)


def test_json_that_python_cannot_read_is_shown_as_it_is():
    """A number of 5,000 digits."""
    assert answered(b"[" + b"9" * 5000 + b"]", "application/json").body.text == f"[{'9' * 5000}]"


def test_the_margins_of_deep_json_do_not_fill_the_memory(monkeypatch):
    """Each level adds to each line, so that a body of 1 MiB could become one of a gigabyte."""
    monkeypatch.setattr(presentation, "LARGEST", 1000)
    body = b"[" * 60 + b"0," * 100 + b"0" + b"]" * 60

    shown = present(row(body=body), limit=None).body

    assert len(shown.text) == 1000
    assert shown.cut


@pytest.mark.parametrize(
    ("body", "content_type", "kind", "text"),
    [
        (b"", "application/json", BodyKind.EMPTY, ""),
        (b"{broken", "application/json", BodyKind.TEXT, "{broken"),
        (b"[" * 100_000, "application/json", BodyKind.TEXT, "[" * 65_536),
        (b"<script>alert(1)</script>", "text/html", BodyKind.TEXT, "<script>alert(1)</script>"),
        (b"<svg/>", "image/svg+xml", BodyKind.TEXT, "<svg/>"),
        (b"a\xffb", "text/plain", BodyKind.TEXT, r"a\xffb"),
        (b'{"a":"\xff"}', "application/json", BodyKind.TEXT, r'{"a":"\xff"}'),
        ("é".encode("latin-1"), "text/plain; charset=latin-1", BodyKind.TEXT, "é"),
        ("é".encode("utf-16"), "text/plain; charset=utf-16", BodyKind.TEXT, "é"),
        ("é".encode(), "text/plain; charset=punycode", BodyKind.TEXT, "é"),
        ("é".encode(), "text/plain; charset=iso-8859-99", BodyKind.TEXT, "é"),
        (b"%PDF-1.7", "application/pdf", BodyKind.BINARY, ""),
        (b"text", "application/octet-stream", BodyKind.BINARY, ""),
        (b"text", "x" * 20_000, BodyKind.TEXT, "text"),
        (b"text", None, BodyKind.TEXT, "text"),
        (b"[1]", None, BodyKind.JSON, "[\n  1\n]"),
        (b"te\x00xt", None, BodyKind.BINARY, ""),
        (b"\xff", None, BodyKind.BINARY, ""),
    ],
)
def test_bodies(body, content_type, kind, text):
    """JSON is laid out, text is readable, what is neither is its size; no body raises."""
    shown = answered(body, content_type).body

    assert shown.kind is kind
    assert shown.size == len(body)
    assert shown.text == text


def test_a_compressed_body_is_binary():
    assert answered(b"\x1f\x8b", "application/json", Content_Encoding="gzip").body.kind is BodyKind.BINARY


@pytest.mark.parametrize("content_type", ["text/plain", "application/json"])
def test_a_large_body_is_cut(content_type):
    """The page gets its beginning, a command that asks for all of it gets all of it."""
    record = row(
        head=CompletionRecord(status=200, headers=(("Content-Type", content_type),)).head(),
        body=json.dumps(["x" * 40] * 25_000, separators=(",", ":")).encode(),
    )
    shown, whole = present(record).body, present(record, limit=None).body

    assert shown.cut
    assert len(shown.text) == 64 * 1024
    assert shown.size == len(record.body) > 1024 * 1024
    assert not whole.cut
    assert whole.text.startswith(shown.text)


def test_a_small_body_is_whole():
    assert not answered(b"[1]", "application/json").body.cut


@pytest.mark.django_db
def test_the_clock_is_the_databases(api):
    """What the database has let expire has expired, whatever time it is here."""
    answer = api.post("/pay/", {"amount": 1}, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 201
    digest = bytes(IdempotencyRecord.objects.get().digest)
    assert present(stores["default"].find(None, digest)).state is State.COMPLETED

    IdempotencyRecord.objects.update(expires_at=DatabaseNow())
    found = stores["default"].find(None, digest)
    shown = present(found)

    assert shown.state is State.EXPIRED
    assert found.now >= found.expires_at
    assert json.loads(shown.body.text) == answer.json()
