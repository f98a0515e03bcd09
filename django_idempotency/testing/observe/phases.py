"""
Watches the phases of runs: which one calls its function, and whether a key or a probe heals a second call.

It replaces the engine's own methods for as long as the block lasts, in every thread.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django_idempotency.engine.phases import Phases, with_key

_here = threading.local()

Around = Callable[[Callable[[], Any], str], Callable[[], Any]]  # of the call that a phase makes, and its name


@dataclass(frozen=True, slots=True)
class Phase:
    """
    A phase that this thread is in. *is_healed*: its function takes a key, or it has a probe, by which another system
    recognises a second call.
    """

    name: str
    is_healed: bool


def current_phase() -> Phase | None:
    """The phase that this thread is in, or whose probe it asks."""
    return getattr(_here, "phase", None)


@contextmanager
def watch_phases(around: Around | None = None) -> Iterator[None]:
    """Note the `current_phase` while the block runs. *around* may replace the call of each phase that is made."""
    kind: Any = Phases
    own_run, own_execute = kind.run, kind._execute

    def run(phases: Phases, name: str, fn: Callable[..., Any], probe: Any, was: str | None) -> Any:
        before = current_phase()
        _here.phase = Phase(name, is_healed=probe is not None or with_key(fn, "") is not fn)
        try:
            return own_run(phases, name, fn, probe, was)
        finally:
            _here.phase = before

    def execute(phases: Phases, name: str, call: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
        return own_execute(phases, name, call if around is None else around(call, name), *args, **kwargs)

    kind.run, kind._execute = run, execute
    try:
        yield
    finally:
        kind.run, kind._execute = own_run, own_execute
