"""
Records effects that no transaction covers: e-mails, connections to other servers, files, processes, threads.

Python's audit events report all but e-mails and threads, for any library. The connections of Django's database and
cache layers are left out, and C code that does without Python is not seen.
"""

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import Any

from django.core.mail.backends.base import BaseEmailBackend
from django.db import connections

from django_idempotency.testing.observe.addresses import is_a_layers_own, is_projects_own
from django_idempotency.testing.observe.phases import Around, current_phase, watch_phases
from django_idempotency.testing.observe.tracer import find_origin, frames

E_MAIL, CONNECTION, FILE, NEW_FILE, PROCESS, THREAD = "e-mail", "connection", "file", "new file", "process", "thread"
FOREIGN = (E_MAIL, CONNECTION, FILE, PROCESS)  # kinds that a rollback does not undo


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignEffect:
    """Something that a rollback does not undo. *inside*: did its thread have a transaction open?"""

    kind: str
    what: str
    inside: bool
    where: str  # the line of the project's code, or empty
    phase: str = ""  # of a run in phases, in which it happened
    is_healed: bool = False  # Does the phase have a key or a probe, by which a second call is recognised?

    def __str__(self) -> str:
        place = f", at {self.where}" if self.where else ""
        return f"{self.kind} {self.what}{f' in phase {self.phase!r}' if self.phase else ''}{place}"


@dataclass(frozen=True, slots=True)
class Guard:
    """What all threads of the process did in the block, in order."""

    effects: list[ForeignEffect] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)  # those started, except by a database's pool

    @property
    def inside(self) -> list[ForeignEffect]:
        """The effects of the `FOREIGN` kinds inside a transaction."""
        return [effect for effect in self.effects if effect.inside and effect.kind in FOREIGN]

    def kinds(self) -> Counter[str]:
        """The number of effects of each kind."""
        return Counter(effect.kind for effect in self.effects)

    def wait_for_threads(self, seconds: float) -> None:
        """Wait at most *seconds* for the threads that were started, and for those that they start."""
        deadline = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))


Listener = Callable[[ForeignEffect], object]


@dataclass(slots=True)
class _Observer:
    depths: dict[str, int]  # how many atomic blocks each database's connection was in when the watch began
    before: Listener
    after: Listener


_observers: list[_Observer] = []
_here = threading.local()  # .busy: this thread is recording an effect already


@contextmanager
def guard(
    before: Listener | None = None, after: Listener | None = None, around_phase: Around | None = None
) -> Iterator[Guard]:
    """
    Record what no transaction covers while the block runs.

    *before* is called with each effect just before it happens, in its thread; *after* with each e-mail that was sent.
    *around_phase* may replace the call of each phase, whose name it gets.
    Transactions that were open when the block began, such as a `TestCase`'s, do not count.
    """
    seen = Guard()

    def note(effect: ForeignEffect) -> None:
        if before is not None:
            before(effect)
        seen.effects.append(effect)

    _listen()
    load_backends()
    observer = _Observer(_depths(), note, after or (lambda effect: None))
    with _record_e_mails(), _record_threads(seen.threads), watch_phases(around_phase):
        _observers.append(observer)
        try:
            yield seen
        finally:
            _observers.remove(observer)


def _record(kind: str, what: str, *, sent: bool = False) -> None:
    for observer in tuple(_observers):
        inside = any(depth > observer.depths.get(alias, 0) for alias, depth in _depths().items())
        phase = current_phase()
        effect = ForeignEffect(
            kind=kind,
            what=what,
            inside=inside,
            where=find_origin().line,
            phase=phase.name if phase else "",
            is_healed=phase is not None and phase.is_healed,
        )
        (observer.after if sent else observer.before)(effect)


def _depths() -> dict[str, int]:
    # A transaction begun by `set_autocommit(False)` counts as one block.
    return {
        connection.alias: len(connection.atomic_blocks)
        or (connection.connection is not None and not connection.autocommit)
        for connection in connections.all(initialized_only=True)
    }


# --- audit events ---


def _socket(args: tuple[Any, ...]) -> tuple[str, str] | None:
    address = args[1]
    if not isinstance(address, tuple):
        return None  # a Unix socket: on this machine
    return None if is_projects_own(str(address[0]), str(address[1])) else (CONNECTION, f"to {address[0]}:{address[1]}")


def _open(args: tuple[Any, ...]) -> tuple[str, str] | None:
    path, _, flags = args
    if any(frame.f_globals.get("__name__", "").partition(".")[0] == "logging" for frame in frames()):
        return None  # a log file, opened for its first line
    if not isinstance(path, (str, bytes)) or not flags & (os.O_WRONLY | os.O_RDWR):
        return None
    name = os.fsdecode(path)
    # Opening a directory makes a temporary file without a name.
    if name == os.devnull or "__pycache__" in name or name in _temporary() or os.path.isdir(name):
        return None
    # A file that has to be new is left over at worst; an older one is changed.
    return (NEW_FILE if flags & os.O_EXCL else FILE), name


def _process(args: tuple[Any, ...]) -> tuple[str, str]:
    return PROCESS, os.fsdecode(args[0]) if isinstance(args[0], (str, bytes)) else str(args[0])


EVENTS: dict[str, Callable[[tuple[Any, ...]], tuple[str, str] | None]] = {
    "socket.connect": _socket,
    "open": _open,
    "tempfile.mkstemp": lambda args: _temporary().add(os.fsdecode(args[0])),
    "subprocess.Popen": _process,
    "os.system": _process,
}


def _audit(event: str, args: tuple[Any, ...]) -> None:
    # It cannot be removed again. Without an observer it costs one look at a list.
    if not _observers or event not in EVENTS or getattr(_here, "busy", False):
        return
    _here.busy = True
    try:
        found = EVENTS[event](args)
        if found is not None:
            _record(*found)
    finally:
        _here.busy = False


def _temporary() -> set[str]:
    """The temporary files that this thread has made, such as uploads, which their owner removes."""
    if not hasattr(_here, "temporary"):
        _here.temporary = set()
    names: set[str] = _here.temporary
    return names


@lru_cache(maxsize=1)
def _listen() -> None:
    sys.addaudithook(_audit)


# --- e-mails ---


def load_backends() -> None:
    """Import Django's own backends, so that `_backends` finds them; a project's own are imported before use."""
    for name in ("console", "dummy", "filebased", "locmem", "smtp"):
        import_module(f"django.core.mail.backends.{name}")


def _backends(parent: Any = BaseEmailBackend) -> Iterator[Any]:
    for backend in parent.__subclasses__():
        yield backend
        yield from _backends(backend)


def _record_around(send: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Wrap *send*, a backend's `send_messages`, to record each message before and after."""

    def send_messages(backend: Any, messages: Any) -> Any:
        if getattr(_here, "busy", False):  # a backend that calls another one
            return send(backend, messages)
        _here.busy = True  # the connection to the mail server is part of the e-mail
        try:
            sent = list(messages)
            names = [f"{message.subject!r} to {', '.join(message.recipients())}" for message in sent]
            for name in names:
                _record(E_MAIL, name)
            result = send(backend, sent)
            for name in names:
                _record(E_MAIL, name, sent=True)
            return result
        finally:
            _here.busy = False

    return send_messages


@contextmanager
def _record_e_mails() -> Iterator[None]:
    own = [(each, vars(each)["send_messages"]) for each in {*_backends()} if "send_messages" in vars(each)]
    for backend, send in own:
        backend.send_messages = _record_around(send)
    try:
        yield
    finally:
        for backend, send in own:
            backend.send_messages = send


# --- threads, for which Python 3.11 has no audit event ---


@contextmanager
def _record_threads(started: list[threading.Thread]) -> Iterator[None]:
    own = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        # Threads of a database's pool, and those that renew leases, live as long as the process.
        if is_a_layers_own() or thread.name.startswith("django_idempotency "):
            own(thread)
            return
        if not getattr(_here, "busy", False):
            _here.busy = True
            try:
                _record(THREAD, thread.name)
            finally:
                _here.busy = False
        own(thread)
        started.append(thread)

    threading.Thread.start = start  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        threading.Thread.start = own  # type: ignore[method-assign]
