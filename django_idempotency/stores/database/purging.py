"""The statements that delete what has expired, one small batch at a time: one class for each kind of database."""

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

    `since` and `until` are times of the database's own, as its driver gives them. A row is compared by the database's
    clock in the statement that takes its lock, so one that is claimed anew at the same moment stays.
    """

    NOW: ClassVar[str]

    def __init__(self) -> None:
        self.RANGE = f"SELECT MIN(expires_at), {self.NOW} FROM {TABLE}"  # noqa: S608 the table's name is ours
        self.DUE = f"expires_at >= %s AND expires_at <= %s AND expires_at <= {self.NOW}"

    def range(self, cursor: CursorWrapper) -> tuple[Any, Any]:
        """When the first of all rows expires, or None where there is no row; and the time now."""
        cursor.execute(self.RANGE, ())  # parameters, though none: the text has its percent signs doubled
        since, until = cursor.fetchone()
        return since, until

    def prepare(self, cursor: CursorWrapper) -> None:
        """Called before the transaction of a batch begins, where it is one of our own."""

    def begin(self, cursor: CursorWrapper) -> None:
        """Called when it has begun."""

    def batch(self, cursor: CursorWrapper, since: Any, until: Any, size: int) -> tuple[int, Any]:
        """
        Delete up to *size* rows, in the caller's transaction. Returns how many there were, and where the next batch
        begins.
        """
        raise NotImplementedError


class PostgreSQLPurge(Purge):
    """
    One statement. Rows that are locked, by a claim or by another purge, are passed by.

    The rows are found again by their place (`ctid`), which nobody can change while they are locked: no second look-up
    by the primary key. The next batch begins where this one ended, because deleted rows stay in the index until no
    older transaction of the database is open, and would be read again and again.
    """

    NOW = PostgreSQL.NOW
    # Repeatable reads would fail on rows that were claimed anew meanwhile, and SERIALIZABLE could fail their claims.
    # No wait for the disk: what a crash of the server brings back is purged by the next run.
    BEGIN = ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "SET LOCAL synchronous_commit = off")

    def __init__(self) -> None:
        super().__init__()
        self.DELETE = f"""
            WITH deleted AS (
                DELETE FROM {TABLE} WHERE ctid = ANY (ARRAY(
                    SELECT ctid FROM {TABLE} WHERE {self.DUE} ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
                )) RETURNING expires_at
            )
            SELECT count(*), max(expires_at) FROM deleted
        """  # noqa: S608

    def begin(self, cursor: CursorWrapper) -> None:
        for statement in self.BEGIN:  # one by one, as a server that binds parameters itself wants them
            cursor.execute(statement)

    def batch(self, cursor: CursorWrapper, since: Any, until: Any, size: int) -> tuple[int, Any]:
        cursor.execute(self.DELETE, (since, until, size))
        count, last = cursor.fetchone()
        return count, last or since


class MySQLPurge(Purge):
    """
    MariaDB and MySQL: a DELETE cannot pass by locked rows, so a SELECT locks them first.

    At READ COMMITTED, whatever the connection's level is: at REPEATABLE READ the SELECT would lock the gaps between
    the rows as well, and a claim would take such a lock for a rival in flight. The index is named because the optimizer
    may prefer to read, and then lock, the whole table where most of it has expired.
    """

    NOW = InnoDB.NOW
    PREPARE = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"  # of the next transaction alone

    def __init__(self) -> None:
        super().__init__()
        self.SELECT = (
            f"SELECT digest, expires_at FROM {TABLE} FORCE INDEX ({EXPIRES_INDEX}) WHERE {self.DUE}"  # noqa: S608
            " ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED"
        )
        self.DELETE = f"DELETE FROM {TABLE} WHERE digest IN %s"  # noqa: S608

    def range(self, cursor: CursorWrapper) -> tuple[Any, Any]:
        since, until = super().range(cursor)
        return since and str(since), str(until)

    def prepare(self, cursor: CursorWrapper) -> None:
        cursor.execute(self.PREPARE)

    def batch(self, cursor: CursorWrapper, since: Any, until: Any, size: int) -> tuple[int, Any]:
        cursor.execute(self.SELECT, (since, until, size))
        rows = cursor.fetchall()
        if not rows:
            return 0, since
        cursor.execute(self.DELETE, (tuple(digest for digest, _ in rows),))
        return cursor.rowcount, str(rows[-1][1])  # mysqlclient would send a datetime without its microseconds


class SQLitePurge(Purge):
    """One statement. There is one writer at a time, so no row can be locked by another."""

    NOW = SQLite.NOW

    def __init__(self) -> None:
        super().__init__()
        self.DELETE = (
            f"DELETE FROM {TABLE} WHERE rowid IN"  # noqa: S608
            f" (SELECT rowid FROM {TABLE} WHERE {self.DUE} ORDER BY expires_at LIMIT %s)"
        )

    def batch(self, cursor: CursorWrapper, since: Any, until: Any, size: int) -> tuple[int, Any]:
        cursor.execute(self.DELETE, (since, until, size))
        return cursor.rowcount, since


def purge_for(connection: BaseDatabaseWrapper) -> Purge:
    """The statements for a database that `dialect_for` supports."""
    kinds: dict[str, type[Purge]] = {"postgresql": PostgreSQLPurge, "mysql": MySQLPurge, "sqlite": SQLitePurge}
    return kinds[connection.vendor]()
