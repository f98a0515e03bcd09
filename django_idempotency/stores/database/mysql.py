"""MariaDB and MySQL: InnoDB's row locks show a claim in flight, if nobody queues on them."""

from datetime import datetime
from typing import Any, ClassVar

from django.db import DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from django_idempotency.core.decision import Claimed, ClaimResult, InFlight
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.stores.base import Fault, LostRace
from django_idempotency.stores.database.dialect import TABLE, Dialect, found, values

# https://mariadb.com/kb/en/mariadb-error-code-reference/, https://dev.mysql.com/doc/mysql-errors/8.0/en/
DUPLICATE = 1062
NO_SUCH = 1305  # savepoint, procedure
NOT_LOCKED = 1100  # ER_TABLE_NOT_LOCKED: LOCK TABLES of other tables is in effect
NO_PROCEDURE = frozenset({NO_SUCH, 1370})  # none of this name, or not ours to execute
LOCKED = frozenset({1205, 3572})  # lock wait timeout (MariaDB, without waiting), NOWAIT (MySQL)
RACES = frozenset({1020, 1213})  # record has changed since last read, deadlock
UNAVAILABLE = frozenset(
    {
        0,  # the driver's own: the connection is closed
        1021,  # disk full
        1040,  # too many connections
        1053,  # server shutdown in progress
        1114,  # the table is full
        1203,  # too many connections of this user
        1205,  # lock wait timeout: the server's own, where the claim itself does not wait
        1206,  # the number of locks exceeds the size of their table
        1927,  # connection was killed
        1969,  # max_statement_time exceeded (MariaDB)
        2002,  # cannot connect through the socket
        2003,  # cannot connect
        2006,  # server has gone away
        2013,  # lost connection during query
        2055,  # lost connection to the server, system error
        3024,  # maximum statement execution time exceeded (MySQL)
        4031,  # disconnected for inactivity (MySQL)
    }
)

COLUMNS = (
    "digest, fingerprint, scope, operation, `key`, request, request_id, status, head, body, executed_at, expires_at"
)


class MySQL(Dialect):
    """
    MySQL 8, whose locks cannot be tried for less than a second: a look-up, `FOR UPDATE NOWAIT`, then the claim.

    Two rivals that both found no row meet in the INSERT, where the second waits for the first one's whole handler.
    A savepoint, set with the claim and released with the record, is gone if the handler ended the transaction (DDL
    does).
    """

    NOW: ClassVar[str] = "UTC_TIMESTAMP(6)"  # now(6) is in the session's time zone
    LATER: ClassVar[str] = "UTC_TIMESTAMP(6) + INTERVAL %s MICROSECOND"
    EXPIRES: ClassVar[str] = (
        "IF(TIMESTAMPDIFF(MICROSECOND, executed_at, UTC_TIMESTAMP(6)) * 100"
        " > TIMESTAMPDIFF(MICROSECOND, executed_at, expires_at),"
        " expires_at + INTERVAL TIMESTAMPDIFF(MICROSECOND, executed_at, UTC_TIMESTAMP(6)) MICROSECOND, expires_at)"
    )

    def __init__(self) -> None:
        super().__init__()
        # The table's column `key` is a reserved word here.
        self.LOCK = f"SELECT 1 FROM {TABLE} WHERE digest = %s FOR UPDATE NOWAIT"  # noqa: S608
        self.INSERT = (
            f"INSERT INTO {TABLE} ({COLUMNS})"  # noqa: S608
            f" VALUES (%s, %s, %s, %s, %s, %s, %s, 0, '', '', {self.NOW}, {self.LATER})"
        )
        self.RENEW = (
            f"UPDATE {TABLE} SET fingerprint = %s, scope = %s, operation = %s, `key` = %s,"  # noqa: S608
            f" request = %s, request_id = %s, status = 0, head = '', body = '',"
            f" executed_at = {self.NOW}, expires_at = {self.LATER}"
            f" WHERE digest = %s AND expires_at <= {self.NOW}"
        )
        self.COMPLETE = (
            f"UPDATE {TABLE} SET status = %s, head = %s, body = %s, expires_at = {self.EXPIRES}"  # noqa: S608
            " WHERE digest = %s AND status = 0"
        )

    def ttl(self, attempt: Attempt) -> int:
        return round(attempt.ttl * 1_000_000)

    def fetch_row(self, cursor: CursorWrapper) -> Any:
        # A procedure can fail behind its row. The driver reads that error with the next result; left unread, it is
        # raised by close(), and swallowed there.
        row = cursor.fetchone()
        while cursor.nextset():
            pass
        return row

    def claim(self, cursor: CursorWrapper, attempt: Attempt) -> ClaimResult:
        seen = self.look_up(cursor, attempt)
        if seen is not None:
            return seen
        digest = attempt.identity.digest
        try:
            cursor.execute(self.LOCK, (digest,))
            row = self.fetch_row(cursor)
        except DatabaseError as error:
            if errno(error) in LOCKED:
                return InFlight()
            raise
        if row is None:
            try:
                cursor.execute(self.INSERT, (*values(attempt), self.ttl(attempt)))
            except DatabaseError as error:
                if errno(error) in LOCKED:  # a rival that inserted in between holds on to its row
                    return InFlight()
                if errno(error) != DUPLICATE:
                    raise
                claimed = False
            else:
                claimed = True
        else:
            cursor.execute(self.RENEW, (*values(attempt)[1:], self.ttl(attempt), digest))
            claimed = cursor.rowcount == 1
        if claimed:
            cursor.execute(f"SAVEPOINT {savepoint(digest)}")
            return Claimed()
        seen = self.look_up(cursor, attempt)
        if seen is None:  # a snapshot that is older than the rival's commit, or the record is purged already
            raise LostRace
        return seen

    def complete(self, cursor: CursorWrapper, digest: bytes, claim: Claimed, record: CompletionRecord) -> bool:
        cursor.execute(f"RELEASE SAVEPOINT {savepoint(digest)}")
        cursor.execute(self.COMPLETE, (record.status, record.head(), record.body, digest))
        return bool(cursor.rowcount == 1)

    def status(self, cursor: CursorWrapper, digest: bytes) -> int | None:
        try:
            return super().status(cursor, digest)
        except DatabaseError as error:
            if errno(error) != NOT_LOCKED:
                raise
            cursor.execute("UNLOCK TABLES")  # LOCK TABLES of the handler's has committed its work
            return super().status(cursor, digest)

    def hold(self, cursor: CursorWrapper, digest: bytes) -> bool:
        cursor.execute(self.LOCK, (digest,))
        # Without a row nothing is locked, and a DELETE would wait for a rival that inserts one now.
        return self.fetch_row(cursor) is not None

    def _change(
        self, cursor: CursorWrapper, statement: str, digest: bytes, executed_at: datetime | None, *values: Any
    ) -> bool:
        try:
            return super()._change(cursor, statement, digest, executed_at, *values)
        except DatabaseError as error:
            if errno(error) in LOCKED:
                raise RequestInProgress from error
            raise

    def is_aborted(self, error: Exception) -> bool:
        return errno(error) == NO_SUCH and "SAVEPOINT" in str(error)

    def classify(self, connection: BaseDatabaseWrapper, error: Exception) -> Fault:
        number = errno(error)
        if number in RACES:
            return Fault.RACE
        return Fault.UNAVAILABLE if number in UNAVAILABLE else Fault.OTHER


class MariaDB(MySQL):
    """
    One compound statement, in which every part that could wait for a rival's lock gives up at once instead (1205).

    Where a plain SELECT is no snapshot, the INSERT comes first: at SERIALIZABLE the SELECT would lock the gap in which
    the row is missing against all claims, and at READ UNCOMMITTED it would see what a rival may still roll back.

    Nobody queues on the INSERT: when its holder rolls back, InnoDB kills all but one of those that wait (1213). No
    ON DUPLICATE KEY UPDATE: Django's connections report 1 row for one that changed nothing.

    The server parses that statement anew for each claim. Where the procedures of migration 0002 are, they do the same
    as they were parsed once per connection; where they are not, nothing but time is missing.
    """

    CALL_CLAIM = "CALL django_idempotency_claim_v1(%s, %s, %s, %s, %s, %s, %s, %s, %s)"
    CALL_COMPLETE = "CALL django_idempotency_complete_v1(%s, %s, %s, %s, %s)"

    def __init__(self, *, by_procedure: bool = False) -> None:
        super().__init__()
        at_once = "SET STATEMENT innodb_lock_wait_timeout = 0 FOR"
        columns = ", ".join(f"'{state}'" for state in ("",) * 5)
        live = f"SELECT MAX(expires_at > {self.NOW}) INTO live FROM {TABLE} WHERE digest = d"  # noqa: S608
        self.CLAIM = f"""
            BEGIN NOT ATOMIC
                DECLARE d BINARY(32) DEFAULT %s;
                DECLARE live, changed INT DEFAULT NULL;
                DECLARE snapshot INT DEFAULT @@tx_isolation IN ('READ-COMMITTED', 'REPEATABLE-READ');
                DECLARE EXIT HANDLER FOR 1205 SELECT 'in flight', {columns};
                IF snapshot THEN
                    {at_once} {live};
                END IF;
                IF live IS NULL THEN
                    {at_once} INSERT IGNORE INTO {TABLE} ({COLUMNS})
                        VALUES (d, %s, %s, %s, %s, %s, %s, 0, '', '', {self.NOW}, {self.LATER});
                    SET changed = ROW_COUNT();
                    IF changed = 0 AND NOT snapshot THEN
                        {at_once} {live};
                    END IF;
                END IF;
                IF live = 0 THEN
                    {at_once} UPDATE {TABLE}
                        SET fingerprint = %s, scope = %s, operation = %s, `key` = %s, request = %s, request_id = %s,
                            status = 0, head = '', body = '', executed_at = {self.NOW}, expires_at = {self.LATER}
                        WHERE digest = d AND expires_at <= {self.NOW};
                    SET changed = ROW_COUNT();
                END IF;
                IF changed = 1 THEN
                    SAVEPOINT %%s;
                    SELECT 'claimed', {columns};
                ELSEIF live = 1 THEN
                    {at_once} SELECT 'record', {self.RECORD} FROM {TABLE} WHERE digest = d;
                ELSE
                    {at_once} SELECT 'record', {self.RECORD} FROM {TABLE}
                        WHERE digest = d AND expires_at > {self.NOW} LOCK IN SHARE MODE;
                END IF;
            END
        """  # noqa: S608
        self.COMPLETE = f"BEGIN NOT ATOMIC RELEASE SAVEPOINT %%s; {self.COMPLETE}; SELECT ROW_COUNT(); END"
        self.by_procedure = by_procedure

    def claim(self, cursor: CursorWrapper, attempt: Attempt) -> ClaimResult:
        digest = attempt.identity.digest
        written = (*values(attempt)[1:], self.ttl(attempt))
        try:
            if not self._called(cursor, self.CALL_CLAIM, (savepoint(digest), digest, *written)):
                cursor.execute(named(self.CLAIM, digest), (digest, *written, *written))
        except DatabaseError as error:
            if errno(error) in LOCKED:  # now and then one passes by the handler that is declared for it
                return InFlight()
            raise
        row = self.fetch_row(cursor)
        if row is None:  # older than the rival's commit, or purged between two of our statements
            raise LostRace
        match row[0]:
            case "claimed":
                return Claimed()
            case "in flight":
                return InFlight()
            case _:
                return found(row[1:], attempt)

    def complete(self, cursor: CursorWrapper, digest: bytes, claim: Claimed, record: CompletionRecord) -> bool:
        written = (record.status, record.head(), record.body, digest)
        if not self._called(cursor, self.CALL_COMPLETE, (savepoint(digest), *written)):
            cursor.execute(named(self.COMPLETE, digest), written)
        return bool(self.fetch_row(cursor)[0] == 1)

    def _called(self, cursor: CursorWrapper, call: str, parameters: tuple[Any, ...]) -> bool:
        """Execute *call*. False where there is no procedure to be called: a migration may have taken it back."""
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


def has_procedures(connection: Any) -> bool:
    """Are the procedures of migration 0002 there? Asked past Django's cursor, as no statement of a request."""
    with connection.wrap_database_errors, connection.connection.cursor() as cursor:
        cursor.execute(
            "SELECT COUNT(*) FROM information_schema.routines"
            " WHERE routine_schema = DATABASE() AND routine_name IN (%s, %s)",
            ("django_idempotency_claim_v1", "django_idempotency_complete_v1"),
        )
        return bool(cursor.fetchone()[0] == 2)


def savepoint(digest: bytes) -> str:
    """A name of the claim's own: one claim may be made inside another's handler, and an equal name would replace it."""
    return f"idempotency_{digest[:8].hex()}"


def named(statement: str, digest: bytes) -> str:
    """*statement* with the name of the claim's savepoint, which no parameter can carry."""
    return statement.replace("%%s", savepoint(digest), 1)


def errno(error: Exception) -> int | None:
    """The server's or the driver's number: the first argument of every error of PyMySQL and mysqlclient."""
    cause = error.__cause__ or error
    number = cause.args[0] if cause.args else None
    return number if isinstance(number, int) else None
