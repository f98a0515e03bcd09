"""What an operator does: purge what has expired, free a key, settle an outcome that is not known."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from django.db import Error, connections, router
from django.utils import timezone

from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine.transactions import after_commit, atomic_phase, in_transaction
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.models import UNSETTLED, IdempotencyRecord
from django_idempotency.operations import counts as statistics
from django_idempotency.stores import stores
from django_idempotency.stores.base import Fault, Store, TransactionalStore
from django_idempotency.stores.database import DatabaseStore
from django_idempotency.stores.database.dialects import dialect_for
from django_idempotency.stores.database.purging import Purge, purge_for
from django_idempotency.stores.database.store import replay_caches

logger = logging.getLogger("django_idempotency")

Outcome = TypeVar("Outcome")

BATCH_SIZE = 1000  # rows
LARGEST_BATCH = 10_000  # rows
# Between two batches others have the database to themselves, for this share of the time that the batch took: a server
# that is busy makes the batches slow, and so the pauses long.
PAUSE = 0.5
LONGEST_PAUSE = 0.25  # seconds
TRIES = 5  # for a batch that loses a race


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What a purge did: how many records it deleted (in a dry run: would have), and whether it was left to finish."""

    count: int
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
    now, the oldest first; claims without an outcome too.

    Each batch of *batch_size* rows is a transaction of its own, and a pause follows it: a request whose key has just
    expired waits for one batch at most. Rows that are locked, because they are claimed anew or because another purge
    deletes them, are left alone, so that several purges share the work (SQLite: they take turns). No new batch
    begins once *max_seconds* are over or *stop* returns True; then `finished` is False.

    One that finishes deletes the counts of more than `statistics.KEEP` ago as well, and notes for the dashboard how
    many records are left.

    *progress* is called after each batch with its number of rows. A *dry_run* counts, and deletes nothing.

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
        return Purged(count=IdempotencyRecord.objects.using(using).expired().count(), finished=True)
    _refuse_inside_a_transaction(using)
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    run = _Purge(using, batch_size)
    while not run.finished:
        if (stop is not None and stop()) or (deadline is not None and time.monotonic() >= deadline):
            break
        if run.count:
            time.sleep(run.pause)
        count = run.batch()
        if progress is not None and count:
            progress(count)
    if run.finished:
        try:
            statistics.forget_before(timezone.now() - statistics.KEEP, using)
            statistics.sample(using)
        except Error as error:  # new code whose tables are still to come: what was purged is purged
            logger.warning("The counts of database %r were not tidied: %s", using, str(error).strip())
    logger.info("Purged %d expired records from database %r", run.count, using)
    return Purged(count=run.count, finished=run.finished)


def free(digest: bytes | IdempotencyRecord, *, using: str | None = None, store: str = "default") -> bool:
    """
    Forget what *store* keeps for an identity, so that the next request with its key runs: its 32-byte *digest*, or its
    record, as it was read. Returns False where nothing is stored.

    It leaves the replay cache of every store that has the same table, though no row be left of it: what the model has
    deleted is forgotten by this.

    Raises `RequestInProgress`, and then nothing has changed, where the identity is in flight, or since the record was
    read (the call began, for a digest) was executed again, or got the answer that it was without. That is told at
    once; on SQLite after the one who writes has ended, or after the connection's timeout, whoever that is. A lost race
    begins anew where the transaction is our own, and is Django's `OperationalError` inside another's; all other errors
    of a database or another store propagate as they are, but for a replay cache that does not answer:
    `StoreUnavailable`, and nothing has changed.
    """
    unsettled = isinstance(digest, IdempotencyRecord) and digest.status == UNSETTLED
    owner, using, identity, seen = _execution(digest, using, store)
    if using is not None:
        _leave_caches(owner, using, identity)
    freed = _changed(owner, using, partial(owner.free, using, identity, seen, unsettled=unsettled))
    if freed:
        _log(using, "Freed %s", identity)
    return freed


def settle(
    digest: bytes | IdempotencyRecord, record: CompletionRecord, *, using: str | None = None, store: str = "default"
) -> bool:
    """
    Store *record* as the answer of an execution whose outcome is not known: its 32-byte *digest*, or its record, as it
    was read. From then on retries get that answer, for as long as they would have got the handler's own. Returns False
    where no unsettled execution is stored.

    Raises as `free` does.
    """
    owner, using, identity, seen = _execution(digest, using, store)
    settled = _changed(owner, using, partial(owner.settle, using, identity, seen, record))
    if settled:
        _log(using, "Settled %s with an answer of status %d", identity, record.status)
    return settled


def _execution(
    digest: bytes | IdempotencyRecord, using: str | None, store: str
) -> tuple[Store, str | None, bytes, datetime | None]:
    """The store that has it, the database that it is in, its identity, and when it was executed."""
    owner = stores[store]
    seen = None
    if isinstance(digest, IdempotencyRecord):
        seen = digest.executed_at
        using = using or digest._state.db
        digest = bytes(digest.digest)
    if len(digest) != 32:
        raise ValueError(f"An identity's digest has 32 bytes, not {len(digest)}.")
    if not isinstance(owner, TransactionalStore):
        return owner, None, digest, seen
    using = using or owner.database()
    if seen is None:
        # Before the transaction, which on SQLite begins when whoever is in flight has committed.
        seen = _told(owner, using, partial(owner.executed_at, using, digest))
    return owner, using, digest, seen


def _leave_caches(owner: Store, using: str, digest: bytes) -> None:
    """Take the identity out of the caches of the stores that share the *owner*'s table; its own it clears itself."""
    if isinstance(owner, DatabaseStore):
        for cache in replay_caches():
            if cache is not owner.replay_cache:
                cache.remove(using, digest)


def _changed(owner: Store, using: str | None, change: Callable[[], bool]) -> bool:
    """Make the *change* in a transaction, tried again where it loses a race and the transaction is our own."""
    if using is None:
        return change()
    tries_left = 0 if in_transaction(using) else TRIES - 1
    while True:
        try:
            return _told(owner, using, partial(atomic_phase, using, change))
        except Error as error:
            if not tries_left or owner.classify(using, error) is not Fault.RACE:
                raise
            tries_left -= 1


def _told(owner: Store, using: str, call: Callable[[], Outcome]) -> Outcome:
    """What *call* returns. SQLite's one writer is told as a request in progress: it may be the one that is meant."""
    try:
        return call()
    except Error as error:
        connection = connections[using]
        opened = connection.connection is not None  # else the file is at fault, and no writer
        if connection.vendor == "sqlite" and opened and owner.classify(using, error) is Fault.UNAVAILABLE:
            raise RequestInProgress("Another request is writing to the database, perhaps with this key.") from error
        raise


def _log(using: str | None, message: str, digest: bytes, *arguments: object) -> None:
    """Once the transaction on *using* has committed, if it is in one."""

    def log() -> list[tuple[Any, Any]]:
        logger.info(message, digest.hex(), *arguments)
        return []

    if using is None:
        log()
    else:
        after_commit(using, log)


def _refuse_inside_a_transaction(using: str) -> None:
    blocks: list[Any] = connections[using].atomic_blocks
    if in_transaction(using) and not (blocks and blocks[-1]._from_testcase):  # as for atomic(durable=True)
        raise RuntimeError(
            f"A purge commits each batch by itself, and a transaction is open on database {using!r}: call it outside"
            " every atomic block."
        )


class _Purge:
    """One purge on its way: from where on the next batch deletes, and until when."""

    def __init__(self, using: str, batch_size: int) -> None:
        self.using = using
        self.batch_size = batch_size
        self.connection = connections[using]
        self.dialect = dialect_for(self.connection, fold=False)
        self.statements: Purge = purge_for(self.connection)
        with self.connection.cursor() as cursor:
            # What expires from here on is left to the next run: else one beside a busy project would never end.
            self.since, self.until = self.statements.range(cursor)
        self.count = 0
        self.pause = 0.0  # seconds
        self.finished = self.since is None

    def batch(self) -> int:
        """Delete one batch, tried again where it loses a race."""
        began = time.monotonic()
        for tries_left in reversed(range(TRIES)):
            try:
                count, self.since = self._transaction()
                break
            except Error as error:
                if not tries_left or self.dialect.classify(self.connection, error) is not Fault.RACE:
                    raise
        self.count += count
        self.finished = count == 0
        self.pause = min((time.monotonic() - began) * PAUSE, LONGEST_PAUSE)
        return count

    def _transaction(self) -> tuple[int, Any]:
        ours = not self.connection.in_atomic_block  # not a TestCase's
        with self.connection.cursor() as cursor:
            if ours:
                self.statements.prepare(cursor)

            def work() -> tuple[int, Any]:
                if ours:
                    self.statements.begin(cursor)
                return self.statements.batch(cursor, self.since, self.until, self.batch_size)

            return atomic_phase(self.using, work)
