"""What a store shows to operators: a record as it was read, and where it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, cast

from django_idempotency.core.record import CompletionRecord
from django_idempotency.stores.schemas import in_schema

if TYPE_CHECKING:
    from django_idempotency.stores.base import Fault, Store, TransactionalStore

STORE = "store:"  # in a `pk`, before the alias of a store outside the databases


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """
    Where records are: the table in the database *using* (and in *schema*, if the connection works in that of a tenant),
    or a store outside the databases. Each verb raises what the server raises.
    """

    store: "Store"  # of several that share the table, any
    using: str | None = None
    schema: str | None = None

    def __str__(self) -> str:
        if self.using is None:
            return f"store {self.store.alias!r}"
        schema = "" if self.schema is None else f", schema {self.schema!r}"
        return f"database {self.using!r}{schema}"

    @contextmanager
    def selected(self) -> Iterator[None]:
        """Let the connection work in the location's schema."""
        if self.using is None:
            yield
        else:
            with in_schema(self.using, self.schema):
                yield

    def find(self, digest: bytes) -> "StoredRecord | None":
        """What is stored for the identity *digest*; None for a claim in flight."""
        with self.selected():
            return self.store.find(self.using, digest)

    def unsettled(self, limit: int) -> "list[StoredRecord]":
        """At most *limit* unsettled outcomes, the oldest first."""
        with self.selected():
            return self.store.unsettled(self.using, limit)

    def classify(self, error: Exception) -> "Fault":
        """What *error*, raised by the server, means."""
        return self.store.classify(self.using, error)

    def pk(self, digest: bytes) -> str:
        """
        The name of the identity *digest* in URLs and in `LogEntry.object_id`: its 64 hexadecimal digits, followed by
        `@alias` for a database that is not the store's own choice and by `@store:alias` for a store outside the
        databases.
        """
        if self.using is None:
            return f"{digest.hex()}@{STORE}{self.store.alias}"
        own = cast("TransactionalStore", self.store).database()
        return digest.hex() if self.using == own else f"{digest.hex()}@{self.using}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """
    What is stored for one identity. Its times are aware and in UTC; *now* is the server's own, when it was read, and
    decides whether the record has expired.

    The *status* of an unsettled outcome is 0. What has no *fingerprint* was not written by this package, or only in
    part: nothing but its identity is known.
    """

    digest: bytes
    scope: str = ""
    operation: str = ""
    key: str = ""
    fingerprint: bytes = b""
    request: str = ""  # method, host and route; empty for work that arrived without a request
    request_id: str = ""
    status: int = 0
    head: bytes = field(default=b"", repr=False)
    body: bytes = field(default=b"", repr=False)
    executed_at: datetime
    expires_at: datetime
    now: datetime
    location: Location

    def __str__(self) -> str:
        return self.digest.hex()

    @property
    def pk(self) -> str:
        """`Location.pk` of this record."""
        return self.location.pk(self.digest)

    @property
    def is_unsettled(self) -> bool:
        return self.status == 0

    @property
    def record(self) -> CompletionRecord | None:
        """The stored answer, or None if the outcome is unsettled. Raises as `CompletionRecord.from_stored` does."""
        if self.is_unsettled:
            return None
        return CompletionRecord.from_stored(self.status, self.head, self.body, self.request_id)
