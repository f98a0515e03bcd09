"""What is stored cannot end a line of an answer: through a handler or a row that was changed."""

import json
from typing import Any

import pytest

from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import plain, post
from tests.app.views import answer, make_payment

EVIL = "a\r\nX-Injected: 1\r\n\r\n<script>injected</script>"

# What is written into a record's head: reason, and pairs of headers.
HEADS: dict[str, list[Any]] = {
    "value, CR LF": ["Created", [["X-A", EVIL]]],
    "value, LF": ["Created", [["X-A", EVIL.replace("\r", "")]]],
    "value, CR": ["Created", [["X-A", EVIL.replace("\n", "")]]],
    "name": ["Created", [[f"X-A: {EVIL}", "1"]]],
    "content type": ["Created", [["Content-Type", f"text/html; {EVIL}"]]],
    "location": ["Found", [["Location", f"/{EVIL}"]]],
}
REASONS: dict[str, list[Any]] = {"CR LF": [EVIL, []], "LF": [EVIL.replace("\r", ""), []]}
REQUEST = (
    b"POST /act/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\nConnection: close\r\n"
    b'Idempotency-Key: k\r\n\r\n{"amount": 1}'
)


@pytest.mark.django_db
@pytest.mark.parametrize("where", ["value", "name"])
def test_a_handler_that_is_talked_into_it_commits_nothing(protect, client, serve, where):
    """Django refuses such a header; the work is rolled back, so there is no record of it either."""

    def handler(request: Any) -> Any:
        response = make_payment(request)
        name, value = ("X-A", EVIL) if where == "value" else (EVIL, "1")
        response[name] = value
        return response

    serve(protect(handler))

    for _ in range(2):
        response = post(client)
        assert response.status_code == 500
        assert b"injected" not in response.content
    assert not Payment.objects.exists()
    assert not IdempotencyRecord.objects.exists()


def wrong_answers(send: Any, heads: dict[str, list[Any]]) -> list[Any]:
    """What a real server sends for a row of each of *heads* that must not be sent."""
    assert b" 201 " in send(REQUEST)
    wrong: list[Any] = []
    for name, head in heads.items():
        IdempotencyRecord.objects.update(head=json.dumps(head).encode(), body=b"<p>secret</p>")
        for _ in range(2):
            status, *lines = send(REQUEST).splitlines()
            if int(status.split()[1]) != 409:
                wrong.append((name, status))
            wrong += [(name, line) for line in lines if line.startswith(b"X-Inj") or b"injec" in line or b"sec" in line]
    return wrong


@pytest.mark.django_db(transaction=True)
def test_a_changed_header_splits_no_answer(serve, send):
    """No line of the row's own, nothing of the stored answer, and nothing runs again."""
    serve(plain(make_payment))

    assert wrong_answers(send, HEADS) == []
    assert Payment.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_changed_reason_splits_no_answer(serve, send):
    """Nor does the text beside the status."""
    serve(plain(make_payment))

    assert wrong_answers(send, REASONS) == []
    assert Payment.objects.count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("head", [b"", b"\xff", b"{", b"null", b"[]", b'["", [["a"]]]', b"[" * 999])
def test_a_row_that_is_no_record_reveals_nothing(protect, client, serve, head):
    """What this package has not written is not read out, and does not let the work run again."""
    serve(protect(lambda request: answer(request, {"secret": Payment.objects.create(amount=1).pk})))
    assert post(client).status_code == 201
    IdempotencyRecord.objects.update(head=head)

    for _ in range(2):
        response = post(client)
        assert response.status_code == 409
        assert b"secret" not in response.content
    assert Payment.objects.count() == 1
