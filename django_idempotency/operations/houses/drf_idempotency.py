"""drf-idempotency 1.0: rows of its `DatabaseBackend`, or JSON in the Redis of its `RedisBackend`."""

import json
from base64 import b64decode
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db import models
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from django_idempotency.core.moved import Moved
from django_idempotency.operations.houses.base import (
    UNREADABLE,
    Foreign,
    House,
    Source,
    answer,
    count_rows,
    rows,
    table,
)
from django_idempotency.operations.houses.redis_keys import count_keys, values

PREFIX = "idempotency:"
Row = table(
    "drf_idempotency_idempotencyrecord",
    id=models.BigAutoField(primary_key=True),
    key=models.CharField(max_length=255),
    fingerprint=models.CharField(max_length=64),
    status=models.CharField(max_length=16),
    response_status_code=models.PositiveSmallIntegerField(null=True),
    response_headers=models.JSONField(),
    response_body=models.TextField(),
    created_at=models.DateTimeField(),
    expires_at=models.DateTimeField(),
)


class DrfIdempotency(House):
    """Keeps the key and the answer, but not the user."""

    package = "drf-idempotency"
    in_redis = True

    def count(self, source: Source) -> int:
        return count_rows(Row, source) if source.redis is None else count_keys(source, PREFIX)

    def read(self, source: Source) -> Iterator[Foreign | str]:
        if source.redis is None:
            for row in rows(Row, source):
                yield _foreign(row.key, vars(row), row.created_at, row.expires_at)
            return
        for key, value, expires_at in values(source, PREFIX):
            try:
                stored = json.loads(value)
                began_at = parse_datetime(stored["created_at"]) or timezone.now()
                yield _foreign(key, stored, began_at, expires_at)
            except (KeyError, TypeError, ValueError):
                yield UNREADABLE


def _foreign(key: str, stored: dict[str, Any], began_at: datetime, expires_at: datetime | None) -> Foreign | str:
    moved = Moved(package=DrfIdempotency.package, name=key, fingerprint=stored["fingerprint"].encode())
    if stored["status"] != "completed":
        # Its lock ends sooner, but says nothing about what a killed process has done.
        return Foreign(moved=moved, answer=None, began_at=began_at, expires_at=None)
    try:
        body = b64decode(stored["response_body"] or "", validate=True)
        given = answer(stored["response_status_code"], stored["response_headers"] or {}, body)
    except (AttributeError, TypeError, ValueError):
        given = None
    return Foreign(moved=moved, answer=given, began_at=began_at, expires_at=expires_at)
