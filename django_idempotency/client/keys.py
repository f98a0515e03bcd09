"""Keys: new ones, and those that have to outlive the process."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta

from django_idempotency.core.keys import time_ordered_key
from django_idempotency.exceptions import KeyExpired, PolicyError

# An hour less than a server of this package remembers by default, as Stripe does.
MAX_AGE = timedelta(hours=23)
BUSY = 30.0  # seconds that one process waits for another, which holds the file for milliseconds

_TABLE = """
    CREATE TABLE IF NOT EXISTS actions (
        name TEXT PRIMARY KEY, key TEXT NOT NULL, made REAL NOT NULL, finished INTEGER NOT NULL DEFAULT 0
    )
"""


def new_key() -> str:
    """A new key: a UUID of version 7 (RFC 9562, 5.7), from which a server can tell its age."""
    return time_ordered_key(time.time_ns() // 1_000_000, os.urandom(10))


class KeyJar:
    """
    The keys of named actions, in a file that any number of processes share.

    A name stands for one intended action, like "pay invoice 17". It gets a key once, which is on the disk before
    anybody sees it: a process that is killed, and started again, sends the same key, and gets the first answer. For
    *max_age*, which must be less than the server remembers, the name has that key, also after the action has finished.

    *path* is a file in a folder that exists: an SQLite database. Raises `PolicyError` if it cannot be one.
    *now* tells the seconds since the epoch.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_age: timedelta = MAX_AGE,
        make_key: Callable[[], str] = new_key,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = os.path.abspath(path)  # `:memory:` would be another jar for each connection
        self._max_age = max_age.total_seconds()
        self._make_key = make_key
        self._now = now
        try:
            with self._transaction() as database:
                database.execute(_TABLE)
        except sqlite3.Error as error:
            raise PolicyError(
                f"The key jar {self._path} cannot be opened: {error}. It must be a new file, or one that a KeyJar has"
                " made, in a folder in which this process may write."
            ) from error

    def key(self, name: str) -> str:
        """
        The key of the action *name*, the same at each call.

        Raises `KeyExpired` if the action has not finished, and its key is older than `max_age`: the server may have
        forgotten what it did, so the same key could do it again. Find out, and then call `finish`.
        """
        now = self._now()
        with self._transaction() as database:
            database.execute("DELETE FROM actions WHERE finished AND made < ?", (now - self._max_age,))
            database.execute(
                "INSERT OR IGNORE INTO actions (name, key, made) VALUES (?, ?, ?)", (name, self._make_key(), now)
            )
            key, made = database.execute("SELECT key, made FROM actions WHERE name = ?", (name,)).fetchone()
        if now - made > self._max_age:
            raise KeyExpired(
                f"The action {name!r} began {timedelta(seconds=round(now - made))} ago and has not finished, and the"
                " server may have forgotten its key. Find out what became of it, then call finish()."
            )
        return str(key)

    def finish(self, name: str) -> None:
        """The action *name* is done with: when its key is older than `max_age`, it may be forgotten."""
        with self._transaction() as database:
            database.execute("UPDATE actions SET finished = 1 WHERE name = ?", (name,))

    @contextmanager
    def action(self, name: str) -> Iterator[str]:
        """
        The key of the action *name* as a context. The action has finished when its block ends without an exception,
        so what notes its result belongs inside. Raises `KeyExpired` as `key` does.
        """
        yield self.key(name)
        self.finish(name)

    def unfinished(self) -> list[str]:
        """The names of actions that have begun and not finished, the oldest first."""
        with self._transaction() as database:
            found = database.execute("SELECT name FROM actions WHERE NOT finished ORDER BY made, rowid").fetchall()
        return [str(name) for (name,) in found]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is on the disk at its end. Its connection serves no other thread and no forked process."""
        with closing(sqlite3.connect(self._path, timeout=BUSY, isolation_level=None)) as database:
            # FULL may lose the last COMMIT with the power: https://www.sqlite.org/pragma.html#pragma_synchronous
            database.execute("PRAGMA synchronous = EXTRA")
            database.execute("PRAGMA fullfsync = ON")  # macOS keeps an fsync in the drive's cache
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT")
