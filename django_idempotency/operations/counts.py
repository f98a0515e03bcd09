"""
How often each operation was decided in which way: counted in memory, written to `DecisionCount` after the response.

To count sends no statement and waits for none. What a process has counted is written when a request of its is finished,
on that request's thread and outside of all transactions, at most every `INTERVAL` seconds; in a process that serves no
requests, after a decision instead; and when the process ends. A process that is killed loses what it has not written.

With its first counts of an hour a process also notes how many records are stored (`storage`).

Hours are those of UTC, by the clock of the process. Nothing is counted under Django's test runner or pytest-django.
"""

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from functools import partial

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_finished, request_started
from django.db import connections, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.dispatch import receiver

from django_idempotency import conf
from django_idempotency.engine.announcements import Announcement
from django_idempotency.engine.transactions import in_transaction

logger = logging.getLogger("django_idempotency")

TABLE = "django_idempotency_count"
HOUR = 3600  # seconds
INTERVAL = 5.0  # seconds from one write of a process to its next
PAUSE = 60.0  # seconds after a write that failed
MAX_OPERATIONS = 256  # named by one process in one hour; a callable may make up a new one for each request
MAX_ROWS = 1024  # kept in memory while they cannot be written
MAX_NAME = 255  # characters of an operation, as in the table
OTHER = "(other)"  # what is counted past MAX_OPERATIONS
KEEP = timedelta(days=400)  # so that a month can be compared with the same one a year ago

COLUMNS = (
    "executions",
    "replays",
    "conflicts",
    "mismatches",
    "unknown_outcomes",
    "unavailable",
    "other_refusals",
    "forgotten",
    "unsettled",
)
OF_DECISION = {
    "executed": "executions",
    "replayed": "replays",
    "forgotten": "forgotten",
    "unsettled": "unsettled",
    # refusals, by their code
    "request-in-progress": "conflicts",
    "key-reused": "mismatches",
    "outcome-unknown": "unknown_outcomes",
    "store-unavailable": "unavailable",
}
POSITIONS = {decision: COLUMNS.index(column) for decision, column in OF_DECISION.items()}
OTHER_REFUSALS = COLUMNS.index("other_refusals")

Row = tuple[str, int, str]  # database alias, hour, operation
Rows = dict[Row, list[int]]  # the numbers in the order of COLUMNS


def count(using: str, operation: str, decision: str, *, after_commit: bool = False) -> None:
    """
    Count one *decision* ("executed", "replayed", "forgotten", "unsettled" or a refusal's code) on *operation*, whose
    record is in the database *using*. With *after_commit*, when the transaction that is open there has committed.
    """
    if not conf.counts() or is_under_test():
        return
    if after_commit and connections[using].in_atomic_block:
        transaction.on_commit(partial(count, using, operation, decision), using=using, robust=True)
    else:
        counter.add(using, operation, POSITIONS.get(decision, OTHER_REFUSALS))


def observe(announcement: Announcement) -> None:
    """Count the decision that *announcement* reports: an observer of `announcements`."""
    count(
        announcement.database,
        announcement.identity.operation,
        announcement.decision,
        after_commit=announcement.pending,
    )


def flush() -> bool:
    """
    Write now what this process has counted. Is nothing left to write?

    For workers that end without Python's own exit handlers. Raises nothing: an error is logged, and the counts are kept
    for a later call; so they are while this thread has a transaction open, on any database.
    """
    return counter.flush()


def forget_before(moment: datetime, using: str | None = None) -> int:
    """
    Delete the counts and the samples of storage of the hours that ended before *moment* (aware) in the database
    *using*, by default the router's.

    Returns how many rows there were.
    """
    from django_idempotency.models import DecisionCount, StorageSample

    alias = using or router.db_for_write(DecisionCount)
    hour = hour_of(moment.timestamp())
    counts = DecisionCount.objects.using(alias).before(hour)._raw_delete(alias)
    return counts + StorageSample.objects.using(alias).before(hour)._raw_delete(alias)


def sample(using: str) -> None:
    """
    Note for this hour how many records the database *using* holds. A few cheap statements; none under test, where
    counting is switched off, or while a transaction is open.

    Raises nothing: an error is logged, and the hour has the sample of another process or none.
    """
    if not conf.counts() or is_under_test() or in_transaction(using):
        return
    from django_idempotency.operations import table_size

    try:
        table_size.sample(using, hour_of(time.time()))
    except Exception as error:  # whatever it is, it is worth neither a request nor a purge
        logger.warning("The records of database %r were not sampled: %s", using, str(error).split("\n")[0])


def hour_of(seconds: float) -> int:
    """The hour, as `DecisionCount` numbers them, of a time in *seconds* since the epoch."""
    return int(seconds) // HOUR


def is_under_test() -> bool:
    """Is this process a test run? Django's `setup_test_environment`, which pytest-django calls too, leaves a mark."""
    # Not `mail.outbox`: any process may have that. The module may be half imported, by another thread.
    utils = sys.modules.get("django.test.utils")
    return utils is not None and hasattr(getattr(utils, "_TestState", None), "saved_data")


def in_any_atomic_block() -> bool:
    """Is this thread in an atomic block of any database, for example in that of a handler?"""
    return any(connection.in_atomic_block for connection in connections.all(initialized_only=True))


class Tally:
    """Numbers in memory, of any thread. Its size is bounded: see MAX_OPERATIONS and MAX_ROWS."""

    def __init__(self) -> None:
        self.rows: Rows = {}
        self._lock = threading.Lock()
        self._hour = 0
        self._names: set[tuple[str, str]] = set()  # database and operation, of this hour
        self._dropped = 0

    def add(self, using: str, operation: str, position: int) -> None:
        hour = int(time.time()) // HOUR
        with self._lock:
            row = self.rows.get((using, hour, operation))
            if row is None:
                row = self._new_row(using, hour, operation)
            row[position] += 1

    def _new_row(self, using: str, hour: int, operation: str) -> list[int]:
        if hour != self._hour:
            self._hour = hour
            self._names.clear()
        operation = operation[:MAX_NAME]
        if (using, operation) not in self._names:
            if len(self._names) < MAX_OPERATIONS:
                self._names.add((using, operation))
            else:
                operation = OTHER
        return self._row((using, hour, operation))

    def _row(self, key: Row, additions: int = 1) -> list[int]:
        row = self.rows.get(key)
        if row is not None:
            return row
        row = [0] * len(COLUMNS)
        if len(self.rows) < MAX_ROWS:
            self.rows[key] = row
        else:
            self._dropped += additions
        return row

    def take(self) -> tuple[Rows, int]:
        """All numbers, and how many additions found no room. The tally begins anew."""
        with self._lock:
            rows, self.rows = self.rows, {}
            dropped, self._dropped = self._dropped, 0
        return rows, dropped

    def put_back(self, rows: Rows) -> None:
        """Add *rows*, which could not be written, to what was counted since."""
        with self._lock:
            for key, numbers in rows.items():
                row = self._row(key, sum(numbers))
                row[:] = map(sum, zip(row, numbers, strict=True))


class Counter:
    """The tally of this process, and when it is written."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.serves_requests = False  # Then a decision is no time to write: its request waits for the answer.
        self._due = 0.0  # by the monotonic clock
        self._writing = threading.Lock()
        self._failed: set[str] = set()  # databases of which that is logged
        self._sampled: dict[str, int] = {}  # the hour of each database's last sample
        self._exits = False

    def add(self, using: str, operation: str, position: int) -> None:
        self.tally.add(using, operation, position)
        if not self._exits:
            # Now, not at import: a process that multiprocessing forks forgets what was registered before.
            self._exits = True
            atexit.register(flush)
        if not self.serves_requests:
            self.flush_if_due()

    def flush_if_due(self) -> None:
        if self.tally.rows and time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> bool:
        # In a handler this would be its statement, and its claim would wait for it, whichever the database.
        if is_under_test() or in_any_atomic_block() or not self._writing.acquire(blocking=False):
            return not self.tally.rows
        waiting: dict[str, Rows] = {}
        try:
            self._due = time.monotonic() + INTERVAL
            rows, dropped = self.tally.take()
            for key, numbers in rows.items():
                waiting.setdefault(key[0], {})[key] = numbers
            if dropped:
                logger.error("%s decisions were not counted: the counts before them could not be written", dropped)
            for using in sorted(waiting):
                self._flush(using, waiting.pop(using))
        finally:
            for rows in waiting.values():  # none, unless a worker was told to end
                self.tally.put_back(rows)
            self._writing.release()
        return not self.tally.rows

    def _flush(self, using: str, rows: Rows) -> None:
        written = False
        try:
            with as_it_was(using):
                written = write(using, rows)
                if written:
                    self._sample_if_due(using)
        except Exception as error:  # whatever it is, it is not worth a request
            self._due = time.monotonic() + PAUSE
            if using not in self._failed:
                self._failed.add(using)
                remedy = " Has `manage.py migrate` created its table?" if TABLE in str(error) else ""
                reason = str(error).split("\n")[0]
                logger.error("Counts cannot be written to database %r and are kept: %s.%s", using, reason, remedy)
        else:
            if written:
                self._failed.discard(using)
        finally:
            if not written:  # a worker's SystemExit among the reasons
                self.tally.put_back(rows)

    def _sample_if_due(self, using: str) -> None:
        hour = hour_of(time.time())
        if self._sampled.get(using) != hour:
            self._sampled[using] = hour  # even if it fails: the next attempt is an hour later
            sample(using)


@contextmanager
def as_it_was(using: str) -> Iterator[None]:
    """
    Close the connection to *using* at the end, if this had to open it: Django has closed it at the end of the request
    already, and does not come by again.
    """
    connection = connections[using]
    was_open = connection.connection is not None
    try:
        yield
    finally:
        if not was_open:
            connection.close_if_unusable_or_obsolete()


def write(using: str, rows: Mapping[Row, list[int]]) -> bool:
    """
    Add *rows* to the table in the database *using*, in one statement and a transaction of its own. Was it the time for
    that? It is not while a transaction is open. Raises what the database raises; then nothing is written, as far as
    anybody can know. Raises `ImproperlyConfigured` where one always is.
    """
    connection = connections[using]
    if not connection.settings_dict["AUTOCOMMIT"]:
        raise ImproperlyConfigured(
            "they are written outside of transactions only, and its AUTOCOMMIT is False. "
            'IDEMPOTENCY = {"COUNTS": False} switches counting off'
        )
    if in_transaction(using):
        return False
    values: list[int | str] = []
    for key in sorted(rows):
        values += key[1:]
        values += rows[key]
    with closing(connection.cursor()) as cursor:
        cursor.execute(upsert(connection, len(rows)), values)
    return True


def upsert(connection: BaseDatabaseWrapper, rows: int) -> str:
    """The statement that adds that many *rows*. Sorted, so that two processes lock their rows in one order."""
    columns = ("hour", "operation", *COLUMNS)
    values = ", ".join([f"({', '.join(['%s'] * len(columns))})"] * rows)
    if connection.vendor == "mysql":
        # VALUES() is deprecated on MySQL 8, whose new form MariaDB does not know.
        action = "DUPLICATE KEY UPDATE " + _sums("{0} = {0} + VALUES({0})", COLUMNS)
    else:
        action = "CONFLICT (hour, operation) DO UPDATE SET " + _sums("{0} = counted.{0} + excluded.{0}", COLUMNS)
    alias = "" if connection.vendor == "mysql" else " AS counted"
    return f"INSERT INTO {TABLE}{alias} ({', '.join(columns)}) VALUES {values} ON {action}"  # noqa: S608


def _sums(form: str, columns: Iterable[str]) -> str:
    return ", ".join(form.format(column) for column in columns)


counter = Counter()


def _begin_anew() -> None:
    """A fork counts by itself: what its parent had counted is its parent's, whose thread may hold a lock forever."""
    global counter
    counter = Counter()


os.register_at_fork(after_in_child=_begin_anew)


@receiver(request_started)
def _serve(**kwargs: object) -> None:
    counter.serves_requests = True


@receiver(request_finished)
def _after_response(**kwargs: object) -> None:
    counter.flush_if_due()
