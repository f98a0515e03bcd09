"""
Calls on a thread of this process, a moment after they were asked for.

A request does not wait for a figure, a span, or a copy in the replay cache. What a killed process has not called is
lost.
"""

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("django_idempotency")

PAUSE = 0.1  # seconds from one look at the queue to the next: to wake the thread would cost those who ask more
MAX_WAITING = 10_000  # calls; what comes on top of them is not made
PATIENCE = 5.0  # seconds, at the end of the process


class Later:
    """A queue of calls, and the thread that makes them."""

    def __init__(self) -> None:
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._hurry = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, call: Callable[..., object], *arguments: Any) -> None:
        if len(self._calls) < MAX_WAITING:
            self._calls.append((call, arguments))
        if self._thread is None:
            self._start()

    def flush(self, timeout: float = PATIENCE) -> bool:
        """Wait until all calls so far are made, at most *timeout* seconds. Returns whether they are."""
        if self._thread is None:
            return True
        over = threading.Event()
        self.add(over.set)
        self._hurry.set()
        return over.wait(timeout)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="django_idempotency-later", daemon=True)
                thread.start()
                self._thread = thread
                # Not at import: before the provider's own end, which comes after those that were registered later.
                atexit.register(flush)

    def _work(self) -> None:
        while True:
            self._hurry.wait(PAUSE)
            self._hurry.clear()
            while self._calls:
                call, arguments = self._calls.popleft()
                try:
                    call(*arguments)
                except Exception:  # of what they are reported to
                    logger.exception("A span, a figure or a copy of an answer is lost")
                time.sleep(0)  # lets a request have the interpreter


_later = Later()


def later(call: Callable[..., object], *arguments: Any) -> None:
    """*call* with *arguments*, on the thread for it."""
    _later.add(call, *arguments)


def flush(timeout: float = PATIENCE) -> bool:
    """Wait until what was asked for so far is done, at most *timeout* seconds. Returns whether it is."""
    return _later.flush(timeout)


def _start_afresh() -> None:
    """A fork has no threads, and its parent makes the calls that wait."""
    global _later
    _later = Later()


os.register_at_fork(after_in_child=_start_afresh)
