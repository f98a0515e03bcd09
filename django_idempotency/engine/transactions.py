"""The one place that opens a transaction, and what can be known of the one that is open."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar, cast

from django.db import Error, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_idempotency.exceptions import CommittedEarly, TransactionBroken

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

    __slots__ = (
        "_asked",
        "_blocks",
        "_committed",
        "_connection",
        "_depth",
        "_earlier",
        "_left_open",
        "_lost",
        "_may_have_committed",
        "_others",
        "_outer",
        "_rolled_back",
        "_savepoint_ids",
        "strangers",
        "wrote",
    )

    def __init__(self, using: str) -> None:
        self._connection = cast(Any, connections[using])  # rollback_exc is not in the stubs
        self._earlier = self._connection.rollback_exc
        self._depth = self._savepoints()
        self._asked = False  # for a rollback, and not in an atomic block of the handler's own
        self._left_open = False  # an atomic block of the handler's
        self._lost = False  # SQLite's transaction, while the handler ran
        self._committed = False  # and left, on SQLite, where the claim's row does not tell it
        self._may_have_committed = False
        self._rolled_back = False
        self.wrote = False
        self.strangers: set[str] = set()  # aliases of other databases that were written to

    def __enter__(self) -> None:
        """Watch the statements of this thread, on every configured database, and hear of `set_rollback`."""
        connection = self._connection
        # What `execute_wrapper` does, without a generator for each database: this is on every execution's way.
        using = connection.alias
        self._others = [connections[alias].execute_wrappers for alias in connections.settings if alias != using]
        for wrappers in self._others:
            wrappers.append(self._strange)
        connection.execute_wrappers.append(self._own)
        # The flag does not say who set it: Django sets it as well when an atomic block of the handler's own could not
        # be rolled back, because the transaction around it is gone.
        state = vars(connection)
        self._outer = state.get("set_rollback")  # of an operation whose handler runs this one
        state["set_rollback"] = self._set_rollback
        self._blocks, self._savepoint_ids = len(connection.atomic_blocks), len(connection.savepoint_ids)

    def __exit__(self, *error: object) -> None:
        connection = self._connection
        if not self._rolled_back and not connection.closed_in_transaction and self._has_ended():
            self._may_have_committed = True  # what passes by the wrappers, executescript() for one
        if len(connection.savepoint_ids) != self._savepoint_ids:
            # Whoever leaves it later would end ours: ours ends first, and takes it along.
            self._left_open = True
            del connection.atomic_blocks[self._blocks :], connection.savepoint_ids[self._savepoint_ids :]
        if self._outer is None:
            del vars(connection)["set_rollback"]
        else:
            vars(connection)["set_rollback"] = self._outer
        # By name: the handler may have installed wrappers of its own that stay.
        connection.execute_wrappers.remove(self._own)
        for wrappers in self._others:
            wrappers.remove(self._strange)

    def _has_ended(self) -> bool:
        """Is there no transaction at all any more, as far as the driver tells without asking the server?"""
        if self._connection.vendor == "sqlite":
            return not self._is_open()
        status = getattr(getattr(self._connection.connection, "pgconn", None), "transaction_status", None)
        return status == 0  # libpq's PQTRANS_IDLE

    def _set_rollback(self, rollback: bool) -> None:
        if self._savepoints() == self._depth:
            self._asked = rollback
        type(self._connection).set_rollback(self._connection, rollback)

    def _savepoints(self) -> int:
        """How many are open: an atomic block without one shares the fate of the block around it."""
        return sum(savepoint is not None for savepoint in self._connection.savepoint_ids)

    def _own(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        if not self.wrote and is_write(sql):
            self.wrote = True
        if may_commit(sql):
            self._may_have_committed = True
        elif is_rollback(sql):
            self._rolled_back = True
        if self._connection.vendor != "sqlite":
            return execute(sql, params, many, context)
        was_open = self._is_open()
        try:
            return execute(sql, params, many, context)
        finally:
            # What follows would be committed statement by statement.
            if was_open and not self._is_open():
                if may_commit(sql):
                    self._committed = True
                else:
                    # SQLite has rolled back by itself (a full disk, ON CONFLICT ROLLBACK) or was told to. Elsewhere
                    # what follows is undone at the end; here Django has to let nothing follow.
                    self._rolled_back = True
                    self._lost = self._connection.needs_rollback = True

    def _is_open(self) -> bool:
        raw = self._connection.connection
        return raw is not None and bool(raw.in_transaction)

    def may_have_committed(self) -> bool:
        """Did the handler send something that ends a transaction? A look at the claim tells then whether it did."""
        return self._may_have_committed and not self._connection.closed_in_transaction

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


# The verbs of statements that end a transaction, DDL's on MariaDB and MySQL among them.
ENDS = frozenset(
    {"ALTER", "ANALYZE", "BEGIN", "CALL", "COMMIT", "CREATE", "DROP", "END", "GRANT"}
    | {"LOCK", "OPTIMIZE", "RENAME", "REVOKE", "START", "TRUNCATE", "XA"}
)


def may_commit(sql: object) -> bool:
    """Is there a statement in *sql* that begins like one that commits, on some database?"""
    if not isinstance(sql, str):
        return False
    if ";" in sql:
        return any(may_commit(part) for part in sql.split(";"))
    return sql.lstrip()[:8].upper().partition(" ")[0].rstrip() in ENDS


def is_rollback(sql: object) -> bool:
    """Does the statement roll a whole transaction back?"""
    words = sql[:40].upper().split() if isinstance(sql, str) else []
    return words[:1] == ["ROLLBACK"] and "TO" not in words


def after_commit(using: str, send: Callable[[], list[tuple[Any, Any]]]) -> None:
    """*send* a signal robustly when the transaction that is open on *using* has committed, at once without one."""
    if connections[using].in_atomic_block:
        transaction.on_commit(send, using=using, robust=True)
    else:
        shielded(using, send)


def shielded(using: str, send: Callable[[], list[tuple[Any, Any]]]) -> None:
    """*send* a signal robustly, so that a receiver's database error undoes the receivers' work and no other."""
    connection = connections[using]
    if (
        connection.connection is None  # perhaps because it cannot be had: to ask for its autocommit would raise
        or not in_transaction(using)
        or connection.closed_in_transaction
        or connection.needs_rollback
    ):
        send()
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(transaction.atomic(using=using))
        except Error:  # the connection is lost: what a receiver does on it fails by itself
            send()
            return
        if any(isinstance(result, Exception) for _, result in send()):
            connection.set_rollback(True)


def in_transaction(using: str) -> bool:
    """Is a transaction open on *using* that is not ours to start again?"""
    connection: BaseDatabaseWrapper = connections[using]
    return connection.in_atomic_block or not connection.get_autocommit()
