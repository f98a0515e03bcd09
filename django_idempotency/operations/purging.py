"""Deletes the records that have expired, or turns them into tombstones, in batches beside which requests go on."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from typing import Any, TypeVar

from django.db import Error, connections, router
from django.utils import timezone

from django_idempotency.core.record import TOMBSTONE
from django_idempotency.engine.transactions import atomic_phase, in_transaction
from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations import counts, observations
from django_idempotency.stores.base import Fault
from django_idempotency.stores.database import interrupted
from django_idempotency.stores.database.dialects import dialect_for
from django_idempotency.stores.database.purging import Purge, purge_for

logger = logging.getLogger("django_idempotency")

Outcome = TypeVar("Outcome")

BATCH_SIZE = 1000  # rows
LARGEST_BATCH = 10_000  # rows
# The pause between two batches is this share of the batch's own time: on a busy server both are long.
PAUSE = 0.5
LONGEST_PAUSE = 0.25  # seconds
# A batch that loses a race waits, on average twice as long each time. Of the nodes of a cluster that purge the same
# rows at once, all but one lose at each COMMIT.
TRIES = 10
FIRST_WAIT, LONGEST_WAIT = 0.01, 1.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """
    How many records a purge deleted (in a dry run: would have), how many it turned into tombstones, and whether it
    dealt with all that had expired.
    """

    count: int
    tombstones: int = 0
    finished: bool


def purge(
    using: str | None = None,
    *,
    batch_size: int = BATCH_SIZE,
    max_seconds: float | None = None,
    dry_run: bool = False,
    progress: Callable[[int], object] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Purged:
    """
    Delete the records in the database *using* (by default the one that records are written to) that have expired by
    now, the oldest first. Unknown outcomes stay, unless the option `uncertain_ttl` lets them expire. Records whose
    answers have ended, but whose keys stay taken (option `tombstone_ttl`), lose their answers first.

    Each batch of *batch_size* rows is a transaction of its own, followed by a pause: a request whose key has just
    expired waits for one batch at most. Rows that are locked, because they are claimed anew or because another purge
    deletes them, are left alone, so that several purges share the work (on SQLite they take turns). No new batch
    begins once *max_seconds* are over or *stop* returns True; then `finished` is False.

    A purge that finishes also deletes the counts that are older than `counts.KEEP`, the expired runs of observe mode,
    and the runs of phased mode whose records are gone. It samples for the dashboard how many records are left.

    *progress* is called after each batch with its number of rows. A *dry_run* counts and deletes nothing.

    Raises `ValueError` for a bad size or time, `RuntimeError` inside an atomic block, where no batch could be
    committed, `PolicyError` for a database that is not supported, and Django's database errors; the batches before it
    stay deleted.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or not 1 <= batch_size <= LARGEST_BATCH:
        raise ValueError(f"batch_size must be a whole number from 1 to {LARGEST_BATCH}, not {batch_size!r}.")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds must be more than 0, not {max_seconds!r}.")
    using = using or router.db_for_write(IdempotencyRecord)
    if dry_run:
        records = IdempotencyRecord.objects.using(using)
        ended = records.live().ended().filter(status__gt=TOMBSTONE)
        return Purged(count=records.expired().count(), tombstones=ended.count(), finished=True)
    refuse_inside_a_transaction("A purge", using)
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    run = _Run(using, batch_size)
    while not run.finished:
        if _is_over(deadline, stop):
            break
        if run.count or run.tombstones:
            time.sleep(run.pause)
        count = run.batch()
        if progress is not None and count:
            progress(count)
    if run.finished:
        try:
            counts.forget_before(timezone.now().astimezone(UTC) - counts.KEEP, using)
            counts.sample(using)
            observations.purge(using, batch_size, lambda: not _is_over(deadline, stop))
            while interrupted.sweep(using, batch_size) and not _is_over(deadline, stop):
                pass
        except Error as error:  # the tables of newer code may still be missing; the purge itself is done
            logger.warning("The counts of database %r were not tidied: %s", using, str(error).strip())
    logger.info(
        "Purged %d expired records from database %r, and kept %d as tombstones", run.count, using, run.tombstones
    )
    return Purged(count=run.count, tombstones=run.tombstones, finished=run.finished)


def _is_over(deadline: float | None, stop: Callable[[], bool] | None) -> bool:
    return (stop is not None and stop()) or (deadline is not None and time.monotonic() >= deadline)


def refuse_inside_a_transaction(what: str, using: str) -> None:
    """Raise `RuntimeError` inside an atomic block, in which *what* could not commit its batches."""
    blocks: list[Any] = connections[using].atomic_blocks
    if in_transaction(using) and not (blocks and blocks[-1]._from_testcase):  # as for atomic(durable=True)
        raise RuntimeError(
            f"{what} commits each batch by itself, and a transaction is open on database {using!r}: call it outside"
            " every atomic block."
        )


class _Run:
    """One purge: the times between which the next batch buries ended answers, and then, those of expiry."""

    def __init__(self, using: str, batch_size: int) -> None:
        self.using = using
        self.batch_size = batch_size
        self.connection = connections[using]
        self.dialect = dialect_for(self.connection, fold=False)
        self.statements: Purge = purge_for(self.connection)
        with self.connection.cursor() as cursor:
            # Later expiries are left to the next run. Otherwise a purge of a busy project would never end.
            self.ended_since, self.until = self.statements.range_of_ends(cursor)
            self.since, self.until = self.statements.range(cursor)
        self.count = 0
        self.tombstones = 0
        self.pause = 0.0  # seconds
        self.finished = self.since is None and self.ended_since is None

    def batch(self) -> int:
        """Bury or delete one batch, and return the number of rows; if it loses a race, try again."""
        began = time.monotonic()
        wait = FIRST_WAIT
        for tries_left in reversed(range(TRIES)):
            try:
                count = self._bury() if self.ended_since is not None else self._delete()
                break
            except Error as error:
                if not tries_left or self.dialect.classify(self.connection, error) is not Fault.RACE:
                    raise
            time.sleep(random.uniform(0, 2 * wait))  # noqa: S311 no secret
            wait = min(2 * wait, LONGEST_WAIT)
        self.pause = min((time.monotonic() - began) * PAUSE, LONGEST_PAUSE)
        return count

    def _bury(self) -> int:
        since = self.ended_since
        count, tombstones, since = self._transaction(
            lambda cursor: self.statements.bury(cursor, since, self.until, self.batch_size)
        )
        self.ended_since = since if count else None
        self.tombstones += tombstones
        self.finished = not count and self.since is None
        return count

    def _delete(self) -> int:
        count, self.since = self._transaction(
            lambda cursor: self.statements.batch(cursor, self.since, self.until, self.batch_size)
        )
        self.count += count
        self.finished = count == 0
        return count

    def _transaction(self, batch: Callable[[Any], Outcome]) -> Outcome:
        ours = not self.connection.in_atomic_block  # not a TestCase's
        with self.connection.cursor() as cursor:
            if ours:
                self.statements.prepare(cursor)

            def work() -> Outcome:
                if ours:
                    self.statements.begin(cursor)
                return batch(cursor)

            return atomic_phase(self.using, work)
