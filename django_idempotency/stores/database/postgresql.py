"""PostgreSQL: an advisory lock shows a claim in flight, without a wait."""

from dataclasses import dataclass
from typing import Any

from django.db import OperationalError, ProgrammingError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from django_idempotency.core.decision import Claimed, ClaimResult, InFlight
from django_idempotency.core.keys import Attempt
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.stores.base import Fault, LostRace
from django_idempotency.stores.database.dialect import TABLE, Dialect, StoredAnswer, claim_values, read_row, upsert

# https://www.postgresql.org/docs/current/errcodes-appendix.html
RACES = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected
UNAVAILABLE = frozenset(
    {
        "25006",  # read_only_sql_transaction: a standby, or a primary that has become one
        "25P03",  # idle_in_transaction_session_timeout
        "25P04",  # transaction_timeout
        "55P03",  # lock_not_available: the project's lock_timeout
        "57014",  # query_canceled: the project's statement_timeout, or an operator
        "57P01",  # admin_shutdown: the server's, or an operator's pg_terminate_backend
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now: starting up, shutting down, in recovery
        "57P04",  # database_dropped
        "57P05",  # idle_session_timeout
    }
)
# connection_exception; insufficient_resources: the disk, memory, connections, or the table of locks is full;
# system_error: input or output
UNAVAILABLE_CLASSES = ("08", "53", "58")
NO_FUNCTION = frozenset({"42883", "42501"})  # undefined_function; insufficient_privilege to execute it
ABORTED = frozenset({"25P02", "25P01", "3B001"})  # transaction aborted, no active one, no such savepoint

# Made by the migrations 0009 and 0002.
FUNCTIONS = (
    "django_idempotency_claim_v2(bigint, bytea, bytea, text, text, text, text, text, double precision,"
    " double precision)",
    "django_idempotency_complete_v1(integer, bytea, bytea, bytea, text)",
)


@dataclass(frozen=True, slots=True)
class Statements:
    """The claim and the record, as plain SQL or as calls. Both ways take the same lock and leave the same row."""

    claim: str
    complete: str  # affects one row, or none if there is no claim
    complete_and_commit: str  # several statements in one message; fails if there is no claim
    by_function: bool


class PostgreSQL(Dialect):
    """
    One statement looks the record up, tries the identity's lock if there is none, and inserts the claim if it got the
    lock.

    The lock belongs to the transaction: COMMIT, ROLLBACK and the end of the connection free it. It is tried only if no
    record was found, or one of two simultaneous replays would be refused. The table's oid is part of it, because all
    schemas of a database share one space of locks.

    The server plans that statement anew for each claim. The functions of the migrations do the same with plans that the
    server keeps; without them a claim only takes longer.
    """

    NOW = "now()"
    LATER = "now() + %s * interval '1 second'"
    EXPIRES = (
        "CASE WHEN (clock_timestamp() - executed_at) * 100 > expires_at - executed_at"
        " THEN expires_at + (clock_timestamp() - executed_at) ELSE expires_at END"
    )
    # In seconds, because the length of a day depends on the session's time zone.
    ENDS_AT = (
        f"({EXPIRES}) - (%s * extract(epoch FROM ({EXPIRES}) - clock_timestamp()))::double precision"
        " * interval '1 second'"
    )
    LOCK = f"SELECT pg_try_advisory_xact_lock(%s::bigint # '{TABLE}'::regclass::oid::bigint)"

    # The two halves of a lock on one bigint; objsubid tells it from a lock on two integers. The transaction of a test
    # may hold locks of its own, of claims that have ended.
    HELD = (
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted"
        " AND pid <> pg_backend_pid() AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database()) AND classid::bigint << 32 | objid::bigint"
        f" = %s::bigint # '{TABLE}'::regclass::oid::bigint)"
    )

    def __init__(self, *, by_function: bool = False) -> None:
        super().__init__()
        insert = upsert(
            f"SELECT %s::bytea, %s::bytea, %s, %s, %s, %s, %s, 0, ''::bytea, ''::bytea, {self.NOW}, {self.LATER},"
            f" {self.LATER} FROM lock WHERE taken",
            self.NOW,
        )
        claim = f"""
            WITH found AS MATERIALIZED (
                {self.FIND}
            ), lock AS MATERIALIZED (
                SELECT CASE WHEN EXISTS (SELECT FROM found) THEN NULL ELSE ({self.LOCK}) END AS taken
            ), claim AS (
                {insert} RETURNING pg_current_xact_id()::text AS transaction
            )
            SELECT lock.taken, (SELECT transaction FROM claim), found.* FROM lock LEFT JOIN found ON true
        """
        complete = f"{self.COMPLETE} AND pg_current_xact_id() = %s::xid8"
        self.PLAIN = Statements(
            claim=claim,
            complete=complete,
            complete_and_commit=f"WITH written AS ({complete} RETURNING 1) SELECT 1 / count(*) FROM written; COMMIT",
            by_function=False,
        )
        self.BY_FUNCTION = Statements(
            claim="SELECT * FROM django_idempotency_claim_v2(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            complete="SELECT FROM django_idempotency_complete_v1(%s, %s, %s, %s, %s) AS written WHERE written = 1",
            complete_and_commit="SELECT 1 / django_idempotency_complete_v1(%s, %s, %s, %s, %s); COMMIT",
            by_function=True,
        )
        self.statements = self.BY_FUNCTION if by_function else self.PLAIN

    def claim(self, cursor: CursorWrapper, attempt: Attempt) -> ClaimResult:
        statements = self.statements  # read once, because another thread may replace them meanwhile
        self.send_claim(cursor, statements, statements.claim, attempt)
        return self.claim_result(cursor, cursor.fetchone(), attempt)

    def send_claim(self, cursor: CursorWrapper, statements: Statements, sql: str, attempt: Attempt) -> None:
        """Execute *sql*, which ends with the claim of *statements*. Raises `LostRace` if the functions are gone."""
        digest = attempt.identity.digest
        parameters = (_lock(digest), *claim_values(attempt), *self.lifetimes(attempt))
        try:
            cursor.execute(sql, parameters if statements.by_function else (digest, *parameters))
        except ProgrammingError as error:
            if self._drops_functions(statements, error):
                raise LostRace from error
            raise

    def claim_result(self, cursor: CursorWrapper, claim: Any, attempt: Attempt) -> ClaimResult:
        """Read the *claim*'s row. Raises `LostRace` if only a new transaction can tell."""
        taken, transaction, *row = claim
        if taken is None:
            return read_row(row, attempt)
        if not taken:
            return InFlight()
        if transaction is not None:
            return Claimed(transaction, kept=cursor)
        # The rival committed between our snapshot and our lock. At READ COMMITTED a second look shows its record; if it
        # shows none, our snapshot is older than the record.
        seen = self.look_up(cursor, attempt)
        if seen is None:
            raise LostRace
        return seen

    def complete(self, cursor: CursorWrapper, digest: bytes, claim: Claimed, answer: StoredAnswer) -> bool:
        self.send_record(cursor, digest, claim, answer, and_commit=False)
        return bool(cursor.rowcount == 1)

    def send_record(
        self, cursor: CursorWrapper, digest: bytes, claim: Claimed, answer: StoredAnswer, *, and_commit: bool
    ) -> None:
        """Execute the record. If the functions are gone, this execution fails, and its retry does without them."""
        statements = self.statements
        sql = statements.complete_and_commit if and_commit else statements.complete
        try:
            # The token is the transaction's number, which differs if the handler has committed the claim.
            cursor.execute(sql, (*answer, digest, claim.token))
        except ProgrammingError as error:
            self._drops_functions(statements, error)
            raise

    def _drops_functions(self, statements: Statements, error: Exception) -> bool:
        """Use plain statements from now on if the functions are gone (a reversed migration, another schema)."""
        if not statements.by_function or sqlstate(error) not in NO_FUNCTION:
            return False
        self.statements = self.PLAIN
        return True

    def hold(self, cursor: CursorWrapper, digest: bytes) -> bool:
        cursor.execute(self.LOCK, (_lock(digest),))
        if not cursor.fetchone()[0]:
            raise RequestInProgress
        # A phase holds its row, even if its process stands still and its lease is over.
        cursor.execute(f"SELECT 1 FROM {TABLE} WHERE digest = %s FOR UPDATE SKIP LOCKED", (digest,))
        if cursor.fetchone() is not None:
            return True
        if self.status(cursor, digest) is None:
            return False
        raise RequestInProgress

    def is_in_flight(self, cursor: CursorWrapper, digest: bytes) -> bool:
        # Looked up, because to try the lock would refuse the request that claims at this moment.
        cursor.execute(self.HELD, (_lock(digest),))
        return bool(cursor.fetchone()[0])

    def is_aborted(self, error: Exception) -> bool:
        return sqlstate(error) in ABORTED

    def classify(self, connection: BaseDatabaseWrapper, error: Exception) -> Fault:
        state = sqlstate(error)
        if state is None:
            # No error of the server: we could not connect, or lost the connection. The connection's state alone does
            # not tell, because Django may have opened another one when it left the transaction.
            lost = connection.connection is None or connection.connection.closed
            return Fault.UNAVAILABLE if lost or isinstance(error, OperationalError) else Fault.OTHER
        if state in RACES:
            return Fault.RACE
        return Fault.UNAVAILABLE if state in UNAVAILABLE or state.startswith(UNAVAILABLE_CLASSES) else Fault.OTHER


def has_functions(connection: Any) -> bool:
    """Can we execute `FUNCTIONS`? Not asked on Django's cursor, because it is no statement of a request."""
    with connection.wrap_database_errors, connection.connection.cursor() as cursor:
        cursor.execute(
            "SELECT bool_and(coalesce(has_function_privilege(to_regprocedure(name)::oid, 'EXECUTE'), false))"
            " FROM unnest(%s::text[]) AS name",
            [list(FUNCTIONS)],
        )
        return bool(cursor.fetchone()[0])


def _lock(digest: bytes) -> int:
    return int.from_bytes(digest[:8], signed=True)


def sqlstate(error: Exception) -> str | None:
    """The code that the server sent, which psycopg 3 and psycopg2 keep under different names."""
    cause = error.__cause__ or error
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
