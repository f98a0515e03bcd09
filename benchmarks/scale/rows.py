"""
Believable records, each of which is found again from its number alone.

Keys are UUIDs and digests the real ones, so that a request with the key of a row is a replay of it.
"""

import hashlib
import json
import random
import uuid
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from django_idempotency.core.keys import Identity

if TYPE_CHECKING:
    from django_idempotency.models import IdempotencyRecord

USERS = 1000
SPAN = timedelta(hours=20)  # over which the records were executed
TTL = timedelta(hours=24)
# Characters of scope, operation and body together: bodies of some 275, and thirteen rows that fill a PostgreSQL page.
# Else a bulk load leaves in each page a gap that takes a claim but not its record; requests leave no such gaps.
TEXT = 306
OTHERS = ("POST payments/<int:pk>/refund/", "POST orders/", "PATCH orders/<int:pk>/")  # 10 % of the rows each
COLUMNS = (
    "digest, scope, operation, {key}, fingerprint, request, request_id, status, head, body, executed_at, expires_at"
)
TYPES = ("bytea", *["varchar"] * 3, "bytea", *["varchar"] * 2, "int2", "bytea", "bytea", *["timestamptz"] * 2)
BATCH = 1000  # rows per INSERT


def key_of(number: int) -> str:
    return _uuid("key", number)


def user_of(number: int) -> int:
    return number % USERS + 1


def any_of(count: int) -> int:
    """A number from 1 to *count*."""
    return random.randint(1, count)  # noqa: S311 no secret


def is_replayable(number: int) -> bool:
    """Is it a 201 of the operation that the benchmark's view has?"""
    return number % 10 < 7 and number % 100 != 50 and number % 100_000 != 0


def rows(
    template: "IdempotencyRecord", numbers: range, newest: datetime, span: timedelta = SPAN
) -> Iterator[tuple[Any, ...]]:
    """
    A row of `COLUMNS` for each of the *numbers*, in the order of their execution.

    The last was executed at *newest*, the first *span* earlier. What no number decides is copied from the *template*,
    a record that a request has made.
    """
    oldest, step = newest - span, span / len(numbers)
    head = bytes(template.head)
    for place, number in enumerate(numbers, 1):
        kind = number % 10
        operation = template.operation if kind < 7 else OTHERS[kind - 7]
        identity = Identity(f"auth.user:{user_of(number)}", operation, key_of(number))
        executed_at = oldest + step * place
        unsettled = number % 100_000 == 0
        yield (
            identity.digest,
            identity.scope,
            identity.operation,
            identity.key,
            template.fingerprint,
            template.request,
            _uuid("request", number),
            0 if unsettled else 402 if number % 100 == 50 else 201,
            b"" if unsettled else head,
            b"" if unsettled else _body(number, TEXT - len(identity.scope) - len(operation)),
            executed_at,
            executed_at + TTL,
        )


def insert(records: Iterable[tuple[Any, ...]]) -> None:
    """Write *records*, made by `rows`, in the fastest way that the database has."""
    from django.db import connection, transaction

    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            columns = COLUMNS.format(key="key")
            with cursor.copy(f"COPY django_idempotency_record ({columns}) FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(TYPES)
                for record in records:
                    copy.write_row(record)
            return
        columns = COLUMNS.format(key=connection.ops.quote_name("key"))
        values = ", ".join(["%s"] * len(TYPES))
        statement = f"INSERT INTO django_idempotency_record ({columns}) VALUES ({values})"  # noqa: S608
        if connection.vendor == "sqlite":  # Django's converters take no part in raw SQL
            records = (
                (*record[:-2], *(str(moment.replace(tzinfo=None)) for moment in record[-2:])) for record in records
            )
        remaining = iter(records)
        while batch := list(islice(remaining, BATCH)):
            cursor.executemany(statement, batch)


def _uuid(kind: str, number: int) -> str:
    return str(uuid.UUID(hashlib.md5(f"{kind} {number}".encode(), usedforsecurity=False).hexdigest()))


def _body(number: int, length: int) -> bytes:
    fields = {"id": number, "amount": 1200, "currency": "EUR", "reference": f"invoice {number}", "note": ""}
    room = length - len(json.dumps(fields))
    note = hashlib.shake_128(f"note {number}".encode()).hexdigest(room // 2 + 1)[:room]
    return json.dumps({**fields, "note": note}).encode()
