"""
Async handlers: the engine runs on the request's own thread, and the handler on its event loop.

Django's async ORM sends its statements on that thread too, so that the handler's are in the claim's transaction. The
engine stays as it is: it blocks the thread, and while it waits for the handler the thread serves what the handler sends
there, and nothing else. So two requests that share a thread run one after the other, never in one transaction. A
duplicate that waits for its rival does so on the event loop, and its thread is free.
"""

import asyncio
import atexit
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async
from django.db import connections

from django_idempotency.engine import other_threads  # noqa: F401 it observes the connections of handlers
from django_idempotency.engine.run import Patience, Pause
from django_idempotency.exceptions import NothingDone

Result = TypeVar("Result")

INTERVAL = 0.5  # seconds
CANCELLED = "The request was cancelled before its handler began."
SHARED = (
    "Two requests run at once on one thread and one database connection, and the first is in its transaction: this one"
    " is refused. Send them one after the other, or each in a thread of its own as a server does. With asgiref 3.9 and"
    " later they wait for each other."
)
# The calls whose handlers this is the context of, and those that are on this thread; the innermost last.
_inside: ContextVar[tuple["OwnThread", ...]] = ContextVar("django_idempotency_own_threads", default=())
_here = threading.local()


class OwnThread(Patience):
    """
    The thread on which the engine runs for one call of an async handler: under ASGI the request's own, under Django's
    test client that of the test. Where there is none, it is a new one, with connections of its own.

    If the call is cancelled (the client hangs up, a timeout, the server ends) before the handler's answer is taken,
    nothing is recorded, and the transaction is rolled back: also if the handler swallows the cancellation.
    """

    again: Callable[[], Any] | None = None  # the part of the work that is done again after a pause; by default all

    def __init__(self) -> None:
        super().__init__()
        self._is_cancelled = False
        self._lock = threading.Lock()
        self._is_working = self._has_begun = False
        self._task: asyncio.Task[Any] | None = None  # of the handler, while it runs
        self._timer: asyncio.TimerHandle | None = None
        self._when_over: Callable[[], object] | None = None

    async def run(self, work: Callable[[], Result]) -> Result:
        """Call *work* on the thread, and raise what it raises. If this call is cancelled, it ends after *work*."""
        async with ThreadSensitiveContext() as context:
            # A thread that was there before belongs to somebody who closes its connections.
            is_new = context.token is not None and await sync_to_async(_has_no_connections)()
            try:
                while True:
                    try:
                        return await sync_to_async(self._work)(self.again or work)
                    except Pause as pause:
                        await asyncio.sleep(pause.seconds)
            except asyncio.CancelledError:
                await self._cancel()
                raise
            finally:
                if is_new:
                    await sync_to_async(connections.close_all)()

    async def _cancel(self) -> None:
        """Let the work end without an effect, if it can, and wait for that: it needs this event loop."""
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            self._is_cancelled = True
            if not self._is_working:
                return
            self._when_over = partial(loop.call_soon_threadsafe, over.set)
        await over.wait()

    def _work(self, work: Callable[[], Result]) -> Result:
        with self._lock:
            if self._is_cancelled:  # while it waited for the thread
                raise NothingDone(CANCELLED)
            self._is_working = True
        stack: list[OwnThread] = vars(_here).setdefault("stack", [])
        try:
            if stack and stack[-1] not in _inside.get():
                raise RuntimeError(SHARED)
            stack.append(self)
            try:
                return work()
            finally:
                stack.remove(self)
        finally:
            with self._lock:
                self._is_working = False
                if self._when_over is not None:
                    with suppress(RuntimeError):  # the event loop has been closed
                        self._when_over()

    def wait_for(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """On the thread: *call* the handler on the event loop, wait for it, and return its result."""
        try:
            return async_to_sync(self._await)(call)
        except GeneratorExit:  # of `_abandon`
            raise asyncio.CancelledError from None

    def unless_cancelled(self, capture: Callable[[Any], Result]) -> Callable[[Any], Result]:
        """*capture*, after which the record is written, with a last look whether the call is cancelled."""

        def look(value: Any) -> Result:
            answer = capture(value)
            if self._is_cancelled:
                raise asyncio.CancelledError
            return answer

        return look

    async def _await(self, call: Callable[[], Awaitable[Result]]) -> Result:
        if self._is_cancelled:
            raise NothingDone(CANCELLED)
        self._has_begun = True
        inside = _inside.set((*_inside.get(), self))
        task = self._task = asyncio.current_task()
        _awaited.add(self)
        self._end_with_request(SyncToAsync.thread_sensitive_context.get(None))
        try:
            value = await call()
        finally:
            _inside.reset(inside)
            self._task = None
            if self._timer is not None:
                self._timer.cancel()
        if task is not None and task.cancelling():  # a timeout of the handler's own takes its cancellation back
            raise asyncio.CancelledError
        return value

    def _end_with_request(self, context: ThreadSensitiveContext | None) -> None:
        """
        Cancel the handler soon after the *context* of its request ends before it. A server that ends (hypercorn,
        daphne) cancels Django's ASGI handler, which leaves the task of the view alone and waits for the thread.
        """
        if self._task is None or context is None:
            return
        if context in SyncToAsync.context_to_thread_executor:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._end_with_request, context)
        elif self._timer is not None:
            self._task.cancel()

    def abandon(self) -> None:
        """End the handler, if its event loop has stopped: the thread would wait for ever, in an open transaction."""
        task = self._task
        if task is None or task.get_loop().is_running() or (coroutine := task.get_coro()) is None:
            return
        with suppress(RuntimeError):  # a handler that awaits more
            coroutine.close()

    def sleep(self, seconds: float) -> None:
        """On the thread: leave it for *seconds*, in which it serves others; not once the handler has begun."""
        if self._has_begun:  # and has lost to a rival: how often it may run again is known here
            super().sleep(seconds)
        else:
            raise Pause(seconds)


_awaited: WeakSet[OwnThread] = WeakSet()


def _abandon() -> None:
    """Let the threads go whose event loops have stopped. Python joins them before it ends."""
    for thread in list(_awaited):
        thread.abandon()


# Before the joins, unlike `atexit`. Without it, a process whose server just stops (daphne) ends by a kill.
getattr(threading, "_register_atexit", atexit.register)(_abandon)


def _has_no_connections() -> bool:
    return not connections.all(initialized_only=True)
