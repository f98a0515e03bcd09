"""The base of all dialects: the statements that databases have in common."""

import logging
from datetime import datetime
from typing import Any, ClassVar

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from django_idempotency.core.decision import Claimed, ClaimResult, Completed, Expired, Unsettled
from django_idempotency.core.keys import MAX_STRING, Attempt
from django_idempotency.core.record import TOMBSTONE, CompletionRecord
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.models import UNSETTLED, AnswerEnd, IdempotencyRecord, PhasedRun
from django_idempotency.stores.base import Fault

logger = logging.getLogger("django_idempotency")

TABLE = IdempotencyRecord._meta.db_table
ENDS = AnswerEnd._meta.db_table
RUNS = PhasedRun._meta.db_table


class Dialect:
    """
    The claim protocol of one kind of database.

    Each statement runs on the caller's cursor, in the caller's transaction. Expiry is by the database's clock.
    """

    NOW: ClassVar[str]
    LATER: ClassVar[str]  # NOW plus the parameter that `ttl` returns
    # A record's lifetime counts from its completion. It is written anew only if the handler took over 1 % of it,
    # because a changed column in an index costs more.
    EXPIRES: ClassVar[str]
    ENDS_AT: ClassVar[str]  # EXPIRES minus the parameter that `earlier` returns
    # How a row of ENDS replaces one that an earlier execution has left.
    INSERT, REPLACE = (
        "INSERT",
        " ON CONFLICT (digest) DO UPDATE SET executed_at = excluded.executed_at, ends_at = excluded.ends_at",
    )
    EXECUTED: ClassVar[str] = "executed_at = %s"
    RECORD = "status, fingerprint, head, body, request_id"  # in the order of `read_row`
    looks_up_first: ClassVar[bool] = False  # Is a replay cheaper if it is found before the transaction begins?

    def __init__(self) -> None:
        self.FIND = f"SELECT {self.RECORD} FROM {TABLE} WHERE digest = %s AND expires_at > {self.NOW}"
        self.COMPLETE = (
            f"UPDATE {TABLE} SET status = %s, head = %s, body = %s, expires_at = {self.EXPIRES}"
            " WHERE digest = %s AND status = 0"
        )
        idle = (
            f"NOT EXISTS (SELECT 1 FROM {RUNS} n WHERE n.digest = {TABLE}.digest"
            f" AND n.executed_at = {TABLE}.executed_at AND n.ends_at > {self.NOW})"
        )
        self.SETTLE = f"{self.COMPLETE} AND {self.EXECUTED} AND expires_at > {self.NOW} AND {idle}"
        self.FREE = f"DELETE FROM {TABLE} WHERE digest = %s AND {self.EXECUTED} AND {idle}"
        self.END_RUN = (
            f"DELETE FROM {RUNS} WHERE digest = %s AND NOT EXISTS (SELECT 1 FROM {TABLE} r"
            f" WHERE r.digest = {RUNS}.digest AND r.executed_at = {RUNS}.executed_at AND r.status = {UNSETTLED})"
        )
        self.FREE_UNSETTLED = f"{self.FREE} AND status = 0"
        self.END = (
            f"{self.INSERT} INTO {ENDS} (digest, executed_at, ends_at)"
            f" SELECT digest, executed_at, {self.ENDS_AT} FROM {TABLE} WHERE digest = %s AND status = 0{self.REPLACE}"
        )
        # The purge may have dropped the answer, and its end, since the record was read.
        self.HAS_ENDED = (
            f"SELECT 1 FROM {TABLE} r WHERE r.digest = %s AND (r.status = {TOMBSTONE} OR EXISTS (SELECT 1 FROM {ENDS} e"
            f" WHERE e.digest = r.digest AND e.executed_at = r.executed_at AND e.ends_at <= {self.NOW}))"
        )
        self.STATUS = f"SELECT status FROM {TABLE} WHERE digest = %s"

    def claim(self, cursor: CursorWrapper, attempt: Attempt) -> ClaimResult:
        """Claim, or find what prevents it. Raises `LostRace` if only a new transaction can tell."""
        raise NotImplementedError

    def complete(self, cursor: CursorWrapper, digest: bytes, claim: Claimed, record: CompletionRecord) -> bool:
        """Write the record on the claim's row. Returns False if that row is not this transaction's claim any more."""
        raise NotImplementedError

    def end_answer(self, cursor: CursorWrapper, attempt: Attempt) -> None:
        """Let the answer, which is about to be written on the claim's row, end `tombstone_ttl` before that row."""
        cursor.execute(self.END, (self.earlier(attempt), attempt.identity.digest))

    def has_ended(self, cursor: CursorWrapper, digest: bytes) -> bool:
        """Has the answer of the identity's live row ended?"""
        cursor.execute(self.HAS_ENDED, (digest,))
        return self.fetch_row(cursor) is not None

    def is_aborted(self, error: Exception) -> bool:
        """Does *error*, raised by `complete`, mean that the claim's transaction had already ended or failed?"""
        raise NotImplementedError

    def classify(self, connection: BaseDatabaseWrapper, error: Exception) -> Fault:
        """Say what *error* means before the handler has run, by its sqlstate or errno, never by its class."""
        raise NotImplementedError

    def fetch_row(self, cursor: CursorWrapper) -> Any:
        """Fetch the statement's row, or None, and its late errors."""
        return cursor.fetchone()

    def look_up(self, cursor: CursorWrapper, attempt: Attempt) -> Completed | Unsettled | Expired | None:
        """Find the live record that this transaction can see, by one plain SELECT."""
        cursor.execute(self.FIND, (attempt.identity.digest,))
        row = self.fetch_row(cursor)
        return None if row is None else read_row(row, attempt)

    def change(
        self, cursor: CursorWrapper, statement: str, digest: bytes, executed_at: datetime | None, *values: Any
    ) -> bool:
        """
        Execute FREE, FREE_UNSETTLED or SETTLE, whose parameters are *values*, the identity and its time of execution.

        Returns False if nothing is stored. Raises `RequestInProgress` if a rival's claim is on the row, or if the row
        belongs to another execution or has an answer.
        """
        if not self.hold(cursor, digest):
            return False
        cursor.execute(statement, (*values, digest, cursor.db.ops.adapt_datetimefield_value(executed_at)))
        if cursor.rowcount:
            cursor.execute(self.END_RUN, (digest,))
            return True
        if self.status(cursor, digest) is None:
            return False
        raise RequestInProgress("A request with this key was executed meanwhile. Look at its new record.")

    def hold(self, cursor: CursorWrapper, digest: bytes) -> bool:
        """
        Take the claim's own lock until the transaction ends, without waiting. Returns False if there is no row.

        Raises `RequestInProgress` if a rival has the lock.
        """
        return True

    def ttl(self, attempt: Attempt) -> Any:
        """The parameter of LATER."""
        return attempt.occupied

    def earlier(self, attempt: Attempt) -> Any:
        """The parameter of ENDS_AT."""
        return attempt.tombstone_ttl

    def status(self, cursor: CursorWrapper, digest: bytes) -> int | None:
        """Find the status of the identity's row, expired or not."""
        cursor.execute(self.STATUS, (digest,))
        row = self.fetch_row(cursor)
        return None if row is None else row[0]


def upsert(values: str, now: str) -> str:
    """The claim of PostgreSQL and SQLite: insert *values*, a SELECT or VALUES, or take over an expired row."""
    return f"""
        INSERT INTO {TABLE} AS r (digest, fingerprint, scope, operation, key, request, request_id,
                                  status, head, body, executed_at, expires_at)
        {values}
        ON CONFLICT (digest) DO UPDATE SET
            fingerprint = excluded.fingerprint, scope = excluded.scope, operation = excluded.operation,
            key = excluded.key, request = excluded.request, request_id = excluded.request_id,
            status = 0, head = excluded.head, body = excluded.body,
            executed_at = excluded.executed_at, expires_at = excluded.expires_at
        WHERE r.expires_at <= {now}
    """


def read_row(row: Any, attempt: Attempt) -> Completed | Unsettled | Expired:
    """Turn a row of `Dialect.RECORD` into the answer to *attempt*."""
    status, fingerprint, head, body, request_id = row
    if status == UNSETTLED:
        # A call from inside our own claim joins it before any statement, and a rival's row is invisible or locked while
        # the rival lives. So this claim is committed: its handler ended the transaction by itself.
        return Unsettled(bytes(fingerprint))
    if status == TOMBSTONE:
        return Expired(bytes(fingerprint))
    try:
        record = CompletionRecord.from_stored(status, head, body, request_id)
    except (RecursionError, TypeError, ValueError) as error:
        logger.error("The record of %s cannot be read, because its row was changed: %s", attempt.identity, error)
        return Unsettled(bytes(fingerprint))
    return Completed(record, bytes(fingerprint))


def claim_values(attempt: Attempt) -> tuple[bytes, bytes, str, str, str, str, str]:
    """The values of a claim: digest, fingerprint, scope, operation, key, request, request id."""
    identity = attempt.identity
    return (
        identity.digest,
        attempt.fingerprint,
        identity.scope[:MAX_STRING],
        identity.operation[:MAX_STRING],
        identity.key,
        attempt.request[:MAX_STRING],
        attempt.request_id[:MAX_STRING],
    )
