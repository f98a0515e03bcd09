"""idemkit 1.0: rows of its `PostgresBackend`, or JSON in the Redis of its `RedisBackend`."""

import json
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from django.db import models

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

TABLE = "idemkit_records"
DIGEST = re.compile(r"[0-9a-f]{64}")  # of its keys; without a prefix others' keys may be in its Redis


def _row(name: str) -> type[models.Model]:
    return table(
        name,
        effective_key=models.TextField(primary_key=True),
        state=models.TextField(),
        fingerprint=models.TextField(),
        claimed_at=models.DateTimeField(),
        lease_until=models.DateTimeField(),  # when a completed record expires
        response_status=models.IntegerField(null=True),
        response_headers=models.JSONField(null=True),
        response_body=models.BinaryField(null=True),
    )


class Idemkit(House):
    """Keeps a digest of key, scope and place, and another one of the request."""

    package = "idemkit"
    in_redis = True

    def count(self, source: Source) -> int:
        return count_rows(_row(source.table or TABLE), source) if source.redis is None else count_keys(source, "")

    def read(self, source: Source) -> Iterator[Foreign | str]:
        if source.redis is None:
            for row in rows(_row(source.table or TABLE), source):
                yield _foreign(row.effective_key, vars(row), row.response_body, row.claimed_at, row.lease_until)
            return
        for key, value, expires_at in values(source, ""):
            name = key.removeprefix(":") if source.prefix else key
            if not DIGEST.fullmatch(name):
                continue
            try:
                stored = json.loads(value)
                body = b64decode(stored.get("response_body_b64") or "", validate=True)
                began_at = datetime.fromtimestamp(float(stored["claimed_at_ms"]) / 1000, UTC)
                yield _foreign(name, stored, body, began_at, expires_at)
            except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
                yield UNREADABLE


def _foreign(
    name: str, stored: Mapping[str, Any], body: Any, began_at: datetime, expires_at: datetime | None
) -> Foreign:
    moved = Moved(package=Idemkit.package, name=name, fingerprint=stored["fingerprint"].encode())
    if stored["state"] != "COMPLETED":
        # Its lease ends sooner, but says nothing about what a killed process has done.
        return Foreign(moved=moved, answer=None, began_at=began_at, expires_at=None)
    try:
        given = answer(stored["response_status"], stored["response_headers"] or {}, bytes(body or b""))
    except (AttributeError, TypeError, ValueError):
        given = None
    return Foreign(moved=moved, answer=given, began_at=began_at, expires_at=expires_at)
