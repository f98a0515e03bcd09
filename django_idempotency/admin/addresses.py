"""How the admin's URLs and its log name a record: its identity, and where it is, if that is not the usual database."""

import re
from dataclasses import dataclass
from typing import Self

from django.db import connections, router

from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations import locations
from django_idempotency.operations.locations import Place

IDENTITY = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)
_ADDRESS = re.compile(rf"(?P<digest>{IDENTITY.pattern})(?:@(?P<where>.+))?", re.IGNORECASE | re.DOTALL)
_STORE = "store:"  # before the alias of a store that has no table

SHORT = 12  # of the identity's hexadecimal digits, in titles


def usual() -> str:
    """The alias of the database that records are written to where nothing else is said; a replica may lag."""
    return router.db_for_write(IdempotencyRecord)


def databases() -> list[str]:
    """The aliases that may hold records, by the project's routers, the usual one first."""
    others = [alias for alias in connections if router.allow_migrate_model(alias, IdempotencyRecord)]
    return [usual(), *[alias for alias in others if alias != usual()]]


def has_records(alias: str | None) -> bool:
    """Is *alias* one of `databases()`, and is the table there? Where no router says no, it need not be."""
    if alias is None or alias == usual():
        return alias is not None
    if alias not in databases():
        return False
    return IdempotencyRecord._meta.db_table in connections[alias].introspection.table_names()


@dataclass(frozen=True, slots=True)
class Address:
    """
    Where a record is: in the database *using*, or in a *store* that has no table; then *using* is empty.

    The admin's own templates take it for the record: they write its `pk` into links and show its text, which is short.
    """

    using: str
    digest: bytes
    store: str = ""

    @classmethod
    def of(cls, record: IdempotencyRecord) -> Self:
        store = getattr(record, "store", "")  # of one that is no row
        return cls("" if store else record._state.db or usual(), bytes(record.digest), store)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The address whose `pk` *text* is, or None."""
        found = _ADDRESS.fullmatch(text)
        if found is None:
            return None
        digest, where = bytes.fromhex(found["digest"]), found["where"] or usual()
        if where.startswith(_STORE):
            alias = where.removeprefix(_STORE)
            return cls("", digest, alias) if alias in locations.others() else None
        return cls(where, digest) if has_records(where) else None

    @property
    def place(self) -> Place | None:
        """Where it is; None for a database in which no store keeps records any more."""
        if self.store:
            return locations.others()[self.store]
        return next(iter(locations.tables([self.using])), None)

    def __str__(self) -> str:
        return f"{self.digest.hex()[:SHORT]}…"

    @property
    def pk(self) -> str:
        """
        What stands in URLs and in `LogEntry.object_id`: the identity's 64 hexadecimal digits, with `@alias` after them
        for another database than the usual one, and `@store:alias` for a store that has no table.
        """
        identity = self.digest.hex()
        if self.store:
            return f"{identity}@{_STORE}{self.store}"
        return identity if self.using == usual() else f"{identity}@{self.using}"
