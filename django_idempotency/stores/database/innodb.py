"""The base of MariaDB and MySQL: InnoDB's row locks show a claim in flight, if no statement waits for them."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, ClassVar

from django.db import DatabaseError, Error, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from django.db.transaction import atomic

from django_idempotency.core.decision import Claimed, ClaimResult, InFlight
from django_idempotency.core.keys import Attempt
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.stores.base import Fault, LostRace
from django_idempotency.stores.database.dialect import (
    TABLE,
    Dialect,
    FoldedClaim,
    StoredAnswer,
    claim_values,
    read_row,
)

# https://mariadb.com/kb/en/mariadb-error-code-reference/, https://dev.mysql.com/doc/mysql-errors/9.7/en/
DUPLICATE = 1062
NO_SUCH = 1305  # savepoint, procedure
NOT_LOCKED = 1100  # LOCK TABLES of other tables is in effect
NO_PROCEDURE = frozenset({NO_SUCH, 1370})  # none of this name; no privilege to execute it
LOCKED = frozenset({1205, 3572})  # lock wait timeout (MariaDB, without waiting), NOWAIT (MySQL)
DEADLOCK = 1213
RACES = frozenset({1020, DEADLOCK, 3101})  # record has changed since last read; certification in a cluster failed
ENGINE_ERRORS = frozenset({1030, 1180, 1181})  # "Got error N from storage engine", "during COMMIT", "during ROLLBACK"
# A cluster rolled the transaction back for a rival of another node, and a savepoint is gone from under the server.
ABORTED = ("error 149", "error 153")
DISK_FULL = "error 28"
UNAVAILABLE = frozenset(
    {
        0,  # the driver's own: the connection is closed
        3,  # error writing a file: the disk is full
        1021,  # disk full
        1026,  # error writing a file: the disk is full
        1037,  # out of memory
        1038,  # out of sort memory
        1040,  # too many connections
        1041,  # out of memory
        1047,  # the node is not in the cluster's quorum, or is starting (Galera)
        1053,  # server shutdown in progress
        1080,  # the server forces the connection to close
        1114,  # the table is full
        1203,  # too many connections of this user
        1205,  # lock wait timeout: the server's own, because the claim itself does not wait
        1206,  # the number of locks exceeds the size of their table
        1226,  # a limit of this user is reached
        1290,  # the server is read-only: a replica, or a node that has left its group
        1317,  # the statement was killed
        1792,  # the transaction is read-only
        1836,  # the server is read-only
        1927,  # connection was killed
        1969,  # max_statement_time exceeded (MariaDB)
        2002,  # cannot connect through the socket
        2003,  # cannot connect
        2006,  # server has gone away
        2013,  # lost connection during query
        2055,  # lost connection to the server, system error
        3019,  # InnoDB is read-only
        3024,  # maximum statement execution time exceeded (MySQL)
        3032,  # the server is in offline mode (MySQL)
        3100,  # a hook of the group refused: no quorum; of COMMIT, the others may have committed (MySQL)
        3168,  # the server is not available (MySQL)
        3169,  # the session was killed (MySQL)
        3796,  # group_replication_consistency: the node is not in the group, or is recovering
        3797,  # the same: the node has not caught up in time (BEFORE)
        3798,  # the same: others have not caught up in time (AFTER)
        4031,  # disconnected for inactivity (MySQL)
    }
)

PLAIN = CLAIM_PROCEDURE, COMPLETE_PROCEDURE = "django_idempotency_claim_v2", "django_idempotency_complete_v1"
FOLDED = BEGIN_PROCEDURE, COMMIT_PROCEDURE = "django_idempotency_begin_v1", "django_idempotency_commit_v1"
SAVEPOINT = "idempotency_0"  # of those two
COLUMNS = (
    "digest, fingerprint, scope, operation, `key`, request, request_id, status, head, body, executed_at, expires_at,"
    " uncertain_until"
)


class InnoDB(Dialect):
    """
    The claim and the record, each as one call of a procedure of the migrations, or as plain statements.

    A savepoint, set with the claim and released with the record, is gone if the handler ended the transaction, as DDL
    does. The procedures do the same as the statements, in one round trip and parsed once per connection.

    A claim outside any transaction begins one by its procedure, which leaves autocommit off only if it has claimed; its
    record's procedure commits and turns autocommit on. The driver knows from the replies, and sends neither itself.
    """

    NOW: ClassVar[str] = "UTC_TIMESTAMP(6)"  # now(6) is in the session's time zone
    LATER: ClassVar[str] = "UTC_TIMESTAMP(6) + INTERVAL %s MICROSECOND"
    EXPIRES: ClassVar[str] = (
        "IF(TIMESTAMPDIFF(MICROSECOND, executed_at, UTC_TIMESTAMP(6)) * 100"
        " > TIMESTAMPDIFF(MICROSECOND, executed_at, expires_at),"
        " expires_at + INTERVAL TIMESTAMPDIFF(MICROSECOND, executed_at, UTC_TIMESTAMP(6)) MICROSECOND, expires_at)"
    )
    ENDS_AT: ClassVar[str] = (
        f"{EXPIRES} - INTERVAL ROUND(%s * TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), {EXPIRES})) MICROSECOND"
    )
    INSERT, REPLACE = "REPLACE", ""
    CALL_CLAIM = f"CALL {CLAIM_PROCEDURE}(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    CALL_COMPLETE = f"CALL {COMPLETE_PROCEDURE}(%s, %s, %s, %s, %s)"
    CALL_BEGIN = f"CALL {BEGIN_PROCEDURE}(%s, %s, %s, %s, %s, %s, %s, %s, %s)"
    CALL_COMMIT = f"CALL {COMMIT_PROCEDURE}(%s, %s, %s, %s, %s)"

    def __init__(self, *, by_procedure: bool = False, begins: bool = False) -> None:
        super().__init__()
        self.by_procedure = by_procedure
        self.begins = begins
        self.LOCK = f"SELECT 1 FROM {TABLE} WHERE digest = %s FOR UPDATE NOWAIT"

    def duration(self, seconds: float) -> int:
        return round(seconds * 1_000_000)

    def savepoint_name(self, cursor: CursorWrapper, attempt: Attempt) -> str:
        """Name the claim's savepoint, which a claim made inside its handler must not replace."""
        raise NotImplementedError

    def claim_by_statements(self, cursor: CursorWrapper, attempt: Attempt, savepoint: str) -> Any:
        """Return the same as the claim's procedure: a row, or None if only a new transaction can tell."""
        raise NotImplementedError

    def complete_by_statements(self, cursor: CursorWrapper, savepoint: str, written: tuple[Any, ...]) -> bool:
        """Release the *savepoint* and write the record. Returns False if there is no claim."""
        raise NotImplementedError

    def fetch_row(self, cursor: CursorWrapper) -> Any:
        # A procedure can fail after its row. The driver reads that error with the next result; otherwise close() would
        # raise and swallow it.
        row = cursor.fetchone()
        while cursor.nextset():
            pass
        return row

    def begin(self, connection: BaseDatabaseWrapper, attempt: Attempt) -> ClaimResult | None:
        try:
            cursor = connection.cursor()
            cursor.execute(self.CALL_BEGIN, (*claim_values(attempt), *self.lifetimes(attempt)))
            return claim_result(self.fetch_row(cursor), FoldedClaim(SAVEPOINT, kept=cursor), attempt)
        except LostRace:
            raise  # it is no error of the call
        except BaseException as error:
            _end_transaction(connection, error)
            if errno(error) in LOCKED:
                return InFlight()
            if errno(error) in NO_PROCEDURE:
                self.begins = False
                return None
            raise

    def claim(self, cursor: CursorWrapper, attempt: Attempt) -> ClaimResult:
        savepoint = self.savepoint_name(cursor, attempt)
        try:
            if self._called(cursor, self.CALL_CLAIM, (savepoint, *claim_values(attempt), *self.lifetimes(attempt))):
                row = self.fetch_row(cursor)
            else:
                row = self.claim_by_statements(cursor, attempt, savepoint)
        except DatabaseError as error:
            if errno(error) in LOCKED:  # sometimes the procedure's own handler does not catch it
                return InFlight()
            raise
        return claim_result(row, Claimed(savepoint, kept=cursor), attempt)

    def complete(self, cursor: CursorWrapper, digest: bytes, claim: Claimed, answer: StoredAnswer) -> bool:
        written = (*answer, digest)
        # COMMIT is reached only if one row was written. It raises what commit() would; the work may be durable.
        call = self.CALL_COMMIT if isinstance(claim, FoldedClaim) else self.CALL_COMPLETE
        if self._called(cursor, call, (claim.token, *written)):
            is_written: bool = self.fetch_row(cursor)[0] == 1
        else:
            is_written = self.complete_by_statements(cursor, claim.token, written)
        if not is_written and self.status(cursor, digest) is not None:
            # The savepoint was there a moment ago: since then a cluster has rolled us back for the rival of this row.
            raise OperationalError(DEADLOCK, "The transaction was rolled back before its record was written.")
        return is_written

    def _called(self, cursor: CursorWrapper, call: str, parameters: tuple[Any, ...]) -> bool:
        """Execute *call*. Returns False if there is no such procedure; a migration may have been reversed."""
        if not self.by_procedure:
            return False
        try:
            cursor.execute(call, parameters)
        except DatabaseError as error:
            if errno(error) not in NO_PROCEDURE or "SAVEPOINT" in str(error):
                raise
            self.by_procedure = False
            return False
        return True

    def status(self, cursor: CursorWrapper, digest: bytes) -> int | None:
        try:
            return super().status(cursor, digest)
        except DatabaseError as error:
            if errno(error) != NOT_LOCKED:
                raise
            cursor.execute("UNLOCK TABLES")  # the handler's LOCK TABLES has committed its work
            return super().status(cursor, digest)

    @contextmanager
    def committed(self, connection: Any) -> Iterator[None]:
        connection.ensure_connection()  # which knows its level then
        if connection.isolation_level != "read uncommitted" or connection.in_atomic_block:
            yield
            return
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")  # for the transaction that begins now
        with atomic(using=connection.alias):
            yield

    def is_in_flight(self, cursor: CursorWrapper, digest: bytes) -> bool:
        # Looked up without a lock, which would refuse the claims of this moment. Inside a transaction nothing tells.
        if cursor.db.in_atomic_block or not cursor.db.get_autocommit():
            return False
        cursor.execute("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")  # for the next statement
        cursor.execute(self.FIND, (digest,))
        return self.fetch_row(cursor) is not None

    def hold(self, cursor: CursorWrapper, digest: bytes) -> bool:
        cursor.execute(self.LOCK, (digest,))
        # Without a row nothing is locked, and a DELETE would wait for a rival's INSERT.
        return self.fetch_row(cursor) is not None

    def change(
        self, cursor: CursorWrapper, statement: str, digest: bytes, executed_at: datetime | None, *values: Any
    ) -> bool:
        try:
            return super().change(cursor, statement, digest, executed_at, *values)
        except DatabaseError as error:
            if errno(error) in LOCKED:
                raise RequestInProgress from error
            raise

    def is_aborted(self, error: Exception) -> bool:
        return errno(error) == NO_SUCH and "SAVEPOINT" in str(error)

    def classify(self, connection: BaseDatabaseWrapper, error: Exception) -> Fault:
        number = errno(error)
        of_engine = str(error) if number in ENGINE_ERRORS else ""
        if number in RACES or any(each in of_engine for each in ABORTED):
            return Fault.RACE
        if number in UNAVAILABLE or DISK_FULL in of_engine:
            return Fault.UNAVAILABLE
        return Fault.OTHER


def claim_result(row: Any, claim: Claimed, attempt: Attempt) -> ClaimResult:
    """Turn the *row* of a claim into its result, which is *claim* if the identity was claimed."""
    if row is None:  # our snapshot is older than the rival's commit, or the row was purged meanwhile
        raise LostRace
    match row[0]:
        case "claimed":
            return claim
        case "in flight":
            return InFlight()
        case _:
            return read_row(row[1:], attempt)


def _end_transaction(connection: Any, error: BaseException) -> None:
    """
    End what a call that raised *error* may have begun, or close the connection.

    An error does not tell the driver whether autocommit is on, but the reply to ROLLBACK does.
    """
    raw = connection.connection
    if raw is not None and isinstance(error, DatabaseError):  # no interruption, which may leave a reply unread
        with suppress(Error), connection.wrap_database_errors:
            raw.rollback()
            raw.autocommit(True)
            return
    with suppress(Error):  # Django forgets the connection all the same
        connection.close()


def found_on(cursor: Any, more: str = "") -> set[str]:
    """
    Which procedures of the migrations exist? *more* is a SELECT of other things that may be there, asked in the same
    statement. *cursor* is the driver's.
    """
    names = ", ".join(f"'{name}'" for name in (*PLAIN, *FOLDED))
    cursor.execute(
        "SELECT routine_name FROM information_schema.routines"
        f" WHERE routine_schema = DATABASE() AND routine_name IN ({names}){more and f' UNION ALL {more}'}"
    )
    return {name for (name,) in cursor.fetchall()}


def errno(error: BaseException) -> int | None:
    """The number of the server's or the driver's error, which PyMySQL and mysqlclient pass as its first argument."""
    cause = error.__cause__ or error
    number = cause.args[0] if cause.args else None
    return number if isinstance(number, int) else None
