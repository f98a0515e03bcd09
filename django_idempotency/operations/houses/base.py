"""What the houses have in common: where records are read from, and what is made of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from django.apps.registry import Apps
from django.db import models

from django_idempotency.core.moved import Moved
from django_idempotency.core.operator_answer import reason_phrase
from django_idempotency.core.record import CompletionRecord, storable_headers

UNREADABLE = "unreadable"
BATCH_SIZE = 500  # rows, or keys of Redis, that are read at once


class CannotRead(Exception):
    """The place of the records, or a record, cannot be read; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a package keeps its records: the database *using*, or the Redis of a URL."""

    using: str
    redis: str | None = None
    prefix: str | None = None  # of Redis keys; None for the package's default
    table: str | None = None  # None for the package's default


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """
    A record of another package. Without an *answer* its outcome is unknown, because its request is in flight, was
    killed, or its answer was not stored whole.

    It lives until *expires_at*; None if the package does not say so, and then for the project's `ttl` from *began_at*.
    """

    moved: Moved
    answer: CompletionRecord | None
    began_at: datetime
    expires_at: datetime | None


class House(ABC):
    """One package. A record that nothing can be made of is a string in the place of a `Foreign`: the reason."""

    package: ClassVar[str]
    knows_caller: ClassVar[bool] = False
    """Does it keep its records apart by the user?"""

    in_redis: ClassVar[bool] = False
    """May its records be in a Redis?"""

    @abstractmethod
    def count(self, source: Source) -> int:
        """About how many records there are, for a progress bar."""

    @abstractmethod
    def read(self, source: Source) -> Iterator[Foreign | str]:
        """Yield each record in *source*. Raises `CannotRead`, and what the server raises."""


def answer(status: object, headers: Mapping[str, str], body: bytes) -> CompletionRecord:
    """The answer of *status* with *headers* and *body*. Raises `ValueError` if it cannot be sent."""
    if not isinstance(status, int):
        raise ValueError(f"its status is {status!r}")
    record = CompletionRecord(
        status=status,
        reason=reason_phrase(status),
        headers=storable_headers([(str(name), str(value)) for name, value in headers.items()]),
        body=body,
    )
    return CompletionRecord.from_stored(record.status, record.head(), record.body, "")  # as a replay will read it


def table(name: str, **fields: Any) -> type[models.Model]:
    """
    A model of the table *name*, which is no part of the project: no migration, no admin, no relations. Django's fields
    read the columns of any database.
    """
    meta = type("Meta", (), {"apps": Apps(), "app_label": "moved", "db_table": name, "managed": False})
    return type("Row", (models.Model,), {"__module__": __name__, "Meta": meta, **fields})


def count_rows(model: Any, source: Source) -> int:
    found: int = model.objects.using(source.using).count()
    return found


def rows(model: Any, source: Source) -> Iterator[Any]:
    """
    Yield the rows of *model* in the order of their primary keys, page by page, so that no transaction stays open.

    Raises `CannotRead` if the database has no such table.
    """
    from django.db import connections

    name = model._meta.db_table
    if name not in connections[source.using].introspection.table_names():
        raise CannotRead(f"database {source.using!r} has no table {name!r}")
    found = model.objects.using(source.using).order_by("pk")
    page = list(found[:BATCH_SIZE])
    while page:
        yield from page
        page = list(found.filter(pk__gt=page[-1].pk)[:BATCH_SIZE])
