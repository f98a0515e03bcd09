"""How the admin's URLs and its log name a record: its identity, and its database where that is not the usual one."""

import re
from dataclasses import dataclass
from typing import Self

from django.db import connections, router

from django_idempotency.models import IdempotencyRecord

_ADDRESS = re.compile(r"(?P<digest>[0-9a-f]{64})(?:@(?P<using>.+))?", re.IGNORECASE | re.DOTALL)

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
    Where a record is.

    The admin's own templates take it for the record: they write its `pk` into links and show its text, which is short.
    """

    using: str
    digest: bytes

    @classmethod
    def of(cls, record: IdempotencyRecord) -> Self:
        return cls(record._state.db or usual(), bytes(record.digest))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The address whose `pk` *text* is, or None."""
        found = _ADDRESS.fullmatch(text)
        if found is None:
            return None
        using = found["using"] or usual()
        return cls(using, bytes.fromhex(found["digest"])) if has_records(using) else None

    def __str__(self) -> str:
        return f"{self.digest.hex()[:SHORT]}…"

    @property
    def pk(self) -> str:
        """
        What stands in URLs and in `LogEntry.object_id`: the identity's 64 hexadecimal digits, with `@alias` after them
        for another database than the usual one.
        """
        identity = self.digest.hex()
        return identity if self.using == usual() else f"{identity}@{self.using}"
