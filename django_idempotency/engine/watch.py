"""Observes what a handler does to its transaction. No statement is added or changed."""

import re
import threading
from collections.abc import Callable
from typing import Any
from weakref import ref

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.dispatch import receiver

from django_idempotency.exceptions import CommittedEarly, TransactionBroken

SQLITE = "sqlite"
# Any other statement counts as a write, and as one that may end a transaction.
_HARMLESS = re.compile(
    r"\s*(?:SELECT\b(?!.*\bINTO\b)|SAVEPOINT\s|RELEASE\s+SAVEPOINT\s|ROLLBACK\s+TO\s+SAVEPOINT\s)[^;]*;?\s*",
    re.IGNORECASE | re.DOTALL,
)
_BEGINS = re.compile(r"\s*BEGIN\b[^;]*", re.IGNORECASE)  # the first statement of an atomic block on SQLite
_RELEASES_LOCK = re.compile(r"\b(?:pg_advisory_unlock|release_lock|release_all_locks)", re.IGNORECASE)
_SETS_TRANSACTION = re.compile(r"\bSET\b.*\bTRANSACTION\b", re.IGNORECASE | re.DOTALL)
SET_TRANSACTION = (
    "An idempotent handler already runs in a transaction, whose first statement was the claim of its key, and SET"
    " TRANSACTION must come before any other. Set the level for the connection (OPTIONS in DATABASES), or protect the"
    " code inside the transaction instead."
)


class _Thread(threading.local):
    """The connections that this thread has opened, and its active watches."""

    def __init__(self) -> None:
        self.opened: list[ref[BaseDatabaseWrapper]] = []
        self.watches: list[TransactionWatch] = []


_thread = _Thread()


@receiver(connection_created)
def _note_connection(*, connection: BaseDatabaseWrapper, **kwargs: object) -> None:
    others = [each for each in _thread.opened if each() not in (None, connection)]
    _thread.opened = [*others, ref(connection)]
    for watch in _thread.watches:
        watch.add(connection)


class TransactionWatch:
    """
    Watches the transaction on *connection* while the handler runs, as a context manager, and is read afterwards.

    *is_committed* asks the database whether the claim is committed. *is_race* says whether an error means that the
    database has cancelled the transaction for a rival's sake.
    """

    def __init__(self, connection: Any, is_committed: Callable[[], bool], is_race: Callable[[Exception], bool]) -> None:
        self._connection = connection
        self._is_committed = is_committed
        self._is_race = is_race
        self._earlier = connection.rollback_exc
        self._depth = self._savepoints()
        self._requested = False  # the handler asked for a rollback, outside an atomic block of its own
        self._left_open = False  # the handler left an atomic block open
        # While the handler ran, the transaction was rolled back, or committed: where the driver begins no other one.
        self._lost = False
        self._committed = False
        self._stayed_open: bool | None = True  # the transaction is open for the driver; None if the driver cannot tell
        self.lost_race = False  # a statement of the handler was cancelled for a rival's sake
        self.wrote = False  # the handler sent a statement that is not plainly a read
        self.released_lock = False  # the handler released a lock of the session, which should last until COMMIT
        self.strangers: set[str] = set()  # aliases of other databases that the handler wrote to

    def __enter__(self) -> None:
        """Watch this thread's statements, on every connection that it has or opens, and calls of `set_rollback`."""
        connection = self._connection
        # Not by `execute_wrapper`, which would make a generator for each connection of each request.
        self._others: list[BaseDatabaseWrapper] = []
        for opened in _thread.opened:
            other = opened()
            if other is not None and other is not connection:
                self.add(other)
        _thread.watches.append(self)
        connection.execute_wrappers.append(self._own)
        # `needs_rollback` does not say who set it: Django sets it, too, if it cannot roll back to the savepoint of a
        # handler's atomic block, because the transaction is gone.
        state = vars(connection)
        self._outer = state.get("set_rollback")  # of an operation whose handler runs this one
        state["set_rollback"] = self._set_rollback
        self._blocks, self._savepoint_ids = len(connection.atomic_blocks), len(connection.savepoint_ids)

    def add(self, other: BaseDatabaseWrapper) -> None:
        """Watch *other*, if it is a connection to another database."""
        if other.alias != self._connection.alias and other not in self._others:
            self._others.append(other)
            other.execute_wrappers.append(self._strange)

    def __exit__(self, *error: object) -> None:
        connection = self._connection
        if self._stayed_open:
            self._stayed_open = is_open(connection)
        if len(connection.savepoint_ids) != self._savepoint_ids:
            # If the handler's block were left later, it would end ours.
            self._left_open = True
            del connection.atomic_blocks[self._blocks :], connection.savepoint_ids[self._savepoint_ids :]
        if self._outer is None:
            del vars(connection)["set_rollback"]
        else:
            vars(connection)["set_rollback"] = self._outer
        # Removed by name, because wrappers that the handler has installed may stay.
        connection.execute_wrappers.remove(self._own)
        _thread.watches.remove(self)
        for other in self._others:
            other.execute_wrappers.remove(self._strange)

    def may_have_ended(self) -> bool:
        """
        May the handler have ended its transaction, so that the claim's row has to be read?

        Not if it sent only plain reads and the driver saw an open transaction throughout. A COMMIT and a BEGIN in one
        call of a raw cursor are seen by neither; the record, or the retry, finds them.
        """
        return self.wrote or self._stayed_open is not True

    def _look(self) -> None:
        """Notice the end of the transaction, after which each statement may commit by itself."""
        if self._stayed_open:
            self._stayed_open = is_open(self._connection)
            if not self._stayed_open and _begins_no_other(self._connection):
                self._committed = self._is_committed()
                if not self._committed:
                    # Rolled back by the handler, or by SQLite itself (a full disk, ON CONFLICT ROLLBACK). A server
                    # would undo later statements at the end; here Django has to refuse them.
                    self._lost = self._connection.needs_rollback = True

    def _set_rollback(self, rollback: bool) -> None:
        if self._savepoints() == self._depth:
            self._requested = rollback
        type(self._connection).set_rollback(self._connection, rollback)

    def _savepoints(self) -> int:
        """The number of open savepoints; an atomic block without one ends as the block around it does."""
        savepoints: list[str | None] = self._connection.savepoint_ids
        return len(savepoints) - savepoints.count(None)

    def _own(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        self._look()  # notices executescript() and the driver's commit(), which do not pass through here
        if self._lost:
            self._connection.validate_no_broken_transaction()
        self.wrote = self.wrote or not is_harmless(sql)
        # Few statements have the word at all, and the pattern looks at each letter of one.
        if isinstance(sql, str) and "lock" in sql.lower() and _RELEASES_LOCK.search(sql):
            self.released_lock = True
        try:
            return execute(sql, params, many, context)
        except Error as error:
            self.lost_race = self.lost_race or self._is_race(error)
            if isinstance(sql, str) and _SETS_TRANSACTION.search(sql):
                error.add_note(SET_TRANSACTION)
            raise
        finally:
            self._look()

    def _strange(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        if not is_harmless(sql) and not _BEGINS.fullmatch(str(sql)):
            self.strangers.add(context["connection"].alias)
        return execute(sql, params, many, context)

    def rollback_requested(self) -> bool:
        """
        Did the handler ask for a rollback (`set_rollback(True)`)?

        Raises `TransactionBroken` if the transaction is unusable for another reason, and `CommittedEarly` if it is
        known to be committed.
        """
        connection = self._connection
        if connection.closed_in_transaction or connection.connection is None:
            raise TransactionBroken(
                "The handler closed the database connection inside its transaction, so its work was rolled back."
                " Leave the connection open."
            )
        if self._committed:
            raise CommittedEarly
        if self._left_open:
            raise TransactionBroken(
                "The handler left an atomic block open (a generator that was not read to its end, an __enter__ without"
                " its __exit__), so its work was rolled back. Leave the block before you return."
            )
        if self._lost:
            raise TransactionBroken(
                "The handler's transaction was rolled back, by a statement of its own or by SQLite after an error, and"
                " the handler continued. Let the error propagate."
            )
        if connection.needs_rollback and not self._requested:
            raise TransactionBroken(
                "The handler swallowed a database error that broke its transaction, so its work was rolled back."
                " Let the error propagate, or put the statement that may fail into its own atomic block."
            ) from (connection.rollback_exc if connection.rollback_exc is not self._earlier else None)
        return bool(connection.needs_rollback)


def is_harmless(sql: object) -> bool:
    """Is *sql* plainly a read or a savepoint, so that it writes nothing and ends no transaction?"""
    return isinstance(sql, str) and _HARMLESS.fullmatch(sql) is not None


def _begins_no_other(connection: Any) -> bool:
    """Does the driver begin no transaction after one that a statement of the handler's has ended?"""
    if connection.vendor == "postgresql":
        return connection.connection is not None and not hasattr(connection.connection, "pgconn")  # psycopg2
    return bool(connection.vendor == SQLITE)


def is_open(connection: Any) -> bool | None:
    """Does the driver of *connection* see an open transaction? No server is asked. None if the driver cannot tell."""
    raw = connection.connection
    if raw is None or connection.closed_in_transaction:
        return False
    if connection.vendor == SQLITE:
        try:
            return bool(raw.in_transaction)
        except connection.Database.ProgrammingError:  # the handler closed it without Django
            return False
    if connection.vendor == "postgresql":
        # psycopg 3, psycopg 2; 0 is libpq's PQTRANS_IDLE
        return bool((getattr(raw, "pgconn", None) or raw.info).transaction_status)
    status = getattr(raw, "server_status", None)  # PyMySQL; mysqlclient has none
    return None if status is None else bool(status & 1)  # SERVER_STATUS_IN_TRANS
