"""The statements that delete expired records in small batches, one class for each kind of database."""

from typing import Any, ClassVar

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from django_idempotency.stores.database.dialect import TABLE
from django_idempotency.stores.database.innodb import InnoDB
from django_idempotency.stores.database.postgresql import PostgreSQL
from django_idempotency.stores.database.sqlite import SQLite

EXPIRES_INDEX = "idempotency_record_expires"


class Purge:
    """
    Deletes the oldest expired rows, by the index on `expires_at`.

    The times *since* and *until* are the database's own, as its driver returns them. The statement that locks a row
    also compares its expiry with the database's clock, so a row that is claimed again at the same moment stays.
    """

    NOW: ClassVar[str]
    PREPARE: ClassVar[tuple[str, ...]] = ()  # executed before the transaction of a batch, if it is the purge's own
    BEGIN: ClassVar[tuple[str, ...]] = ()  # executed first in it; one by one, for servers that bind parameters

    def __init__(self) -> None:
        self.RANGE = f"SELECT MIN(expires_at), {self.NOW} FROM {TABLE}"
        self.DUE = f"expires_at >= %s AND expires_at <= %s AND expires_at <= {self.NOW}"

    def range(self, cursor: CursorWrapper) -> tuple[Any, Any]:
        """Find the first time at which a row expires, or None if there is no row, and the current time."""
        cursor.execute(self.RANGE, ())  # with parameters, because its percent signs are doubled
        since, until = cursor.fetchone()
        return since, until

    def prepare(self, cursor: CursorWrapper) -> None:
        for statement in self.PREPARE:
            cursor.execute(statement)

    def begin(self, cursor: CursorWrapper) -> None:
        for statement in self.BEGIN:
            cursor.execute(statement)

    def batch(self, cursor: CursorWrapper, since: Any, until: Any, size: int) -> tuple[int, Any]:
        """Delete up to *size* rows. Returns their number, and the time at which the next batch begins."""
        raise NotImplementedError


class PostgreSQLPurge(Purge):
    """
    One statement, which skips rows that a claim or another purge has locked.

    It finds a locked row again by its place (`ctid`), which cannot change meanwhile. The next batch begins where this
    one ended, because the index keeps deleted rows until no older transaction is open.
    """

    NOW = PostgreSQL.NOW
    # REPEATABLE READ would fail on rows that were claimed meanwhile, and SERIALIZABLE could fail their claims. There is
    # no need to wait for the disk, because the next run purges what a crash of the server brings back.
    BEGIN = ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "SET LOCAL synchronous_commit = off")

    def batch(self, cursor: CursorWrapper, since: Any, until: Any, size: int) -> tuple[int, Any]:
        cursor.execute(
            f"""
            WITH deleted AS (
                DELETE FROM {TABLE} WHERE ctid = ANY (ARRAY(
                    SELECT ctid FROM {TABLE} WHERE {self.DUE} ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
                )) RETURNING expires_at
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

    def range(self, cursor: CursorWrapper) -> tuple[Any, Any]:
        since, until = super().range(cursor)
        return since and str(since), str(until)

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
        return cursor.rowcount, str(rows[-1][1])  # mysqlclient would send a datetime without its microseconds


class SQLitePurge(Purge):
    """One statement. No row can be locked, because there is one writer at a time."""

    NOW = SQLite.NOW

    def batch(self, cursor: CursorWrapper, since: Any, until: Any, size: int) -> tuple[int, Any]:
        cursor.execute(
            f"DELETE FROM {TABLE} WHERE rowid IN"
            f" (SELECT rowid FROM {TABLE} WHERE {self.DUE} ORDER BY expires_at LIMIT %s)",
            (since, until, size),
        )
        return cursor.rowcount, since


def purge_for(connection: BaseDatabaseWrapper) -> Purge:
    """The statements for a database that `dialect_for` supports."""
    kinds: dict[str, type[Purge]] = {"postgresql": PostgreSQLPurge, "mysql": MySQLPurge, "sqlite": SQLitePurge}
    return kinds[connection.vendor]()
