"""The one place that opens a transaction, and what can be known of the one that is open."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, cast

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_idempotency.exceptions import TransactionBroken

Outcome = TypeVar("Outcome")


def atomic_phase(using: str, work: Callable[[], Outcome]) -> Outcome:
    """
    Run *work* in a transaction on *using* (in a savepoint where one is open) and commit it, unless *work* raises or has
    called `roll_back`.

    An error out of COMMIT propagates as Django raised it: the work may be durable, and nobody here can know.
    """
    with transaction.atomic(using=using):
        return work()


def roll_back(using: str) -> None:
    """Let the innermost atomic block on *using* roll back at its end, without an exception."""
    connection = connections[using]
    if connection.in_atomic_block and not connection.closed_in_transaction:
        connection.set_rollback(True)


class Watch:
    """
    What a handler did to its transaction, seen from outside: made before the handler runs, asked after it.

    Its statements are seen as Django's `execute_wrapper` shows them; nothing is added to them.
    """

    __slots__ = ("_asked", "_connection", "_depth", "_earlier", "_lost", "strangers", "wrote")

    def __init__(self, using: str) -> None:
        self._connection = cast(Any, connections[using])  # rollback_exc is not in the stubs
        self._earlier = self._connection.rollback_exc
        self._depth = len(self._connection.savepoint_ids)
        self._asked = False  # for a rollback, and not in an atomic block of the handler's own
        self._lost = False  # SQLite's transaction, while the handler ran
        self.wrote = False
        self.strangers: set[str] = set()  # aliases of other databases that were written to

    @contextmanager
    def handler(self) -> Iterator[None]:
        """Watch the statements of this thread, on every configured database."""
        using = self._connection.alias
        with self._connection.execute_wrapper(self._own), self._asking():
            if len(connections.settings) == 1:
                yield
                return
            with ExitStack() as stack:
                for alias in connections:
                    if alias != using:
                        stack.enter_context(connections[alias].execute_wrapper(self._strange))
                yield

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """
        Hear of `set_rollback`. The flag that it sets does not say who did: Django sets it as well when an atomic block
        of the handler's own could not be rolled back, because the transaction around it is gone.
        """
        state = vars(self._connection)
        outer = state.get("set_rollback")  # an operation's whose handler runs this one
        state["set_rollback"] = self._set_rollback
        try:
            yield
        finally:
            if outer is None:
                del state["set_rollback"]
            else:
                state["set_rollback"] = outer

    def _set_rollback(self, rollback: bool) -> None:
        if len(self._connection.savepoint_ids) == self._depth:
            self._asked = rollback
        BaseDatabaseWrapper.set_rollback(self._connection, rollback)

    def _own(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        if not self.wrote and is_write(sql):
            self.wrote = True
        if self._connection.vendor != "sqlite":
            return execute(sql, params, many, context)
        was_open = self._is_open()
        try:
            return execute(sql, params, many, context)
        finally:
            # SQLite has rolled back by itself (a full disk, ON CONFLICT ROLLBACK) or was told to, and now commits each
            # statement. Elsewhere what follows is undone at the end; here Django has to let nothing follow.
            if was_open and not self._is_open() and not is_commit(sql):
                self._lost = self._connection.needs_rollback = True

    def _is_open(self) -> bool:
        raw = self._connection.connection
        return raw is not None and bool(raw.in_transaction)

    def _strange(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        if is_write(sql):
            self.strangers.add(context["connection"].alias)
        return execute(sql, params, many, context)

    def rollback_requested(self) -> bool:
        """
        Did the handler ask for a rollback (`set_rollback(True)`)?

        Raises `TransactionBroken` where the transaction is beyond use for another reason, which the message names.
        """
        connection = self._connection
        if connection.closed_in_transaction or connection.connection is None:
            raise TransactionBroken(
                "The handler closed the database connection inside its transaction, so its work was rolled back."
                " Leave the connection open."
            )
        if self._lost:
            raise TransactionBroken(
                "The handler's transaction was rolled back, by a statement of its own or by SQLite after an error, and"
                " the handler went on. Let the error propagate."
            )
        if connection.needs_rollback and not self._asked:
            raise TransactionBroken(
                "The handler swallowed a database error that broke its transaction, so its work was rolled back."
                " Let the error propagate, or put the statement that may fail into its own atomic block."
            ) from (connection.rollback_exc if connection.rollback_exc is not self._earlier else None)
        return bool(connection.needs_rollback)


WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "REPLAC", "MERGE "})


def is_write(sql: object) -> bool:
    """Does the statement begin like one that writes? A guess for warnings, no more."""
    return isinstance(sql, str) and sql.lstrip()[:6].upper() in WRITES


def is_commit(sql: object) -> bool:
    """Is the statement one that commits? `store.complete` finds that out."""
    return isinstance(sql, str) and sql.lstrip().upper().startswith(("COMMIT", "END"))


def in_transaction(using: str) -> bool:
    """Is a transaction open on *using* that is not ours to start again?"""
    connection: BaseDatabaseWrapper = connections[using]
    return connection.in_atomic_block or not connection.get_autocommit()
