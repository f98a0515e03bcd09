"""What the databases have in common."""

import logging
from datetime import datetime
from typing import Any, ClassVar

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from django_idempotency.core.decision import Claimed, ClaimResult, Completed, Unsettled
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.models import COLUMN, UNSETTLED, IdempotencyRecord
from django_idempotency.stores.base import Fault

logger = logging.getLogger("django_idempotency")

TABLE = IdempotencyRecord._meta.db_table


class FoldedClaim(Claimed):
    """A claim that began its transaction: its record ends it."""

    __slots__ = ()


class Dialect:
    """
    The claim protocol of one kind of database.

    Every statement runs on a cursor that the caller opened, in the caller's transaction. Expiry is by the database's
    clock.
    """

    NOW: ClassVar[str]
    # A record lives from its completion on. Written anew only if the handler took over 1 % of the lifetime, since a
    # changed column in an index costs more than one that stays.
    EXPIRES: ClassVar[str]
    LATER: ClassVar[str]  # NOW plus a parameter: seconds, as `ttl` gives them
    EXECUTED: ClassVar[str] = "executed_at = %s"
    looks_up_first: ClassVar[bool] = False  # Is a replay cheaper when it is found before the transaction begins?

    # what a live record answers with, in the order in which `found` takes it
    RECORD = "status, fingerprint, head, body, request_id"

    def __init__(self) -> None:
        self.FIND = f"SELECT {self.RECORD} FROM {TABLE} WHERE digest = %s AND expires_at > {self.NOW}"  # noqa: S608
        self.FREE = f"DELETE FROM {TABLE} WHERE digest = %s AND {self.EXECUTED}"  # noqa: S608
        self.FREE_UNSETTLED = f"{self.FREE} AND status = 0"
        self.SETTLE = (
            f"UPDATE {TABLE} SET status = %s, head = %s, body = %s, expires_at = {self.EXPIRES}"  # noqa: S608
            f" WHERE digest = %s AND {self.EXECUTED} AND status = 0 AND expires_at > {self.NOW}"
        )
        self.STATUS = f"SELECT status FROM {TABLE} WHERE digest = %s"  # noqa: S608

    def begin(self, connection: BaseDatabaseWrapper, attempt: Attempt) -> ClaimResult | None:
        """
        Begin the transaction by the claim itself, or find what stands in the way; or None, where `claim` has to be
        called inside. Called where no transaction is open on *connection*; only with `Claimed` one is open afterwards.
        """
        return None

    def claim(self, cursor: CursorWrapper, attempt: Attempt) -> ClaimResult:
        """Claim, or find what stands in the way. Raises `LostRace` where this transaction cannot tell."""
        raise NotImplementedError

    def complete(self, cursor: CursorWrapper, digest: bytes, claim: Claimed, record: CompletionRecord) -> bool:
        """Write the record on the claim's row. False where that row is not this transaction's claim any more."""
        raise NotImplementedError

    def is_aborted(self, error: Exception) -> bool:
        """Does *error*, raised by `complete`, say that the claim's transaction had ended or was aborted before?"""
        raise NotImplementedError

    def classify(self, connection: BaseDatabaseWrapper, error: Exception) -> Fault:
        """What *error* means before the handler has run: told by sqlstate or errno, never by the class."""
        raise NotImplementedError

    def fetch_row(self, cursor: CursorWrapper) -> Any:
        """The statement's row, or None, once the statement is known to have succeeded."""
        return cursor.fetchone()

    def look_up(self, cursor: CursorWrapper, attempt: Attempt) -> Completed | Unsettled | None:
        """The live record, if this transaction can see one. One plain SELECT."""
        cursor.execute(self.FIND, (attempt.identity.digest,))
        row = self.fetch_row(cursor)
        return None if row is None else found(row, attempt)

    def free(
        self, cursor: CursorWrapper, digest: bytes, executed_at: datetime | None, *, unsettled: bool = False
    ) -> bool:
        """
        Delete the identity's row of *executed_at*, with *unsettled* only a claim. False where it has none.

        Raises `RequestInProgress` where a rival's claim is on it, or where the row is another execution's or an answer.
        """
        return self._change(cursor, self.FREE_UNSETTLED if unsettled else self.FREE, digest, executed_at)

    def settle(
        self, cursor: CursorWrapper, digest: bytes, executed_at: datetime | None, record: CompletionRecord
    ) -> bool:
        """
        Write *record* on the identity's claim of *executed_at*, which has no outcome. False where it has none.

        Raises as `free` does.
        """
        return self._change(cursor, self.SETTLE, digest, executed_at, record.status, record.head(), record.body)

    def _change(
        self, cursor: CursorWrapper, statement: str, digest: bytes, executed_at: datetime | None, *values: Any
    ) -> bool:
        """Did the *statement* change the identity's row? Its parameters are *values*, identity and time."""
        if not self.hold(cursor, digest):
            return False
        cursor.execute(statement, (*values, digest, cursor.db.ops.adapt_datetimefield_value(executed_at)))
        if cursor.rowcount:
            return True
        if self.status(cursor, digest) is None:
            return False
        raise RequestInProgress("A request with this key was executed meanwhile. Look at its new record.")

    def hold(self, cursor: CursorWrapper, digest: bytes) -> bool:
        """
        Take the claim's own lock until the transaction ends, without waiting. False where there is no row to change.

        Raises `RequestInProgress` where a rival has it.
        """
        return True

    def ttl(self, attempt: Attempt) -> Any:
        """The parameter of LATER."""
        return attempt.ttl

    def status(self, cursor: CursorWrapper, digest: bytes) -> int | None:
        """The status of the identity's row, expired or not."""
        cursor.execute(self.STATUS, (digest,))
        row = self.fetch_row(cursor)
        return None if row is None else row[0]


def found(row: Any, attempt: Attempt) -> Completed | Unsettled:
    """What a row of `Dialect.RECORD` says to *attempt*."""
    status, fingerprint, head, body, request_id = row
    if status == UNSETTLED:
        # Our own claim is joined before any statement; a living rival's row is invisible or locked. So this one is
        # committed: its handler ended the transaction by itself.
        return Unsettled(bytes(fingerprint))
    try:
        record = CompletionRecord.from_stored(status, head, body, request_id)
    except (RecursionError, TypeError, ValueError) as error:
        logger.error("The record of %s cannot be read: somebody has changed it: %s", attempt.identity, error)
        return Unsettled(bytes(fingerprint))
    return Completed(record, bytes(fingerprint))


def values(attempt: Attempt) -> tuple[bytes, bytes, str, str, str, str, str]:
    """What a claim writes: digest, fingerprint, scope, operation, key, request, request id."""
    identity = attempt.identity
    return (
        identity.digest,
        attempt.fingerprint,
        identity.scope[:COLUMN],
        identity.operation[:COLUMN],
        identity.key,
        attempt.request[:COLUMN],
        attempt.request_id[:COLUMN],
    )
