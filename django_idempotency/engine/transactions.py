"""The one place that opens a transaction."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from django.db import Error, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

Outcome = TypeVar("Outcome")


def atomic_phase(using: str, work: Callable[[], Outcome]) -> Outcome:
    """
    Run *work* in a transaction on *using*, or in a savepoint of the open one. It commits, unless *work* raises or has
    called `roll_back`.

    An error of COMMIT propagates as Django raised it; the work may be durable then. What *work* first registers by
    `on_commit` is called right after COMMIT, and so tells it from an error of a later hook.
    """
    with transaction.atomic(using=using):
        return work()


def close_begun(using: str) -> None:
    """Close the connection: its session may be in a transaction that Django knows nothing of, and loses work in."""
    with suppress(Error):  # Django forgets the connection all the same
        connections[using].close()


def repeated_phase(using: str, work: Callable[[], Outcome], may_repeat: Callable[[Error], bool]) -> Outcome:
    """Like `atomic_phase`, but after a database error that left nothing committed, as often as *may_repeat* allows."""
    has_committed = False

    def note_commit() -> None:
        nonlocal has_committed
        has_committed = True

    def noted(is_own: bool) -> Outcome:
        if is_own:
            transaction.on_commit(note_commit, using=using)
        return work()

    while True:
        try:
            return atomic_phase(using, partial(noted, not in_transaction(using)))
        except Error as error:
            if has_committed or not may_repeat(error):
                raise


def roll_back(using: str) -> None:
    """Make the innermost atomic block on *using* roll back at its end, without an exception."""
    connection = connections[using]
    if connection.in_atomic_block and not connection.closed_in_transaction:
        connection.set_rollback(True)


def when_durable(using: str, call: Callable[[], object]) -> None:
    """*call* once the transaction that may be open on *using* has committed, or else at once."""
    if connections[using].in_atomic_block:
        transaction.on_commit(call, using=using, robust=True)
    else:
        call()


def after_commit(using: str, send: Callable[[], list[tuple[Any, Any]]]) -> None:
    """Call *send*, which sends a signal robustly, after the open transaction on *using* commits, or else at once."""
    if connections[using].in_atomic_block:
        transaction.on_commit(send, using=using, robust=True)
    else:
        shielded(using, send)


def shielded(using: str, send: Callable[[], list[tuple[Any, Any]]]) -> None:
    """Call *send*, which sends a signal robustly, so that a receiver's database error undoes only receivers' work."""
    connection = connections[using]
    if (
        connection.connection is None  # reading its autocommit would connect, which may fail
        or not in_transaction(using)
        or connection.closed_in_transaction
        or connection.needs_rollback
    ):
        send()
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(transaction.atomic(using=using))
        except Error:  # the connection is lost; a receiver that uses it fails by itself
            send()
            return
        if any(isinstance(result, Exception) for _, result in send()):
            connection.set_rollback(True)


@contextmanager
def undone_on_error() -> Iterator[None]:
    """
    Let the block run in a savepoint of each transaction that is open, so that an error leaves it usable. A savepoint
    begins with the block's first statement: a block that sends none costs none.
    """
    with ExitStack() as stack:
        for connection in connections.all(initialized_only=True):
            if connection.in_atomic_block and not connection.closed_in_transaction and not connection.needs_rollback:
                stack.enter_context(_savepoint_if_used(connection))
        yield


@contextmanager
def _savepoint_if_used(connection: BaseDatabaseWrapper) -> Iterator[None]:
    with ExitStack() as stack:
        has_begun = False

        def begin(execute: Callable[..., Any], *call: Any) -> Any:
            nonlocal has_begun
            if not has_begun:
                has_begun = True  # before the savepoint's own statement comes here
                stack.enter_context(transaction.atomic(using=connection.alias))
            return execute(*call)

        with connection.execute_wrapper(begin):
            yield


def in_transaction(using: str) -> bool:
    """Is a transaction open on *using* that the engine did not open?"""
    return is_in_transaction(connections[using])


def is_in_transaction(connection: Any) -> bool:
    """Like `in_transaction`, of a *connection* that is at hand."""
    return connection.in_atomic_block or not connection.get_autocommit()


def is_inside_a_transaction(using: str) -> bool:
    """Like `in_transaction`, but that of a Django `TestCase` counts as none, as it does for `durable=True`."""
    blocks: Any = connections[using].atomic_blocks  # `_from_testcase` is not in the stubs
    return in_transaction(using) and not (blocks and blocks[-1]._from_testcase)


def leave_open_blocks(using: str) -> bool:
    """Roll back and leave the atomic blocks that a handler left open on *using*. Returns whether there were any."""
    connection: Any = connections[using]
    if not is_inside_a_transaction(using):
        return False
    connection.atomic_blocks.clear()
    connection.savepoint_ids.clear()
    connection.in_atomic_block = connection.needs_rollback = False
    connection.close()
    return True
