"""Records for the tests of operations, written without a request."""

from collections.abc import Iterable
from datetime import timedelta
from itertools import count
from typing import Any

from django.utils import timezone

from django_idempotency.core.keys import Identity
from django_idempotency.core.record import CompletionRecord
from django_idempotency.models import IdempotencyRecord

numbers = count(1)
ANSWER = CompletionRecord(
    status=201,
    reason="Created",
    headers=(("Content-Type", "application/json"), ("Content-Length", None), ("Location", "/payments/1/")),
    body=b'{"id":1,"amount":10}',
)


def record(
    key: str | None = None,
    *,
    scope: str = "auth.user:1",
    operation: str = "POST pay/",
    expires_in: float = 3600,  # seconds
    answer: CompletionRecord | None = ANSWER,
    **fields: Any,
) -> IdempotencyRecord:
    """A row that is not saved. Without an *answer*, a claim whose outcome is unknown, and may expire if it has."""
    key = f"key-{next(numbers)}" if key is None else key
    now = timezone.now()
    values: dict[str, Any] = {
        "digest": Identity(scope, operation, key).digest,
        "scope": scope,
        "operation": operation,
        "key": key,
        "fingerprint": b"\x01" * 32,
        "request": "POST shop.example pay/",
        "request_id": "r-1",
        "executed_at": now - timedelta(hours=2),
        "expires_at": now + timedelta(seconds=expires_in),
    }
    if answer is None:
        values["uncertain_until"] = values["expires_at"] if expires_in < 0 else None
    else:
        values |= {"status": answer.status, "head": answer.head(), "body": answer.body}
    return IdempotencyRecord(**values | fields)


def save(records: Iterable[IdempotencyRecord], using: str = "default") -> list[IdempotencyRecord]:
    return IdempotencyRecord.objects.using(using).bulk_create(records)


def expired(number: int, using: str = "default", **fields: Any) -> list[IdempotencyRecord]:
    """Save *number* records that have expired, each a second before the next, the oldest first."""
    return save([record(expires_in=age - number - 60, **fields) for age in range(number)], using)


def live(number: int, using: str = "default") -> list[IdempotencyRecord]:
    """Save *number* records that have not."""
    return save([record() for _ in range(number)], using)
