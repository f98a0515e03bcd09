"""Signals that end a command: it ends what it has begun, and begins nothing new."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible(*, exits: bool = False) -> Iterator[Callable[[], bool]]:
    """
    Turn the first SIGINT or SIGTERM into a flag to poll. A second one ends the process as usual; if the command *exits*
    it raises `SystemExit` instead, so that `finally` blocks run.
    """
    seen = False
    if threading.current_thread() is not threading.main_thread():  # no other thread gets signals
        yield lambda: seen
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def leave(number: int, frame: Any) -> None:
        sys.exit(128 + number)  # as a shell tells of it

    def note(*args: object) -> None:
        nonlocal seen
        seen = True
        restore()
        if exits:
            for number in SIGNALS:
                signal.signal(number, leave)

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: seen
    finally:
        restore()
