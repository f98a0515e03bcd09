"""Makes one call several times in other processes, each time from the same state of the database."""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NoReturn

from django.db import Error, connections

from django_idempotency import conf
from django_idempotency.models import DatabaseNow, PhasedRun
from django_idempotency.stores import stores
from django_idempotency.testing.arguments import texts
from django_idempotency.testing.calls import Reply, Sender, new_key
from django_idempotency.testing.compare.equivalence import Difference, contents, differences
from django_idempotency.testing.compare.restoring import restore
from django_idempotency.testing.compare.shapes import own_tables
from django_idempotency.testing.compare.snapshots import Changes, Snapshot, TableName, TableTooLarge, snapshot
from django_idempotency.testing.compare.variations import Column, explain_differences, find_varying, mask
from django_idempotency.testing.findings import NO_EFFECT, USED_KEY, Finding, NotProved
from django_idempotency.testing.processes.forks import prepare

NO_LIMIT = 1_000_000_000  # rows
UNSAFE = ("POST", "PATCH")  # what a key protects; the other methods are idempotent by definition


class Trial:
    """
    Knows the content of the databases when the trial began, and restores it after each run.

    Raises `CannotFork` if other processes would not see it.
    """

    def __init__(
        self,
        call: Sender,
        using: str | Iterable[str] | None,
        ignore: str | Iterable[str],
        reset: Callable[[], object] | None,
        limit: int,
        effect: bool,
        key: str | None = None,
    ) -> None:
        self.call = call
        self._using = None if using is None else texts(using)
        self._ignore = texts(ignore)
        self._reset = reset
        self._effect = effect
        self._unread: list[str] = []
        self._first = self._before = self._first_snapshot(limit)
        self._own = {*own_tables()}
        self.using = sorted({place.using for place in self._before.tables})
        prepare(self.using)
        # The same key for each run, for what a handler derives from it; its record is undone with the other changes.
        self._same_key = all(stores[alias].has_table for alias in conf.stores())
        self._wanted_key = key
        self.first_key = key if key and self._same_key else new_key()
        self._clean = Changes()
        self._varying: frozenset[Column] = frozenset()

    def _first_snapshot(self, limit: int) -> Snapshot:
        """Take a snapshot. A table that is too large but ignored is left out, and its changes are not undone."""
        while True:
            try:
                return snapshot(self._using, own=True, ignore=self._unread, limit=limit)
            except TableTooLarge as error:
                if not any(fnmatchcase(error.table, pattern) for pattern in self._ignore):
                    raise
                self._unread.append(error.table)

    def _snapshot(self) -> Snapshot:
        """Take a snapshot of the same tables again, however many rows a run has added."""
        return snapshot(self._using, own=True, ignore=self._unread, limit=NO_LIMIT)

    def __str__(self) -> str:
        name = str(self.call)
        return name if not name.startswith("<") else getattr(self.call, "__qualname__", name)

    def key(self) -> str:
        """The key for the next run."""
        return self.first_key if self._same_key else self._wanted_key or new_key()

    def connect(self) -> None:
        """Connect this process to each server before the call."""
        for alias in self.using:
            if connections[alias].vendor != "sqlite":  # which opens a file
                connections[alias].ensure_connection()

    def end_leases(self) -> None:
        """End the leases of all runs in phases, as if their processes, which were killed, had died long ago."""
        for alias in self.using:
            if TableName(alias, PhasedRun._meta.db_table) in self._before.tables:
                PhasedRun.objects.using(alias).filter(ends_at__gt=DatabaseNow()).update(ends_at=DatabaseNow())

    def rehearse(self, make: Callable[[str], tuple[Reply, Sequence[object]]]) -> Reply:
        """
        Make the call and its duplicate by *make*, a function of the key that returns the reply and the effects outside
        the database; undo all changes, and make the call once more. From now on each run has to change what the first
        one has changed, except for columns in which the two differ. Returns the first reply.

        Raises `NotProved` if nothing can be tried: the call fails, does nothing, or its duplicate is done again.
        """
        first, effects = make(self.first_key)
        if first.in_progress or first.status >= 500:
            self.refuse(
                f"A single, undisturbed request was answered {summarize(first)}.",
                remedy="It has to succeed before it can be tried: correct the view, or the call.",
            )
        if first.replayed:
            self.refuse(USED_KEY[0], remedy=USED_KEY[1])
        self._clean = self.changes()
        again, _ = make(self.first_key)
        if first.status >= 400 and not again.replayed:
            self.refuse(
                f"A single request was refused: {first}. A refusal is not stored, so there is nothing to try.",
                remedy="Give the call the user, the permissions and the payload that it needs.",
            )
        if found := self.differences(self.first_key):
            self.refuse(
                "A duplicate with the same key is done again.",
                map(str, found),
                "Protect the view (@idempotent, IdempotencyMixin), and do all of this inside its handler.",
            )
        if first.method in UNSAFE and not again.replayed:
            self.refuse(
                "It is not protected: a duplicate with the same key was not answered from a record.",
                [f"first {summarize(first)}", f"then {summarize(again)}"],
                "Put @idempotent or IdempotencyMixin on its view.",
            )
        if self._effect and not effects and not contents(self._clean, ignore=self._ignore):
            self.refuse(NO_EFFECT[0], [summarize(first)], NO_EFFECT[1])
        self.put_back()
        if left := self._before.changes(self._snapshot()):
            raise RuntimeError(
                f"What {self} changes could not be put back: give `reset`, a function that does it. It left: {left}"
            )
        self._compare_with_another_run(make)
        return first

    def _compare_with_another_run(self, make: Callable[[str], tuple[Reply, Sequence[object]]]) -> None:
        key = self.first_key if self._same_key else new_key()
        second, _ = make(key)
        self._varying = find_varying(self._clean, self.changes(), keys={key, self.first_key}, ignore=self._ignore)
        if found := self.differences(key):
            self.refuse(
                "Two single runs from the same state made different changes.",
                [*map(str, found), f"the second was answered {summarize(second)}"],
                "Let it do the same each time, or name in `ignore` what may differ. Changes outside the databases (in a"
                " cache, a file, another server) are not undone between them.",
            )
        self.put_back()

    def refuse(self, what: str, details: Iterable[str] = (), remedy: str = "") -> NoReturn:
        """Undo all changes, and raise `NotProved`."""
        refusal = NotProved(str(self), [Finding(what, tuple(details), remedy)])
        self.changes()
        try:
            self.put_back()
        except RuntimeError as error:
            refusal.add_note(str(error))
        raise refusal

    def changes(self) -> Changes:
        """The changes since the trial began, except in the package's own tables."""
        self._found = self._before.changes(self._snapshot())
        tables = {place: change for place, change in self._found.tables.items() if place.table not in self._own}
        return Changes(tables, self._found.since, self._found.until)

    def differences(self, key: str) -> list[Difference]:
        """How the changes of the last run, with *key*, differ from those of the first."""
        found, clean = mask(self.changes(), self._varying), mask(self._clean, self._varying)
        return explain_differences(found, clean, keys={key, self.first_key}, ignore=self._ignore)

    def compare(self, expected: Changes, keys: Iterable[str]) -> list[Difference]:
        """How the changes of requests with *keys* differ from the *expected* ones."""
        found = mask(self.changes(), self._varying)
        return differences(found, mask(expected, self._varying), keys=keys, ignore=self._ignore)

    def put_back(self) -> None:
        """Undo the latest `changes`: all since the trial began, or since `reset` was called."""
        if self._reset is None:
            try:
                restore(self._found)
            except Error as error:
                raise RuntimeError(
                    f"What {self} changes could not be put back: give `reset`, a function that does it."
                ) from error
            return
        self._reset()
        found = self._before.changes(self._snapshot())
        restore(Changes({place: change for place, change in found.tables.items() if place.table in self._own}))
        self._before = self._snapshot()
        if left := self._left(self._first.changes(self._before)):
            raise RuntimeError(f"All that {self} changes has to be put back, but `reset` left:\n{left}")

    def _left(self, changes: Changes) -> Changes:
        """The *changes* that matter: not rows that were replaced by equal ones, nor times of the run in older rows."""
        tables = {
            place: change
            for place, change in changes.without_times().tables.items()
            if change.changed or len(change.added) != len(change.removed)
        }
        left = Changes(tables, changes.since, changes.until)
        return left if contents(left, ignore=self._ignore) else Changes()


def summarize(reply: Reply) -> str:
    """A reply, without a server's page for an error."""
    return f"{reply.status} ({reply.error})" if reply.error else str(reply)
