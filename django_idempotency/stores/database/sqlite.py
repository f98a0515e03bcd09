"""SQLite: one writer at a time, so the transaction itself is the lock."""

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from django_idempotency.core.decision import Claimed, ClaimResult
from django_idempotency.core.keys import Attempt
from django_idempotency.stores.base import Fault, LostRace
from django_idempotency.stores.database.dialect import Dialect, StoredAnswer, claim_values, upsert

# https://www.sqlite.org/rescode.html; extended codes keep the primary one in their low byte
UNAVAILABLE = frozenset(
    {
        5,  # BUSY
        6,  # LOCKED
        7,  # NOMEM
        8,  # READONLY: the file, its folder or the disk
        10,  # IOERR
        13,  # FULL: the disk
        14,  # CANTOPEN
        15,  # PROTOCOL: the locks of the write-ahead log are taken
    }
)


class SQLite(Dialect):
    """
    A look-up before the transaction, so that a replay waits for no writer; then the claim, which waits for its turn.

    When the claim runs, the previous writer has committed or rolled back, so no claim is ever seen in flight.
    """

    NOW = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')"
    LATER = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', %s)"
    EXPIRES = (
        "CASE WHEN (julianday('now') - julianday(executed_at)) * 100 > julianday(expires_at) - julianday(executed_at)"
        " THEN strftime('%%Y-%%m-%%d %%H:%%M:%%f', expires_at,"
        " ((julianday('now') - julianday(executed_at)) * 86400) || ' seconds') ELSE expires_at END"
    )
    ENDS_AT = (
        f"strftime('%%Y-%%m-%%d %%H:%%M:%%f', {EXPIRES},"
        f" (-86400 * %s * (julianday({EXPIRES}) - julianday('now'))) || ' seconds')"
    )
    # The ORM writes another fraction of a second than the claim does: microseconds, or none.
    EXECUTED = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', executed_at) = strftime('%%Y-%%m-%%d %%H:%%M:%%f', %s)"
    looks_up_first = True

    def __init__(self) -> None:
        super().__init__()
        self.CLAIM = upsert(
            f"VALUES (%s, %s, %s, %s, %s, %s, %s, 0, x'', x'', {self.NOW}, {self.LATER}, {self.LATER})", self.NOW
        )

    def duration(self, seconds: float) -> str:
        return f"{seconds:+f} seconds"

    def claim(self, cursor: CursorWrapper, attempt: Attempt) -> ClaimResult:
        cursor.execute(self.CLAIM, (*claim_values(attempt), *self.lifetimes(attempt)))
        if cursor.rowcount == 1:
            return Claimed(kept=cursor)
        # A rival committed while we waited for the database.
        seen = self.look_up(cursor, attempt)
        if seen is None:
            raise LostRace
        return seen

    def complete(self, cursor: CursorWrapper, digest: bytes, claim: Claimed, answer: StoredAnswer) -> bool:
        if not cursor.db.connection.in_transaction:  # ended by executescript() or a raw COMMIT
            return False
        cursor.execute(self.COMPLETE, (*answer, digest))
        return bool(cursor.rowcount == 1)

    def is_aborted(self, error: Exception) -> bool:
        return False  # an error undoes only its own statement

    def classify(self, connection: BaseDatabaseWrapper, error: Exception) -> Fault:
        code = getattr(error.__cause__ or error, "sqlite_errorcode", None)
        return Fault.UNAVAILABLE if code is not None and code & 0xFF in UNAVAILABLE else Fault.OTHER
