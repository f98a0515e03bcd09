"""
Forked processes on the test database: each has its own connections, reports to its parent, and can be killed.

A fork has a copy of its parent's memory, so it can make any call that a test can make.
"""

import gc
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from django.conf import settings
from django.core.cache import caches
from django.db import connections
from django.urls import get_resolver
from django.utils.module_loading import import_string

from django_idempotency import conf
from django_idempotency.stores import stores
from django_idempotency.testing.observe.guards import load_backends

TIMEOUT = 60.0  # seconds of silence after which the other side counts as hung


class CannotFork(RuntimeError):
    """This test cannot share its database with another process. The message says how it can."""


class ProcessFailed(RuntimeError):
    """A process has ended, or hangs, without a result."""


def prepare(using: Iterable[str]) -> None:
    """
    Prepare to fork processes that use the databases *using*.

    Raises `CannotFork` if they would not see what this process sees: inside a transaction, or on a database in memory.
    """
    if not hasattr(os, "fork"):
        raise CannotFork("This system cannot fork: race() and crash_points() need Linux, macOS or another Unix.")
    for alias in using:
        connection = connections[alias]
        if connection.in_atomic_block:
            raise CannotFork(
                f"The test holds a transaction on database {alias!r}, so another process does not see its rows. Use"
                " TransactionTestCase instead of TestCase; with pytest-django, the mark django_db(transaction=True) or"
                " the fixture transactional_db."
            )
        if connection.vendor == "sqlite" and connection.is_in_memory_db():  # type: ignore[attr-defined]
            raise CannotFork(
                f"The test database {alias!r} is in this process's memory, where no other process can see it. Give it a"
                f" file: DATABASES[{alias!r}]['TEST'] = {{'NAME': BASE_DIR / 'test.sqlite3'}}; or name only the others"
                " in `using`."
            )
    # Otherwise each process would have to load this at its first request.
    get_resolver().url_patterns  # noqa: B018 imports the views
    load_backends()
    if any("redis" in cache["BACKEND"].lower() for cache in settings.CACHES.values()):
        import_module("redis.connection")
    for path in settings.MIDDLEWARE:
        import_string(path)
    for name in conf.stores():
        store = stores[name]
        database = store.database()
        if database and database in using and hasattr(store, "dialect"):
            store.dialect(database)


class Line:
    """A process's end of the pipe to its parent, shared by its threads."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def tell(self, what: str, value: object = None) -> None:
        """Send the parent a message, which must be picklable."""
        with self._lock:
            self._pipe.send((what, value))

    def wait(self) -> Any:
        """Wait for the parent's next message. If the parent is gone, this process ends."""
        try:
            return self._pipe.recv()
        except (EOFError, OSError):
            os._exit(1)


class Process:
    """A forked process that runs *work* and sends its parent the result, which must be picklable."""

    # Pipes to living processes: a new process must not keep another's open.
    _pipes: set[Connection] = set()

    def __init__(self, work: Callable[[Line], object]) -> None:
        for connection in connections.all(initialized_only=True):
            # SQLite keeps its locks in memory, where a fork would find locks that it does not hold.
            if connection.vendor == "sqlite":
                connection.close()
        self._left_behind = [
            thread.name for thread in threading.enumerate() if thread is not threading.current_thread()
        ]
        self._pipe, there = Pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about other threads, which the child does not use
            self.pid = os.fork()
        if self.pid == 0:
            _live(work, there, (self._pipe, *self._pipes))
        there.close()
        self._pipes.add(self._pipe)
        self._ended = False

    def hear(self, timeout: float = TIMEOUT) -> tuple[str, Any]:
        """
        Wait for its next message, a name and a value; the last one is "result". *timeout* is in seconds.

        Raises `ProcessFailed` if it ends or sends nothing.
        """
        if not self._pipe.poll(timeout):
            raise ProcessFailed(f"Process {self.pid} said nothing for {timeout:.0f} s.{self._hint()}")
        try:
            what, value = self._pipe.recv()
        except (EOFError, OSError):
            raise ProcessFailed(f"Process {self.pid} ended without a result.") from None
        if what == "failed":
            raise ProcessFailed(f"Process {self.pid} failed:\n{value}")
        return what, value

    def _hint(self) -> str:
        if not self._left_behind:
            return ""
        return (
            f" It may wait for a thread that only the test's own process has: {', '.join(self._left_behind)}. A pool"
            " that was used before the fork has no threads after it: use a pool first in the call, not in the test."
        )

    def result(self, timeout: float = TIMEOUT) -> Any:
        """Wait for the result of its work, and ignore other messages. Raises as `hear` does."""
        while True:
            what, value = self.hear(timeout)
            if what == "result":
                return value

    def send(self, value: object) -> None:
        self._pipe.send(value)

    def kill(self) -> None:
        """Kill it by SIGKILL, and wait for its end. Its earlier messages can still be heard."""
        if not self._ended:
            self._ended = True
            os.kill(self.pid, signal.SIGKILL)  # the number is still its own, because nobody has waited for it
            os.waitpid(self.pid, 0)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        """Kill it if it still runs."""
        self.kill()
        self._pipes.discard(self._pipe)
        self._pipe.close()


def _live(work: Callable[[Line], object], pipe: Connection, others: Iterable[Connection]) -> NoReturn:
    """The whole life of a forked process. It runs no exit handler of its parent and writes no buffer twice."""
    status = 1
    try:
        for other in others:
            other.close()
        _leave_inheritance()
        line = Line(pipe)
        try:
            line.tell("result", work(line))
            status = 0
        except BaseException:  # sent to the parent, which raises it
            line.tell("failed", traceback.format_exc())
    finally:
        os._exit(status)


_inherited: list[object] = []


def _leave_inheritance() -> None:
    """
    Forget the parent's connections without closing them, which would end them for the parent too.

    They stay referenced, so that no destructor closes them.
    """
    gc.freeze()
    for connection in connections.all(initialized_only=True):
        _inherited.append(connection.connection)
        connection.connection = None
        pools = getattr(type(connection), "_connection_pools", None)
        if pools:
            _inherited.append(dict(pools))
            pools.clear()
    _inherited.extend(caches.all(initialized_only=True))
    for alias in caches:
        try:
            del caches[alias]
        except AttributeError:
            pass  # never used
