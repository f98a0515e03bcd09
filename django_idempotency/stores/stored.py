"""Values that a store returns to operators: a stored record, and its location."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django_idempotency.core.record import TOMBSTONE, CompletionRecord
from django_idempotency.encryption import open_answer
from django_idempotency.exceptions import StoreUnavailable
from django_idempotency.stores.schemas import in_schema

if TYPE_CHECKING:
    from django_idempotency.stores.base import Fault, Store

UNKNOWN = datetime(1970, 1, 1, tzinfo=UTC)  # a time that is not stored, or not by this package
STORE = "store:"  # in a `pk`, before the alias of a store outside the databases


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """
    A place of records: the table in the database *using* (and in a tenant's *schema*), or a store outside the
    databases. Each verb raises what the server raises.
    """

    store: "Store"  # any of those that share the table
    using: str | None = None
    schema: str | None = None

    def __str__(self) -> str:
        if self.using is None:
            return f"store {self.store.alias!r}"
        schema = "" if self.schema is None else f", schema {self.schema!r}"
        return f"database {self.using!r}{schema}"

    def selected(self) -> AbstractContextManager[None]:
        """Let the connection work in the location's schema."""
        return in_schema(self.using or "", self.schema)

    def find(self, digest: bytes) -> "StoredRecord | None":
        """Find what is stored for the identity *digest*; None for a claim in flight."""
        with self.selected():
            return self.store.find(self.using, digest)

    def unsettled(self, limit: int) -> "list[StoredRecord]":
        """List at most *limit* unsettled outcomes, the oldest first."""
        with self.selected():
            return self.store.unsettled(self.using, limit)

    def classify(self, error: Exception) -> "Fault":
        """Say what *error* of the server means."""
        return self.store.classify(self.using, error)

    def pk(self, digest: bytes) -> str:
        """
        The name of the identity *digest* in URLs and in `LogEntry.object_id`: its 64 hexadecimal digits, then `@alias`
        for a database that is not the store's own choice, or `@store:alias` for a store outside the databases.
        """
        if self.using is None:
            return f"{digest.hex()}@{STORE}{self.store.alias}"
        return digest.hex() if self.using == self.store.database() else f"{digest.hex()}@{self.using}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """
    The run in phases whose claim a record is, as it was read. Its times are like those of `StoredRecord`.

    *results* are those of the *finished* phases, or None if they were not asked for. *phase* and *error* are what the
    last attempt that could say so has left.
    """

    token: str = field(repr=False)  # of its owner, a new one for each attempt and for each decision of an operator
    ends_at: datetime  # of the lease
    attempts: int
    doubt: int  # NO_DOUBT, UNSURE, REFUSED or GIVEN_UP of `models`
    phase: str
    error: str
    resume_until: datetime
    is_sent: bool  # Is its request stored, so that the resumer can send it again?
    finished: tuple[str, ...]
    results: tuple[Any, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """
    The record or claim of one identity. Its times are aware and in UTC; *now* is the server's own time of the reading,
    by which the record has expired or not; None for *expires_at* if it never does.

    The *status* of an unsettled outcome is 0, that of a tombstone may be 1. A record without a *fingerprint* was not
    written by this package, or only in part, and only its identity is known.
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
    unreadable: str = ""  # why head and body, which are empty then, cannot be decrypted
    executed_at: datetime
    expires_at: datetime | None
    now: datetime
    location: Location
    ended: bool = False  # Has its answer ended, although the record has not expired?
    is_in_flight: bool = False  # a claim whose request runs, from `Store.of_scope` or `Store.peek`
    is_interrupted: bool = False  # the claim of a run that nobody works on now, and that a retry goes on with
    run: StoredRun | None = None  # of a claim in phased mode

    def __str__(self) -> str:
        return self.digest.hex()

    @property
    def pk(self) -> str:
        """Its name, as in `Location.pk`."""
        return self.location.pk(self.digest)

    @property
    def is_live(self) -> bool:
        """Has it not expired, by the server's own clock?"""
        return self.expires_at is None or self.expires_at > self.now

    @property
    def is_unsettled(self) -> bool:
        return self.status == 0

    @property
    def is_tombstone(self) -> bool:
        """Does no answer live on, but the key stays taken?"""
        return self.ended or self.status == TOMBSTONE

    @property
    def record(self) -> CompletionRecord | None:
        """
        The stored answer, or None for an unsettled outcome and for a tombstone. Raises as
        `CompletionRecord.from_stored` does.
        """
        if self.is_unsettled or self.is_tombstone:
            return None
        return CompletionRecord.from_stored(self.status, self.head, self.body, self.request_id)


def claim_in_flight(location: Location, digest: bytes, scope: str = "") -> StoredRecord:
    """A claim of which nothing is known but that its request runs."""
    times: Any = {"executed_at": UNKNOWN, "expires_at": None, "now": UNKNOWN}
    return StoredRecord(digest=digest, scope=scope, location=location, is_in_flight=True, **times)


def open_fields(scope: str, digest: bytes, status: int, head: bytes, body: bytes) -> dict[str, Any]:
    """Head and body of a `StoredRecord`, or why they cannot be decrypted."""
    if status > TOMBSTONE:
        try:
            head, body = map(bytes, open_answer(scope, digest, status, head, body))
        except (StoreUnavailable, ValueError) as error:
            return {"head": b"", "body": b"", "unreadable": str(error)}
    return {"head": head, "body": body}
