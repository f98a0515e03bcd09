"""SQLite: one writer at a time, so the transaction itself is the lock."""

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from django_idempotency.core.decision import Claimed, ClaimResult
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import CompletionRecord
from django_idempotency.stores.base import Fault, LostRace
from django_idempotency.stores.database.dialect import TABLE, Dialect, values

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
        15,  # PROTOCOL: the locks of the write-ahead log are not free
    }
)


class SQLite(Dialect):
    """
    A look-up before the transaction, so that a replay waits for no writer; then the claim, which waits for its turn.

    Whoever held the database before has committed or is gone when the claim runs: nothing is ever seen in flight.
    """

    NOW = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')"
    LATER = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', %s)"
    EXPIRES = (
        "CASE WHEN (julianday('now') - julianday(executed_at)) * 100 > julianday(expires_at) - julianday(executed_at)"
        " THEN strftime('%%Y-%%m-%%d %%H:%%M:%%f', expires_at,"
        " ((julianday('now') - julianday(executed_at)) * 86400) || ' seconds') ELSE expires_at END"
    )
    # The ORM writes another text than the claim does: microseconds, or no fraction at all.
    EXECUTED = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', executed_at) = strftime('%%Y-%%m-%%d %%H:%%M:%%f', %s)"
    looks_up_first = True

    def __init__(self) -> None:
        super().__init__()
        self.CLAIM = f"""
            INSERT INTO {TABLE} (digest, fingerprint, scope, operation, key, request, request_id,
                                 status, head, body, executed_at, expires_at)
            VALUES (%s, %s, %s, %s, %s, %s, %s, 0, x'', x'', {self.NOW}, {self.LATER})
            ON CONFLICT (digest) DO UPDATE SET
                fingerprint = excluded.fingerprint, scope = excluded.scope, operation = excluded.operation,
                key = excluded.key, request = excluded.request, request_id = excluded.request_id,
                status = 0, head = x'', body = x'',
                executed_at = excluded.executed_at, expires_at = excluded.expires_at
            WHERE expires_at <= {self.NOW}
        """  # noqa: S608
        self.COMPLETE = (
            f"UPDATE {TABLE} SET status = %s, head = %s, body = %s, expires_at = {self.EXPIRES}"  # noqa: S608
            " WHERE digest = %s AND status = 0"
        )

    def ttl(self, attempt: Attempt) -> str:
        return f"{attempt.ttl:+f} seconds"

    def claim(self, cursor: CursorWrapper, attempt: Attempt) -> ClaimResult:
        cursor.execute(self.CLAIM, (*values(attempt), self.ttl(attempt)))
        if cursor.rowcount == 1:
            return Claimed()
        # A rival committed while we waited for the database.
        seen = self.look_up(cursor, attempt)
        if seen is None:
            raise LostRace
        return seen

    def complete(self, cursor: CursorWrapper, digest: bytes, claim: Claimed, record: CompletionRecord) -> bool:
        if not cursor.db.connection.in_transaction:  # executescript() and a raw COMMIT leave autocommit behind
            return False
        cursor.execute(self.COMPLETE, (record.status, record.head(), record.body, digest))
        return bool(cursor.rowcount == 1)

    def is_aborted(self, error: Exception) -> bool:
        return False  # an error undoes its statement and leaves the transaction as it was

    def classify(self, connection: BaseDatabaseWrapper, error: Exception) -> Fault:
        code = getattr(error.__cause__ or error, "sqlite_errorcode", None)
        return Fault.UNAVAILABLE if code is not None and code & 0xFF in UNAVAILABLE else Fault.OTHER
