"""
Observes what a request changes (databases by content, e-mails, caches), and which line of the project did it.

Inside a `TestCase` it runs the request's `on_commit` hooks as a commit would.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.db import connections
from django.db.transaction import TransactionManagementError

from django_idempotency.testing.arguments import texts
from django_idempotency.testing.calls import Reply, Sender, describe_error, send
from django_idempotency.testing.compare.shapes import own_tables
from django_idempotency.testing.compare.snapshots import LARGEST_TABLE, Changes, Snapshot, TableName, snapshot
from django_idempotency.testing.observe.guards import E_MAIL, ForeignEffect, guard
from django_idempotency.testing.observe.interruptions import collect_claims
from django_idempotency.testing.observe.tracer import Origin, find_origin

PATIENCE = 1.0  # seconds for all threads that the request has started
WRITES = re.compile(r"\s*(INSERT|UPDATE|DELETE|REPLACE|MERGE)\b", re.IGNORECASE)
# As far as the table's name.
BEGINNING = re.compile(
    r"\w+ (?:(?:ABORT|FAIL|FROM|IGNORE|INTO|LOW_PRIORITY|ONLY|OR|REPLACE|ROLLBACK) )*([\w.]+)", re.IGNORECASE
)
MAIL = "mail"  # in `ignore`
CACHE = "cache:"  # in `ignore`, before a pattern of keys
# Keys of DRF's throttles and of Django's sessions.
UNSEEN_KEYS = ("*throttle_*", "*django.contrib.sessions.cache*")


@dataclass(frozen=True, slots=True)
class Write:
    """A statement that wrote, and the line of the project's code that sent it."""

    using: str
    what: str  # the statement up to its table
    table: str
    origin: Origin

    def __str__(self) -> str:
        hook = " in an on_commit hook" if self.origin.in_hook else ""
        return f"{self.what}{hook}{f', at {self.origin.line}' if self.origin.line else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The effects of a request; false if there are none."""

    changes: Changes
    mails: tuple[ForeignEffect, ...] = ()
    cached: tuple[str, ...] = ()  # keys, with their alias
    writes: tuple[Write, ...] = ()  # also those that were rolled back
    threads: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes or self.mails or self.cached)

    def places(self) -> set[str]:
        """The places of effects: names of tables, "mail", keys of caches."""
        return {*map(str, self.changes.tables), *self.cached, *((MAIL,) if self.mails else ())}

    def lines(self) -> Iterator[str]:
        """Descriptions of the effects, with the lines of code that caused them."""
        if self.changes:
            yield from str(self.changes).splitlines()
            writes = [each for each in self.writes if TableName(each.using, each.table) in self.changes.tables]
            yield from dict.fromkeys(f"written by {write}" for write in writes)
            if self.threads:
                yield f"a thread was started meanwhile: {', '.join(self.threads)}"
        for mail in self.mails:
            yield f"sent: {mail}"
        for key in self.cached:
            yield f"changed in the cache: {key}"


@dataclass(frozen=True, slots=True)
class Observation:
    """A request that was sent: its reply and its effects."""

    reply: Reply
    seen: Seen
    claimed: bool  # did a store accept its claim, so that the handler ran?


class Observer:
    """Sends requests one after the other, and observes what each of them does."""

    def __init__(
        self, *, using: str | Iterable[str] | None = None, ignore: str | Iterable[str] = (), limit: int = LARGEST_TABLE
    ) -> None:
        self._using = using if using is None or isinstance(using, str) else tuple(using)
        self._ignore = texts(ignore)
        self._limit = limit
        self._last = self._snapshot()

    def _snapshot(self) -> Snapshot:
        try:
            return snapshot(self._using, ignore=self._ignore, limit=self._limit)
        except TransactionManagementError as error:
            error.add_note(
                "The request broke the test's own transaction, by a database error outside every atomic block of its"
                " own. Use TransactionTestCase, or django_db(transaction=True), where a request has its own."
            )
            raise

    def send(self, call: Sender, key: str | None) -> Observation:
        """Send *call* with *key*. Nothing else may have changed anything since the last request."""
        return self.watch(lambda: send(call, key))

    def watch(self, request: Callable[[], Reply]) -> Observation:
        """Make *request*, and observe what it does."""
        before, cached = self._last, _cached()
        writes: list[Write] = []
        with _recording(writes), collect_claims() as claims, guard() as foreign:
            hooks = {each: len(each.run_on_commit) for each in connections.all(initialized_only=True)}
            reply = request()
            error = run_test_hooks(hooks)
            foreign.wait_for_threads(PATIENCE)
        if error is not None and not reply.error:
            reply = replace(reply, status=500, error=f"an on_commit hook raised {describe_error(error)}")
        after = self._last = self._snapshot()
        mails = [effect for effect in foreign.effects if effect.kind == E_MAIL]
        seen = Seen(
            changes=before.changes(after),
            mails=() if MAIL in self._ignore else tuple(mails),
            cached=tuple(self._changed_keys(cached, _cached())),
            writes=tuple(writes),
            threads=tuple(thread.name for thread in foreign.threads),
        )
        return Observation(reply, seen, bool(claims))

    def _changed_keys(self, before: dict[tuple[str, str], Any], after: dict[tuple[str, str], Any]) -> Iterator[str]:
        ignored = [*UNSEEN_KEYS, *(f"*{each.removeprefix(CACHE)}" for each in self._ignore if each.startswith(CACHE))]
        for place in sorted({*before, *after}):
            alias, key = place
            if before.get(place) != after.get(place) and not any(fnmatchcase(key, pattern) for pattern in ignored):
                yield f"{key!r} of cache {alias!r}"


def _cached() -> dict[tuple[str, str], Any]:
    """The contents of the caches in this process's memory."""
    found: dict[tuple[str, str], Any] = {}
    for alias in caches:
        # A cache that is not connected yet may need a server that the test does not have.
        cache = getattr(caches._connections, alias, None)  # type: ignore[attr-defined]
        if isinstance(cache, LocMemCache):
            found |= {(alias, key): value for key, value in dict(cache._cache).items()}  # type: ignore[attr-defined]
    return found


# --- hooks ---


def run_test_hooks(before: dict[Any, int]) -> Exception | None:
    """Run the hooks that were registered after those counts, in a transaction that the test never commits."""
    for connection in connections.all(initialized_only=True):
        start = before.get(connection, 0)
        while connection.in_atomic_block and len(connection.run_on_commit) > start:
            hook, robust = connection.run_on_commit.pop(start)[1:]  # type: ignore[misc]  # the stubs know two
            try:
                hook()
            except Exception as error:  # the caller reports it; Django ignores a robust hook's too
                if not robust:
                    return error
    return None


# --- statements ---


@contextmanager
def _recording(writes: list[Write]) -> Iterator[None]:
    """Add the statements of this thread that write, on any database, to *writes*."""
    own = own_tables()

    def note(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        if isinstance(sql, str) and WRITES.match(sql) and not any(table in sql for table in own):
            text = " ".join(sql.replace('"', "").replace("`", "").split())
            head = BEGINNING.match(text)
            what, table = (head[0], head[1]) if head else (text[:40], "")
            writes.append(Write(context["connection"].alias, what, table, find_origin()))
        return execute(sql, params, many, context)

    with ExitStack() as stack:
        for alias in connections:
            stack.enter_context(connections[alias].execute_wrapper(note))
        yield
