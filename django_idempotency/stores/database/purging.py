"""The statements that delete expired records in small batches, one class for each kind of database."""

from typing import Any, ClassVar

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from django_idempotency.core.record import TOMBSTONE
from django_idempotency.stores.database.dialect import ENDS, TABLE, live
from django_idempotency.stores.database.innodb import InnoDB
from django_idempotency.stores.database.postgresql import PostgreSQL
from django_idempotency.stores.database.sqlite import SQLite

EXPIRES_INDEX = "idempotency_record_expires"
ENDS_INDEX = "idempotency_answer_ends"


class Purge:
    """
    Deletes the oldest expired rows, by the index on `expires_at`, and turns records whose answers have ended into
    tombstones, by the index on `ends_at`.

    The times *since* and *until* are the database's own, as its driver returns them. The statement that locks a row
    also compares its expiry with the database's clock, so a row that is claimed again at the same moment stays. So does
    an unknown outcome, unless its own time has passed too.
    """

    NOW: ClassVar[str]
    PREPARE: ClassVar[tuple[str, ...]] = ()  # executed before the transaction of a batch, if it is the purge's own
    BEGIN: ClassVar[tuple[str, ...]] = ()  # executed first in it; one by one, for servers that bind parameters
    LOCK: ClassVar[str] = " FOR UPDATE SKIP LOCKED"
    BY_ENDS: ClassVar[str] = ""  # makes the optimizer use the index on `ends_at`

    def __init__(self) -> None:
        self.RANGE = f"SELECT MIN(expires_at), {self.NOW} FROM {TABLE}"
        self.ENDS_RANGE = f"SELECT MIN(ends_at), {self.NOW} FROM {ENDS}"
        self.ENDED = (
            f"SELECT digest, ends_at FROM {ENDS}{self.BY_ENDS} WHERE ends_at >= %s AND ends_at <= %s"
            f" AND ends_at <= {self.NOW} ORDER BY ends_at LIMIT %s{self.LOCK}"
        )
        self.KEPT = (
            f"SELECT r.digest FROM {ENDS} e JOIN {TABLE} r ON r.digest = e.digest AND r.executed_at = e.executed_at"
            f" WHERE e.digest IN (%%s) AND r.status > {TOMBSTONE} AND r.expires_at > {self.NOW}"
        )
        self.DUE = f"expires_at >= %s AND expires_at <= %s AND expires_at <= {self.NOW} AND NOT {live(self.NOW)}"

    def range(self, cursor: CursorWrapper) -> tuple[Any, Any]:
        """Find the first time at which a row expires, or None if there is no row, and the current time."""
        return self._range(cursor, self.RANGE)

    def range_of_ends(self, cursor: CursorWrapper) -> tuple[Any, Any]:
        """The same for the time at which an answer ends."""
        return self._range(cursor, self.ENDS_RANGE)

    def _range(self, cursor: CursorWrapper, statement: str) -> tuple[Any, Any]:
        cursor.execute(statement, ())  # with parameters, because its percent signs are doubled
        since, until = cursor.fetchone()
        return since, until

    def prepare(self, cursor: CursorWrapper) -> None:
        for statement in self.PREPARE:
            cursor.execute(statement)

    def begin(self, cursor: CursorWrapper) -> None:
        for statement in self.BEGIN:
            cursor.execute(statement)

    def bury(self, cursor: CursorWrapper, since: Any, until: Any, size: int) -> tuple[int, int, Any]:
        """
        Turn up to *size* records whose answers have ended into tombstones. Returns how many ends were dealt with, how
        many tombstones that made, and the time at which the next batch begins.

        An end whose record is locked is left to the next purge. One whose record is gone, or belongs to a later
        execution, is deleted.
        """
        cursor.execute(self.ENDED, (since, until, size))
        rows = cursor.fetchall()
        if not rows:
            return 0, 0, since
        ended = {bytes(digest) for digest, _ in rows}
        kept = self._select(cursor, self.KEPT, ended)
        held = self._select(cursor, self.KEPT + self.LOCK, ended)
        if held:
            _execute(
                cursor,
                f"UPDATE {TABLE} SET status = {TOMBSTONE}, head = %s, body = %s, request = '', request_id = ''"
                " WHERE digest IN (%%s)",
                held,
                b"",
                b"",
            )
        done = ended - (kept - held)
        if done:
            _execute(cursor, f"DELETE FROM {ENDS} WHERE digest IN (%%s)", done)
        return len(done), len(held), self.moment(rows[-1][1])

    def _select(self, cursor: CursorWrapper, statement: str, digests: set[bytes]) -> set[bytes]:
        _execute(cursor, statement, digests)
        return {bytes(digest) for (digest,) in cursor.fetchall()}

    def moment(self, value: Any) -> Any:
        """A time that the driver returned, as a parameter."""
        return value

    def batch(self, cursor: CursorWrapper, since: Any, until: Any, size: int) -> tuple[int, Any]:
        """Delete up to *size* rows. Returns their number, and the time at which the next batch begins."""
        raise NotImplementedError


class PostgreSQLPurge(Purge):
    """
    One statement, which skips rows that a claim or another purge has locked.

    It finds a locked row again by its place (`ctid`), which cannot change meanwhile. Each partition of a partitioned
    table has rows at the same places, so the partition (`tableoid`) is compared, too. The next batch begins where this
    one ended, because the index keeps deleted rows until no older transaction is open.
    """

    NOW = PostgreSQL.NOW
    # REPEATABLE READ would fail on rows that were claimed meanwhile, and SERIALIZABLE could fail their claims. There is
    # no need to wait for the disk, because the next run purges what a crash of the server brings back.
    BEGIN = ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "SET LOCAL synchronous_commit = off")

    def batch(self, cursor: CursorWrapper, since: Any, until: Any, size: int) -> tuple[int, Any]:
        cursor.execute(
            f"""
            WITH due AS (
                SELECT tableoid AS part, ctid AS place FROM {TABLE} WHERE {self.DUE}
                ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
            ), deleted AS (
                DELETE FROM {TABLE} WHERE ctid = ANY (ARRAY(SELECT place FROM due))
                AND (tableoid, ctid) IN (SELECT part, place FROM due) RETURNING expires_at
            )
            SELECT count(*), max(expires_at) FROM deleted
            """,
            (since, until, size),
        )
        count, last = cursor.fetchone()
        return count, last or since


class MySQLPurge(Purge):
    """
    MariaDB and MySQL: a SELECT locks the rows first, because a DELETE cannot skip locked ones.

    It runs at READ COMMITTED: at REPEATABLE READ it would lock the gaps between the rows as well, and a claim would
    take that for a rival in flight. It names the index, because the optimizer may prefer to read, and then lock, the
    whole table if most of it has expired.
    """

    NOW = InnoDB.NOW
    PREPARE = ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED",)  # of the next transaction alone

    BY_ENDS = f" FORCE INDEX ({ENDS_INDEX})"

    def _range(self, cursor: CursorWrapper, statement: str) -> tuple[Any, Any]:
        since, until = super()._range(cursor, statement)
        return since and self.moment(since), self.moment(until)

    def moment(self, value: Any) -> str:
        return str(value)  # mysqlclient would send a datetime without its microseconds

    def batch(self, cursor: CursorWrapper, since: Any, until: Any, size: int) -> tuple[int, Any]:
        cursor.execute(
            f"SELECT digest, expires_at FROM {TABLE} FORCE INDEX ({EXPIRES_INDEX}) WHERE {self.DUE}"
            " ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED",
            (since, until, size),
        )
        rows = cursor.fetchall()
        if not rows:
            return 0, since
        cursor.execute(f"DELETE FROM {TABLE} WHERE digest IN %s", (tuple(digest for digest, _ in rows),))
        return cursor.rowcount, self.moment(rows[-1][1])


class SQLitePurge(Purge):
    """No row can be locked, because there is one writer at a time."""

    NOW = SQLite.NOW
    LOCK = ""

    def bury(self, cursor: CursorWrapper, since: Any, until: Any, size: int) -> tuple[int, int, Any]:
        cursor.execute(f"DELETE FROM {ENDS} WHERE 0")  # becomes the writer: a reader may fail to become it later
        return super().bury(cursor, since, until, size)

    def batch(self, cursor: CursorWrapper, since: Any, until: Any, size: int) -> tuple[int, Any]:
        cursor.execute(
            f"DELETE FROM {TABLE} WHERE rowid IN"
            f" (SELECT rowid FROM {TABLE} WHERE {self.DUE} ORDER BY expires_at LIMIT %s)",
            (since, until, size),
        )
        return cursor.rowcount, since


def _execute(cursor: CursorWrapper, statement: str, digests: set[bytes], *values: Any) -> None:
    """Execute *statement*, in which `%%s` stands for the *digests*, behind its *values*."""
    cursor.execute(statement.replace("%%s", ", ".join(["%s"] * len(digests)), 1), (*values, *digests))


def purge_for(connection: BaseDatabaseWrapper) -> Purge:
    """The statements for a database that `dialect_for` supports."""
    kinds: dict[str, type[Purge]] = {"postgresql": PostgreSQLPurge, "mysql": MySQLPurge, "sqlite": SQLitePurge}
    return kinds[connection.vendor]()
