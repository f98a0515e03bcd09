"""One call, made again and again by other processes, each time from the same state of the database."""

from collections.abc import Callable, Iterable
from typing import NoReturn

from django.db import Error, connections

from django_idempotency import conf
from django_idempotency.stores import stores
from django_idempotency.stores.database import DatabaseStore
from django_idempotency.testing.calls import Reply, Sender, new_key
from django_idempotency.testing.equivalence import differences
from django_idempotency.testing.findings import Finding, NotProved
from django_idempotency.testing.processes import prepare
from django_idempotency.testing.restoring import restore
from django_idempotency.testing.shapes import own_tables
from django_idempotency.testing.snapshots import Changes, snapshot

UNSAFE = ("POST", "PATCH")  # what a key protects; the other methods are idempotent by definition


class Trial:
    """
    Knows the database as it was when the trial began, and puts it back after each run.

    Raises `CannotFork` where other processes would not see it.
    """

    def __init__(
        self,
        call: Sender,
        using: str | Iterable[str] | None,
        ignore: Iterable[str],
        reset: Callable[[], object] | None,
        key: str | None = None,
    ) -> None:
        self.call = call
        self._using = [using] if isinstance(using, str) else using and list(using)
        self._ignore = tuple(ignore)
        self._reset = reset
        self._before = snapshot(self._using, own=True)
        self._own = {*own_tables()}
        self.using = sorted({place.using for place in self._before.tables})
        prepare(self.using)
        # The same key again, so that what a handler derives from it is the same; its record is put back with the rest.
        self._same_key = all(isinstance(stores[alias], DatabaseStore) for alias in conf.stores())
        self._wanted_key = key
        self.first_key = key if key and self._same_key else new_key()
        self._clean = Changes()

    def __str__(self) -> str:
        name = str(self.call)
        return name if not name.startswith("<") else getattr(self.call, "__qualname__", name)

    def key(self) -> str:
        """The key for the next run."""
        return self.first_key if self._same_key else self._wanted_key or new_key()

    def connect(self) -> None:
        """In a process of its own: get ready, so that a call finds a connection to each server."""
        for alias in self.using:
            if connections[alias].vendor != "sqlite":  # a file is there at once
                connections[alias].ensure_connection()

    def rehearse(self, make: Callable[[str], Reply]) -> Reply:
        """
        Let *make* make the call twice with the key that it is given, and put everything back. What the first one has
        changed is what each run has to change from now on. Returns its reply.

        Raises `NotProved` where there is nothing to try: the call fails, or its duplicate is done again.
        """
        first = make(self.first_key)
        if first.in_progress or first.status >= 500:
            self._refuse(
                f"A single request, with nothing in its way, was answered {briefly(first)}.",
                remedy="It has to succeed before it can be tried: mend the view, or the call.",
            )
        self._clean = self.changes()
        again = make(self.first_key)
        if first.status >= 400 and not again.replayed:
            self._refuse(
                f"A single request was refused: {first}. A refusal is not stored, so there is nothing to try.",
                remedy="Give the call the user, the permissions and the payload that it needs.",
            )
        if found := self.differences(self.first_key):
            self._refuse(
                "A duplicate with the same key is done again.",
                found,
                "Protect the view (@idempotent, IdempotencyMixin), and do all of this inside its handler.",
            )
        if first.method in UNSAFE and not again.replayed:
            self._refuse(
                "It is not protected: a duplicate with the same key was not answered from a record.",
                [f"first {briefly(first)}", f"then {briefly(again)}"],
                "Put @idempotent or IdempotencyMixin on its view.",
            )
        self.put_back()
        if left := self._before.changes(snapshot(self._using, own=True)):
            raise RuntimeError(
                f"What {self} changes could not be put back: give `reset`, a function that does it. It left: {left}"
            )
        return first

    def _refuse(self, what: str, details: Iterable[str] = (), remedy: str = "") -> NoReturn:
        self.changes()
        self.put_back()
        raise NotProved(str(self), [Finding(what, tuple(details), remedy)])

    def changes(self) -> Changes:
        """What has changed since the trial began; the package's own tables are left out."""
        self._found = self._before.changes(snapshot(self._using, own=True))
        tables = {place: change for place, change in self._found.tables.items() if place.table not in self._own}
        return Changes(tables, self._found.since, self._found.until)

    def differences(self, key: str) -> list[str]:
        """In words, what the last run, with *key*, has changed otherwise than the clean one."""
        return differences(self.changes(), self._clean, keys={key, self.first_key}, ignore=self._ignore)

    def put_back(self) -> None:
        """Undo what `changes` saw last: all that has changed since the trial began, or since `reset` was called."""
        if self._reset is None:
            try:
                restore(self._found)
            except Error as error:
                raise RuntimeError(
                    f"What {self} changes could not be put back: give `reset`, a function that does it."
                ) from error
            return
        self._reset()
        found = self._before.changes(snapshot(self._using, own=True))
        restore(Changes({place: change for place, change in found.tables.items() if place.table in self._own}))
        self._before = snapshot(self._using, own=True)


def briefly(reply: Reply) -> str:
    """A reply, without the page that a server shows for an error."""
    return f"{reply.status} ({reply.error})" if reply.error else str(reply)
