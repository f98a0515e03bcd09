"""
Counts each operation's decisions in memory, and writes them to `DecisionCount` after the response.

Counting sends no statement and waits for none. A process writes its counts when one of its requests has finished, on
that request's thread and outside of all transactions, at most every `INTERVAL` seconds; a process that serves no
requests writes after a decision instead; each process writes when it ends. A process that is killed loses what it has
not written.

With its first counts of an hour a process also samples how many records are stored (`table_size`).

A project with tenants in schemas has counts in each schema: those of the decisions that were made in it.

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
from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.dispatch import receiver

from django_idempotency import conf
from django_idempotency.engine.announcements import Announcement
from django_idempotency.engine.transactions import in_transaction, when_durable
from django_idempotency.models import DecisionCount, StorageSample
from django_idempotency.operations import table_size
from django_idempotency.operations.tally import COLUMNS, HOUR, OBSERVATIONS, OF_DECISION, Row, Rows, Table, Tally
from django_idempotency.stores.schemas import in_schema, schema_of

logger = logging.getLogger("django_idempotency")

TABLE = "django_idempotency_count"
INTERVAL = 5.0  # seconds from one write of a process to its next
PAUSE = 60.0  # seconds after a write that failed
KEEP = timedelta(days=400)  # so that a month can be compared with the same one a year ago

POSITIONS = {decision: COLUMNS.index(column) for decision, column in OF_DECISION.items()}
POSITIONS |= {name: COLUMNS.index(name) for name in OBSERVATIONS}
OTHER_REFUSALS = COLUMNS.index("other_refusals")


def count(using: str, operation: str, decision: str, *, after_commit: bool = False) -> None:
    """
    Count one *decision* ("executed", "replayed", "forgotten", "unsettled", a refusal's code, or one of `OBSERVATIONS`)
    on *operation*, whose record is in the database *using*. With *after_commit*, count it once the transaction that is
    open there has committed.
    """
    if not conf.counts() or is_under_test():
        return
    # The present schema: by COMMIT the connection may work in another.
    add = partial(counter.add, (using, schema_of(using)), operation, POSITIONS.get(decision, OTHER_REFUSALS))
    if after_commit:
        when_durable(using, add)
    else:
        add()


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
    Write the counts of this process now. Returns True if none are left to write.

    For workers that end without Python's own exit handlers. Raises nothing: an error is logged, and the counts are kept
    for a later call, as they are while this thread has a transaction open on any database.
    """
    return counter.flush()


def forget_before(moment: datetime, using: str | None = None) -> int:
    """
    Delete the counts and samples of the hours that ended before *moment* (aware) in the database *using*, by default
    the router's. Returns the number of rows.
    """
    alias = using or router.db_for_write(DecisionCount)
    hour = hour_of(moment.timestamp())
    counts = DecisionCount.objects.using(alias).before(hour)._raw_delete(alias)
    return counts + StorageSample.objects.using(alias).before(hour)._raw_delete(alias)


def sample(using: str) -> None:
    """
    Sample how many records the database *using* holds in this hour, by a few cheap statements. Does nothing under test,
    if counting is switched off, or while a transaction is open.

    Raises nothing: an error is logged.
    """
    if not conf.counts() or is_under_test() or in_transaction(using):
        return

    try:
        table_size.sample(using, hour_of(time.time()))
    except Exception as error:  # no error here is worth failing a request or a purge
        logger.warning("The records of database %r were not sampled: %s", using, str(error).split("\n")[0])


def hour_of(seconds: float) -> int:
    """The hour, as `DecisionCount` numbers them, of a time in *seconds* since the epoch."""
    return int(seconds) // HOUR


def is_under_test() -> bool:
    """Is this process a test run? Django's `setup_test_environment`, which pytest-django calls too, leaves a trace."""
    # Not `mail.outbox`, which any process may have. Another thread may be importing the module.
    utils = sys.modules.get("django.test.utils")
    return utils is not None and hasattr(getattr(utils, "_TestState", None), "saved_data")


def in_any_atomic_block() -> bool:
    """Is this thread in an atomic block of any database, perhaps in that of a handler?"""
    return any(connection.in_atomic_block for connection in connections.all(initialized_only=True))


class Counter:
    """The tally of this process, and the times at which it is written."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.serves_requests = False  # if so, it writes after responses: a decision's request waits for its answer
        self._due = 0.0  # by the monotonic clock
        self._writing = threading.Lock()
        self._failed: set[Table] = set()  # tables whose failure is logged
        self._sampled: dict[Table, int] = {}  # the hour of each one's last sample
        self._exits = False

    def add(self, table: Table, operation: str, position: int) -> None:
        self.tally.add(table, operation, position)
        if not self._exits:
            # Not at import: a process that multiprocessing forks loses what was registered before.
            self._exits = True
            atexit.register(flush)
        if not self.serves_requests:
            self.flush_if_due()

    def flush_if_due(self) -> None:
        if self.tally.rows and time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> bool:
        # Inside a handler this statement would prolong its transaction, and so its claim, on any database.
        if is_under_test() or in_any_atomic_block() or not self._writing.acquire(blocking=False):
            return not self.tally.rows
        waiting: dict[Table, Rows] = {}
        try:
            self._due = time.monotonic() + INTERVAL
            rows, dropped = self.tally.take()
            for key, numbers in rows.items():
                waiting.setdefault(key[0], {})[key] = numbers
            if dropped:
                logger.error("%s decisions were not counted: the counts before them could not be written", dropped)
            for table in sorted(waiting, key=str):
                self._flush(table, waiting.pop(table))
        finally:
            for rows in waiting.values():  # none, unless SystemExit was raised in a worker
                self.tally.put_back(rows)
            self._writing.release()
        return not self.tally.rows

    def _flush(self, table: Table, rows: Rows) -> None:
        using, schema = table
        written = False
        try:
            with close_if_opened(using), in_schema(using, schema):
                written = write(using, rows)
                if written:
                    self._sample_if_due(table)
        except Exception as error:  # no error here is worth failing a request
            self._due = time.monotonic() + PAUSE
            if table not in self._failed:
                self._failed.add(table)
                remedy = " Has `manage.py migrate` created its table?" if TABLE in str(error) else ""
                where = f"database {using!r}" + (f", schema {schema!r}," if schema else "")
                reason = str(error).split("\n")[0]
                logger.error("Counts cannot be written to %s and are kept: %s.%s", where, reason, remedy)
        else:
            if written:
                self._failed.discard(table)
        finally:
            if not written:  # after SystemExit in a worker, too
                self.tally.put_back(rows)

    def _sample_if_due(self, table: Table) -> None:
        hour = hour_of(time.time())
        if self._sampled.get(table) != hour:
            self._sampled[table] = hour  # even if it fails: the next attempt is an hour later
            sample(table[0])


@contextmanager
def close_if_opened(using: str) -> Iterator[None]:
    """Close the connection to *using* if it was opened here: Django's clean-up for this request has already run."""
    connection = connections[using]
    was_open = connection.connection is not None
    try:
        yield
    finally:
        if not was_open:
            connection.close_if_unusable_or_obsolete()


def write(using: str, rows: Mapping[Row, list[int]]) -> bool:
    """
    Add *rows* to the table in the database *using*, in one statement and a transaction of its own. Returns False and
    does nothing while a transaction is open.

    Raises `ImproperlyConfigured` if one always is, and the database's errors, after which *rows* may be written or not.
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
    """The statement that adds that many *rows*. They are sorted, so that all processes lock them in one order."""
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


def _start_afresh() -> None:
    """Count afresh in a fork: its parent writes the earlier counts, and may have held a lock at the fork."""
    global counter
    counter = Counter()


os.register_at_fork(after_in_child=_start_afresh)


@receiver(request_started)
def _serve(**kwargs: object) -> None:
    counter.serves_requests = True


@receiver(request_finished)
def _after_response(**kwargs: object) -> None:
    counter.flush_if_due()
