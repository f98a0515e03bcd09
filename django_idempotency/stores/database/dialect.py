"""The base of all dialects: the statements that databases have in common."""

import logging
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any, ClassVar

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from django_idempotency.core.decision import Claimed, ClaimResult, Completed, Expired, Unsettled
from django_idempotency.core.keys import MAX_STRING, Attempt
from django_idempotency.core.record import TOMBSTONE, CompletionRecord
from django_idempotency.encryption import open_answer
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.models import UNSETTLED, AnswerEnd, IdempotencyRecord, PhasedRun
from django_idempotency.stores.base import Fault

logger = logging.getLogger("django_idempotency")

TABLE = IdempotencyRecord._meta.db_table
ENDS = AnswerEnd._meta.db_table
RUNS = PhasedRun._meta.db_table

StoredAnswer = tuple[int, bytes, bytes]  # status, head and body, as the columns have them


class FoldedClaim(Claimed):
    """A claim that began its transaction, and whose record ends it."""

    __slots__ = ()


class Dialect:
    """
    The claim protocol of one kind of database.

    Each statement runs on the caller's cursor, in the caller's transaction. Expiry is by the database's clock.
    """

    NOW: ClassVar[str]
    LATER: ClassVar[str]  # NOW plus the parameter that `duration` returns; NULL plus NULL
    # A record's lifetime counts from its completion. It is written anew only if the handler took over 1 % of it,
    # because a changed column in an index costs more.
    EXPIRES: ClassVar[str]
    # EXPIRES minus the parameter's share of the time until then. Thus a handler that takes less than 1 % of both
    # lifetimes shortens each by less than 1 %: of a long tombstone, that may be more than all of the answer's own.
    ENDS_AT: ClassVar[str]
    # How a row of ENDS replaces one that an earlier execution has left.
    INSERT, REPLACE = (
        "INSERT",
        " ON CONFLICT (digest) DO UPDATE SET executed_at = excluded.executed_at, ends_at = excluded.ends_at",
    )
    EXECUTED: ClassVar[str] = "executed_at = %s"
    RECORD = "status, fingerprint, head, body, request_id"  # in the order of `read_row`
    looks_up_first: ClassVar[bool] = False  # Is a replay cheaper if it is found before the transaction begins?
    begins = False  # Is there a `begin`?

    def __init__(self) -> None:
        self.FIND = f"SELECT {self.RECORD} FROM {TABLE} WHERE digest = %s AND {live(self.NOW)}"
        self.COMPLETE = (
            f"UPDATE {TABLE} SET status = %s, head = %s, body = %s, expires_at = {self.EXPIRES}"
            " WHERE digest = %s AND status = 0"
        )
        idle = (
            f"NOT EXISTS (SELECT 1 FROM {RUNS} n WHERE n.digest = {TABLE}.digest"
            f" AND n.executed_at = {TABLE}.executed_at AND n.ends_at > {self.NOW})"
        )
        self.SETTLE = f"{self.COMPLETE} AND {self.EXECUTED} AND {live(self.NOW)} AND {idle}"
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
        self.HAS_END = f"SELECT 1 FROM {ENDS} WHERE digest = %s"
        self.FORGET_END = f"DELETE FROM {ENDS} WHERE digest = %s"
        self.STATUS = f"SELECT status FROM {TABLE} WHERE digest = %s"

    def begin(self, connection: BaseDatabaseWrapper, attempt: Attempt) -> ClaimResult | None:
        """
        Claim, and begin the transaction by that, or find what prevents it. None if `claim` has to be called inside.

        A transaction is open on *connection* only with `Claimed` afterwards, and after no exception.
        """
        raise NotImplementedError

    def claim(self, cursor: CursorWrapper, attempt: Attempt) -> ClaimResult:
        """
        Claim, or find what prevents it. A claim may keep the *cursor*, which stays open for its record.

        Raises `LostRace` if only a new transaction can tell.
        """
        raise NotImplementedError

    def complete(self, cursor: CursorWrapper, digest: bytes, claim: Claimed, answer: StoredAnswer) -> bool:
        """Write the *answer* on the claim's row. Returns False if that row is not this transaction's claim any more."""
        raise NotImplementedError

    def end_answer(self, cursor: CursorWrapper, attempt: Attempt) -> None:
        """Let the answer that is about to be written on the claim's row end about `tombstone_ttl` before that row."""
        cursor.execute(self.END, (attempt.tombstone_ttl / attempt.occupied, attempt.identity.digest))

    def forget_end(self, cursor: CursorWrapper, digest: bytes) -> None:
        """Delete what tells when the identity's answer ends, whose record is deleted."""
        cursor.execute(self.HAS_END, (digest,))
        if self.fetch_row(cursor) is not None:  # on MySQL the DELETE of a missing row would lock others out
            cursor.execute(self.FORGET_END, (digest,))

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

    def committed(self, connection: Any) -> AbstractContextManager[None]:
        """Inside the block, which only reads, nothing is seen that may still be rolled back."""
        return nullcontext()

    def is_in_flight(self, cursor: CursorWrapper, digest: bytes) -> bool:
        """Is there a claim of the identity that is not committed? False if this database does not tell."""
        return False

    def duration(self, seconds: float) -> Any:
        """The parameter of LATER."""
        return seconds

    def lifetimes(self, attempt: Attempt) -> tuple[Any, Any]:
        """The last parameters of a claim: how long its record lives, and how long its outcome may be unknown."""
        uncertain = attempt.uncertain_ttl
        return self.duration(attempt.occupied), None if uncertain is None else self.duration(uncertain)

    def status(self, cursor: CursorWrapper, digest: bytes) -> int | None:
        """Find the status of the identity's row, expired or not."""
        cursor.execute(self.STATUS, (digest,))
        row = self.fetch_row(cursor)
        return None if row is None else row[0]


def live(now: str, table: str = "") -> str:
    """
    Has a row not expired *now*? An unknown outcome expires by its own time, or never. The columns are those of *table*,
    which is empty or ends with a dot. A CASE keeps MariaDB off the index on `expires_at`, by which an UPDATE of one
    expired row would lock other keys' rows.
    """
    return (
        f"CASE WHEN {table}status = {UNSETTLED} THEN {table}uncertain_until IS NULL OR {table}uncertain_until > {now}"
        f" ELSE {table}expires_at > {now} END"
    )


def upsert(values: str, now: str) -> str:
    """The claim of PostgreSQL and SQLite: insert *values*, a SELECT or VALUES, or take over an expired row."""
    return f"""
        INSERT INTO {TABLE} AS r (digest, fingerprint, scope, operation, key, request, request_id,
                                  status, head, body, executed_at, expires_at, uncertain_until)
        {values}
        ON CONFLICT (digest) DO UPDATE SET
            fingerprint = excluded.fingerprint, scope = excluded.scope, operation = excluded.operation,
            key = excluded.key, request = excluded.request, request_id = excluded.request_id,
            status = 0, head = excluded.head, body = excluded.body,
            executed_at = excluded.executed_at, expires_at = excluded.expires_at,
            uncertain_until = excluded.uncertain_until
        WHERE NOT {live(now, "r.")}
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
    identity = attempt.identity
    try:
        head, body = open_answer(identity.scope, identity.digest, status, head, body)
        record = CompletionRecord.from_stored(status, head, body, request_id)
    except (RecursionError, TypeError, ValueError) as error:
        logger.error(
            "The record of %s cannot be read, because its row was changed or its key is gone: %s", identity, error
        )
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
