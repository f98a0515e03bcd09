"""The one place that opens a transaction, and what can be known of the one that is open."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

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

    __slots__ = ("_connection", "_earlier", "strangers", "wrote")

    def __init__(self, using: str) -> None:
        self._connection = connections[using]
        self._earlier = self._connection.rollback_exc
        self.wrote = False
        self.strangers: set[str] = set()  # aliases of other databases that were written to

    @contextmanager
    def handler(self) -> Iterator[None]:
        """Watch the statements of this thread, on every configured database."""
        using = self._connection.alias
        with self._connection.execute_wrapper(self._own):
            if len(connections.settings) == 1:
                yield
                return
            with ExitStack() as stack:
                for alias in connections:
                    if alias != using:
                        stack.enter_context(connections[alias].execute_wrapper(self._strange))
                yield

    def _own(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        if not self.wrote and is_write(sql):
            self.wrote = True
        return execute(sql, params, many, context)

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
        if connection.needs_rollback and connection.rollback_exc is not self._earlier:
            raise TransactionBroken(
                "The handler swallowed a database error that broke its transaction, so its work was rolled back."
                " Let the error propagate, or put the statement that may fail into its own atomic block."
            ) from connection.rollback_exc
        return connection.needs_rollback


WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "REPLAC", "MERGE "})


def is_write(sql: object) -> bool:
    """Does the statement begin like one that writes? A guess for warnings, no more."""
    return isinstance(sql, str) and sql.lstrip()[:6].upper() in WRITES


def in_transaction(using: str) -> bool:
    """Is a transaction open on *using* that is not ours to start again?"""
    connection: BaseDatabaseWrapper = connections[using]
    return connection.in_atomic_block or not connection.get_autocommit()
