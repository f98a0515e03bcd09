"""A store for unit tests: it keeps claims and records in the memory of one process, without a server."""

import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.checks import CheckMessage, Error

from django_idempotency.core.decision import Claimed, ClaimResult, Completed, Expired, InFlight, Unsettled
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import PolicyError, RequestInProgress
from django_idempotency.operations.counts import is_under_test
from django_idempotency.stores.base import Fault, LeasedStore
from django_idempotency.stores.stored import Location, StoredRecord

NEVER = float("inf")
LEASE_ENDED = "its lease has run out, and it has not answered"

# One lock for all such stores. A fork takes it first, so that no other thread holds it in the child.
_lock = threading.RLock()
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@dataclass(slots=True)
class _Entry:
    """What is stored for an identity: a claim, and its *record* once it has answered."""

    attempt: Attempt
    token: str
    executed_at: datetime
    began: float
    lease_ends: float
    taken_over: bool = False
    told: str = ""  # the token that got the reason why the outcome is unsettled
    unsettled: bool = False
    record: CompletionRecord | None = None
    answers_until: float = NEVER  # with a record

    @property
    def expires(self) -> float:
        """When the key is new again; infinite for an unknown outcome that stays."""
        attempt = self.attempt
        if self.record is not None:
            return self.answers_until + attempt.tombstone_ttl
        return NEVER if attempt.uncertain_ttl is None else max(self.began + attempt.uncertain_ttl, self.lease_ends)


class MemoryStore(LeasedStore):
    """
    For tests with neither a database nor a Redis. Its records end with the process, and no other process sees them. It
    takes no options. The check E014 refuses it outside of tests.
    """

    encrypts = True
    keeps_tombstones = True

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        for name in options:
            raise PolicyError(f"The MemoryStore {alias!r} has no option {name!r}: it takes none.")
        self.clear()

    def clear(self) -> None:
        """Forget everything, as for a new test."""
        with _lock:
            self._entries: dict[bytes, _Entry] = {}
            self._turned_away: set[str] = set()  # tokens of claims that were abandoned, or that an operator ended
            self._last = datetime.fromtimestamp(0, UTC)
            self._ahead = 0.0

    def advance(self, by: timedelta) -> None:
        """Let the time *by* pass, for this store only: leases run out, records expire."""
        with _lock:
            self._ahead += by.total_seconds()

    def _clock(self) -> float:
        return time.monotonic() + self._ahead

    def _now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._ahead)

    def _live(self, digest: bytes) -> _Entry | None:
        entry = self._entries.get(digest)
        if entry is not None and entry.expires <= self._clock():
            del self._entries[digest]
            return None
        return entry

    def _owned(self, attempt: Attempt, claim: Claimed) -> _Entry | None:
        """The claim of *attempt*, if it still is that of *claim* and has no record."""
        entry = self._live(attempt.identity.digest)
        return entry if entry is not None and entry.token == claim.token and entry.record is None else None

    # --- for requests ---

    def claim(self, attempt: Attempt, token: str, lease: float, *, take_over: bool) -> ClaimResult:
        with _lock:
            entry = self._live(attempt.identity.digest)
            if entry is None:
                if token in self._turned_away:
                    return InFlight(attempt.fingerprint)
                self._enter(attempt, token, lease)
                return Claimed(token)
            fingerprint = entry.attempt.fingerprint
            if self._has_ended(entry):
                return Expired(fingerprint)
            if entry.record is not None:
                return Completed(entry.record, fingerprint)
            if entry.token == token:
                return Claimed(token, taken_over=entry.taken_over)
            if entry.lease_ends > self._clock() or token in self._turned_away:
                return InFlight(fingerprint)
            if take_over and fingerprint == attempt.fingerprint:
                self._enter(attempt, token, lease)
                self._entries[attempt.identity.digest].taken_over = True
                return Claimed(token, taken_over=True)
            entry.told = entry.told or token
            return Unsettled(fingerprint, found_out=LEASE_ENDED if entry.told == token else "")

    def _enter(self, attempt: Attempt, token: str, lease: float) -> None:
        # Executions differ by their times, also if the clock is frozen.
        self._last = max(self._now(), self._last + timedelta(microseconds=1))
        ends = self._clock() + lease
        self._entries[attempt.identity.digest] = _Entry(attempt, token, self._last, self._clock(), ends)

    def hold(self, attempt: Attempt, token: str, lease: float) -> datetime | None:
        with _lock:
            entry = self._live(attempt.identity.digest)
            if entry is None or entry.record is not None or entry.attempt.fingerprint != attempt.fingerprint:
                return None
            if entry.token != token:
                if entry.lease_ends > self._clock():
                    return None
                entry.token, entry.unsettled = token, False
                entry.told = "" if entry.told == token else entry.told
                entry.lease_ends = self._clock() + lease
            return entry.executed_at

    def begin(self, attempt: Attempt, claim: Claimed, lease: float) -> bool:
        with _lock:
            if self._owned(attempt, claim) is None:
                return False
            self._enter(attempt, claim.token, lease)
            self._entries[attempt.identity.digest].taken_over = True
            return True

    def complete(self, attempt: Attempt, claim: Claimed, record: CompletionRecord) -> CompletionRecord | None:
        with _lock:
            entry = self._live(attempt.identity.digest)
            if entry is None and claim.token not in self._turned_away:
                self._enter(attempt, claim.token, 0.0)
            elif entry is None or entry.token != claim.token:
                same = entry is not None and entry.attempt.fingerprint == attempt.fingerprint
                return entry.record if entry is not None and same else None
            entry = self._entries[attempt.identity.digest]
            self._answer(entry, record)
            return record

    def _answer(self, entry: _Entry, record: CompletionRecord) -> None:
        entry.record = record
        entry.answers_until = self._clock() + entry.attempt.ttl

    def _has_ended(self, entry: _Entry) -> bool:
        """Is the entry a tombstone?"""
        return entry.answers_until <= self._clock()

    def release(self, attempt: Attempt, claim: Claimed) -> None:
        with _lock:
            if self._owned(attempt, claim):
                del self._entries[attempt.identity.digest]

    def abandon(self, attempt: Attempt, claim: Claimed, lease: float) -> None:
        with _lock:
            self.release(attempt, claim)
            self._turned_away.add(claim.token)

    def renew(self, attempt: Attempt, claim: Claimed, lease: float) -> bool:
        with _lock:
            entry = self._owned(attempt, claim)
            if entry is None or entry.unsettled:
                return False
            entry.lease_ends = self._clock() + lease
            entry.told = ""
            return True

    def mark_unsettled(self, attempt: Attempt, claim: Claimed) -> None:
        with _lock:
            entry = self._owned(attempt, claim)
            if entry is not None:
                entry.lease_ends = self._clock()
                entry.told, entry.unsettled = claim.token, True

    def classify(self, using: str | None, error: Exception) -> Fault:
        return Fault.OTHER

    # --- for operators ---

    def find(self, using: str | None, digest: bytes) -> StoredRecord | None:
        with _lock:
            entry = self._live(digest)
            return None if entry is None or self._in_flight(entry) else self._stored(entry)

    def peek(self, using: str | None, digest: bytes) -> StoredRecord | None:
        with _lock:
            entry = self._live(digest)
            return None if entry is None else replace(self._stored(entry), is_in_flight=self._in_flight(entry))

    def unsettled(self, using: str | None, limit: int) -> list[StoredRecord]:
        with _lock:
            live = [entry for digest in list(self._entries) if (entry := self._live(digest)) is not None]
            overdue = [entry for entry in live if entry.record is None and not self._in_flight(entry)]
            overdue.sort(key=lambda entry: entry.executed_at)
            return [self._stored(entry) for entry in overdue[:limit]]

    def of_scope(self, using: str | None, scope: str) -> Iterator[StoredRecord]:
        with _lock:
            live = [entry for digest in list(self._entries) if (entry := self._live(digest)) is not None]
            found = [
                replace(self._stored(entry), is_in_flight=self._in_flight(entry))
                for entry in live
                if entry.attempt.identity.scope == scope
            ]
        yield from found

    def free(self, using: str | None, digest: bytes, executed_at: datetime | None, *, unsettled: bool = False) -> bool:
        with _lock:
            entry = self._meant(digest, executed_at)
            if entry is None:
                return False
            if unsettled and entry.record is not None:
                raise RequestInProgress
            self._turned_away.add(entry.token)  # its owner may still be running
            del self._entries[digest]
            return True

    def settle(self, using: str | None, digest: bytes, executed_at: datetime | None, record: CompletionRecord) -> bool:
        with _lock:
            entry = self._meant(digest, executed_at)
            if entry is None:
                return False
            if entry.record is not None:
                raise RequestInProgress
            self._turned_away.add(entry.token)
            entry.token = ""
            self._answer(entry, record)
            return True

    def _meant(self, digest: bytes, executed_at: datetime | None) -> _Entry | None:
        """What is stored. Raises `RequestInProgress` if it is in flight, or is another execution."""
        entry = self._live(digest)
        if entry is not None and (self._in_flight(entry) or executed_at not in (None, entry.executed_at)):
            raise RequestInProgress
        return entry

    def _in_flight(self, entry: _Entry) -> bool:
        return entry.record is None and entry.lease_ends > self._clock()

    def _stored(self, entry: _Entry) -> StoredRecord:
        now = self._now()
        attempt, record = entry.attempt, entry.record
        return StoredRecord(
            digest=attempt.identity.digest,
            scope=attempt.identity.scope,
            operation=attempt.identity.operation,
            key=attempt.identity.key,
            fingerprint=attempt.fingerprint,
            request=attempt.request,
            request_id=attempt.request_id,
            status=0 if record is None else record.status,
            head=b"" if record is None else record.head(),
            body=b"" if record is None else record.body,
            executed_at=entry.executed_at,
            expires_at=None if entry.expires == NEVER else now + timedelta(seconds=entry.expires - self._clock()),
            now=now,
            location=Location(store=self),
            ended=self._has_ended(entry),
        )

    def check(self, databases: Collection[str] = ()) -> list[CheckMessage]:
        if is_under_test():
            return []
        return [
            Error(
                f"The store {self.alias!r} is a MemoryStore, which keeps records in the memory of one process: another"
                " worker runs a retry again, and a restart forgets everything.",
                hint="Configure it only in the settings of tests. The stores for servers are the DatabaseStore and the"
                " RedisStore.",
                id="django_idempotency.E014",
            )
        ]
