"""
The points at which a process can be killed: before and after each statement that it sends to a database, each command
to Redis, and each effect that no transaction covers.

They are put around Django's and redis-py's own methods, in a process that ends with the call. Calls of the driver that
bypass Django (`connection.connection.commit()`) are no points.
"""

import re
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from django_idempotency.testing.observe.guards import FOREIGN, ForeignEffect
from django_idempotency.testing.processes.forks import Line

END = "before the answer is sent"
METHODS: dict[str, Callable[..., str]] = {
    "_commit": lambda *args: "COMMIT",
    "_rollback": lambda *args: "ROLLBACK",
    "_set_autocommit": lambda autocommit: "AUTOCOMMIT" if autocommit else "BEGIN",
}
STATEMENTS = ("_execute", "_executemany")  # of Django's cursor, which send every statement, also of savepoints
# The commands of a new connection, which have no effect.
GREETINGS = frozenset({"AUTH", "CLIENT", "CLUSTER", "COMMAND", "HELLO", "PING", "READONLY", "SELECT", "SENTINEL"})


class Points:
    """The points that this process reaches, in every thread. A subclass says what happens at each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._here = threading.local()

    def arrive(self, name: str) -> None:
        """The process is at the point *name*, and its other threads wait at their next ones."""
        raise NotImplementedError

    def reach(self, name: str) -> None:
        if getattr(self._here, "connecting", False):
            return  # what a new connection sends first has no effect
        with self._lock:
            self.arrive(name)

    def around(self, call: Callable[..., Any], what: str) -> Callable[..., Any]:
        """*call*, with a point before it and one after it."""

        def halting(*args: Any, **kwargs: Any) -> Any:
            self.reach(f"before {what}")
            try:
                return call(*args, **kwargs)
            finally:
                self.reach(f"after {what}")

        return halting

    def install(self) -> None:
        """Reach a point in all that this process does from now on, in every thread."""
        wrappers = {type(connection) for connection in connections.all()}
        # All methods are read before one is replaced, as some are inherited.
        own = [(wrapper, name, getattr(wrapper, name)) for wrapper in wrappers for name in METHODS]
        connecting = [(wrapper, wrapper.connect) for wrapper in wrappers]
        for wrapper, name, method in own:
            setattr(wrapper, name, self._method(method, METHODS[name]))
        for wrapper, connect in connecting:
            setattr(wrapper, "connect", self._quietly(connect))  # noqa: B010 a method, to mypy
        for name in STATEMENTS:
            setattr(CursorWrapper, name, self._statement(getattr(CursorWrapper, name)))
        if "redis.connection" in sys.modules:
            self._install_redis(sys.modules["redis.connection"].AbstractConnection)

    def _method(self, method: Callable[..., Any], what: Callable[..., str]) -> Callable[..., Any]:
        def wrapped(connection: BaseDatabaseWrapper, *args: Any) -> Any:
            return self.around(method, named(what(*args), connection.alias))(connection, *args)

        return wrapped

    def _statement(self, execute: Callable[..., Any]) -> Callable[..., Any]:
        # Not an execute wrapper, beside which nothing is folded on MariaDB and MySQL.
        def wrapped(cursor: CursorWrapper, sql: Any, *args: Any) -> Any:
            return self.around(execute, named(label(sql), cursor.db.alias))(cursor, sql, *args)

        return wrapped

    def _quietly(self, connect: Callable[..., Any]) -> Any:
        def quiet(connection: BaseDatabaseWrapper) -> None:
            self._here.connecting = True
            try:
                connect(connection)
            finally:
                self._here.connecting = False

        return quiet

    def _install_redis(self, kind: Any) -> None:
        send, send_packed, read = kind.send_command, kind.send_packed_command, kind.read_response
        here = threading.local()

        def send_command(connection: Any, *args: Any, **kwargs: Any) -> Any:
            here.command = str(args[0]).split(" ")[0].upper()
            try:
                return send(connection, *args, **kwargs)
            finally:
                here.command = ""

        def send_packed_command(connection: Any, *args: Any, **kwargs: Any) -> Any:
            command = getattr(here, "command", "") or _packed_command(*args, **kwargs)
            if command in GREETINGS:
                return send_packed(connection, *args, **kwargs)
            self.reach(f"before Redis {command}")
            result = send_packed(connection, *args, **kwargs)
            here.sent = command  # not before, because sending may connect first, and read replies to that
            return result

        def read_response(connection: Any, *args: Any, **kwargs: Any) -> Any:
            sent, here.sent = getattr(here, "sent", ""), ""
            try:
                return read(connection, *args, **kwargs)
            finally:
                if sent:
                    self.reach(f"after Redis {sent}")

        kind.send_command, kind.send_packed_command, kind.read_response = (
            send_command,
            send_packed_command,
            read_response,
        )


def _packed_command(packed: Iterable[bytes], *, check_health: bool = True) -> str:
    """The name of a command that was packed by who sends it, as the RedisStore does. The driver packs pipelines."""
    return "pipeline" if check_health else next(iter(packed)).split(b"\r\n", 3)[2].decode()


class HaltingPoints(Points):
    """
    Lists the names of the points, and halts the process at number *halt_at*, counted from 0.

    There it sends its parent "halted" with the name, and waits to be killed. Foreign effects are sent at once, as
    "effect": so the parent knows those of a process that is killed later.
    """

    def __init__(self, line: Line, halt_at: int | None = None) -> None:
        super().__init__()
        self.line = line
        self.halt_at = halt_at
        self.names: list[str] = []

    def arrive(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) - 1 == self.halt_at:
            self.line.tell("halted", name)
            self.line.wait()

    def effect_is_due(self, effect: ForeignEffect) -> None:
        if effect.kind in FOREIGN:
            self.reach(f"before {effect.kind} {effect.what}")
        self.line.tell("effect", effect)

    def phase(self, call: Callable[[], Any], name: str) -> Callable[[], Any]:
        """Reach points around the *call* of the phase *name*, and tell the parent when it is made."""

        def told() -> Any:
            self.line.tell("phase", name)
            return call()

        return self.around(told, f"the call of phase {name!r}")

    def effect_was(self, effect: ForeignEffect) -> None:
        self.reach(f"after {effect.kind} {effect.what}")


def named(what: str, alias: str) -> str:
    return what if alias == "default" else f"{what} on {alias!r}"


OWN = {
    "run": re.compile(r"(?:INTO|UPDATE|DELETE FROM) [`\"]?django_idempotency_run\b"),
    "claim": re.compile("INSERT|SET fingerprint|_claim_v|_begin_v"),
    "phase": re.compile("SET head = "),
    "record": re.compile(r"SET status = (?!0\b)|_complete_v|_commit_v"),  # of a parameter, or of its value on the wire
}
BEGIN_BEFORE = re.compile("BEGIN[^;]*; ")  # in one message with the claim


def label(sql: object) -> str:
    """The name of a statement in a report: its verb and its table, without what differs in every run."""
    text = " ".join(str(sql).split()) if isinstance(sql, (str, bytes)) else "a composed statement"
    text = BEGIN_BEFORE.sub("", text, count=1) if text.startswith("BEGIN") else text
    verb, _, rest = text.partition(" ")
    if verb in ("SAVEPOINT", "RELEASE", "BEGIN", "COMMIT"):
        return verb
    if verb == "ROLLBACK":
        return "ROLLBACK TO" if "TO" in rest.upper().split() else verb
    if "django_idempotency" in text:
        of = next((name for name, sign in OWN.items() if sign.search(text)), "look-up")
        return f"{of} and COMMIT" if text.endswith("; COMMIT") or "_commit_v" in text else of
    table = re.search(r"(?:FROM|INTO|UPDATE|TABLE) [`\"\[]?(\w+)", text)
    return f"{verb} {table[1] if table else rest[:20]}".rstrip()
