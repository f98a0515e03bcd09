"""
What an operator does with one record: free its key, settle an outcome that is unsettled, or decide whether a run in
phases is resumed.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

from django.db import Error, connections

from django_idempotency import conf
from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine.transactions import after_commit, atomic_phase, in_transaction
from django_idempotency.exceptions import PolicyError, RequestInProgress
from django_idempotency.models import GIVEN_UP, NO_DOUBT, UNSETTLED, IdempotencyRecord
from django_idempotency.operations.policies import Policies
from django_idempotency.stores import stores
from django_idempotency.stores.base import Fault, Store, TransactionalStore
from django_idempotency.stores.database.decisions import decide
from django_idempotency.stores.database.store import replay_caches
from django_idempotency.stores.stored import Location, StoredRecord, StoredRun

logger = logging.getLogger("django_idempotency")

Outcome = TypeVar("Outcome")
Identified = bytes | IdempotencyRecord | StoredRecord

TRIES = 5  # of a change that loses a race


def free(record: Identified, *, using: str | None = None, store: str = "default") -> bool:
    """
    Forget what is stored for an identity, so that the next request with its key runs. Returns False if nothing is
    stored.

    *record* is the record as a store or a queryset read it, or the 32-byte digest of its identity. *store* and *using*
    locate a row or a digest; a `StoredRecord` has its location.

    Also evicts the identity from the replay cache of every store that shares the table, even if its row is already
    gone.

    Raises `RequestInProgress` and changes nothing if the identity is in flight, or if it was executed again, or its
    unsettled outcome was answered, after *record* was read (for a digest: after the call began); and if *record* is the
    `StoredRecord` of a run in phases, which was attempted or decided about since. It is raised at once; on SQLite,
    after the present writer has ended or the connection's timeout has passed. A transaction of this function that loses
    a race begins anew; inside an outer one the race is Django's `OperationalError`. Raises `StoreUnavailable` and
    changes nothing if a replay cache does not answer. All other errors of a database or store propagate.
    """
    location, digest, seen = _locate(record, using, store)
    owner, using = location.store, location.using
    unsettled = not isinstance(record, bytes) and record.status == UNSETTLED
    with location.selected():
        executed_at = seen()
        if using is not None:
            evict(owner, using, digest)
        change = partial(owner.free, using, digest, executed_at, unsettled=unsettled)
        freed = _change(location, _of_run(record, location, change))
    if freed:
        _log(using, "Freed %s", digest)
    return freed


def settle(record: Identified, answer: CompletionRecord, *, using: str | None = None, store: str = "default") -> bool:
    """
    Store *answer* for an execution whose outcome is unsettled: retries get it, for as long as they would have got the
    handler's own. Returns False if no unsettled execution is stored.

    The arguments are those of `free`, and so are the errors.
    """
    location, digest, seen = _locate(record, using, store)
    with location.selected():
        change = partial(location.store.settle, location.using, digest, seen(), answer)
        settled = _change(location, _of_run(record, location, change))
    if settled:
        _log(location.using, "Settled %s with an answer of status %d", digest, answer.status)
    return settled


def resume(record: StoredRecord) -> bool:
    """
    Let the run of *record*, whose outcome is unsettled, be resumed: the next retry, or the resumer, goes on after the
    last finished phase. Its attempts count anew, and the resumer tries for the project's `resume_for`, or longer if it
    had longer. Returns False if there is no run.

    Raises as `free` does.
    """
    run = record.run
    if run is None:
        return False
    policy = conf.resolved()
    resume_for = max(policy.resume_for or policy.ttl, (run.resume_until - record.now).total_seconds())
    return _decide(record, run, "Resumed %s: its attempts count anew", doubt=NO_DOUBT, resume_for=resume_for)


def give_up(record: StoredRecord) -> bool:
    """
    Give the interrupted run of *record* up: nothing goes on with it, and its outcome is unsettled, and expires if the
    option `uncertain_ttl` says so. Returns False if there is no run.

    Raises as `free` does.
    """
    if record.run is None:
        return False
    policy = Policies().policy(record)
    ttl = None if policy is None else policy.uncertain_ttl
    return _decide(record, record.run, "Gave %s up", doubt=GIVEN_UP, uncertain_ttl=ttl)


def _decide(record: StoredRecord, run: StoredRun, message: str, **decision: Any) -> bool:
    location = record.location
    with location.selected():
        _change(location, partial(_decide_in_transaction, location, record.digest, run, **decision))
    _log(location.using, message, record.digest)
    return True


def _decide_in_transaction(location: Location, digest: bytes, run: StoredRun, **decision: Any) -> None:
    runs = location.store.runs
    if runs is None:
        raise PolicyError(f"{location.store} keeps no runs.")
    decide(runs, location.using or "", digest, run, **decision)


def _of_run(record: Identified, location: Location, change: Callable[[], bool]) -> Callable[[], bool]:
    """The *change* of *record*; of a run, only as it was read."""
    if not isinstance(record, StoredRecord) or record.run is None:
        return change
    digest, run = record.digest, record.run

    def guarded() -> bool:
        _decide_in_transaction(location, digest, run, doubt=run.doubt)
        return change()

    return guarded


def _locate(record: Identified, using: str | None, store: str) -> tuple[Location, bytes, Callable[[], Any]]:
    """The location of the record, its identity, and a function that returns when it was executed."""
    if isinstance(record, StoredRecord):
        return record.location, record.digest, lambda: record.executed_at
    digest, row = (record, None) if isinstance(record, bytes) else (bytes(record.digest), record)
    if len(digest) != 32:
        raise ValueError(f"The digest of an identity has 32 bytes, not {len(digest)}.")
    owner = stores[store]
    if not owner.commits_with_handler:
        using = None
    elif not using:
        using = (row and row._state.db) or owner.database()
    location = Location(store=owner, using=using)
    if row is not None:
        return location, digest, lambda: row.executed_at
    if using is None:
        return location, digest, lambda: None
    # Read before the transaction, which on SQLite begins only after the present writer has committed.
    executed_at = cast("TransactionalStore", owner).executed_at
    return location, digest, partial(_call, location, partial(executed_at, using, digest))


def evict(owner: Store, using: str, digest: bytes) -> None:
    """Evict the identity from the caches of the stores that share the table. The *owner* clears its own."""
    if owner.has_table:
        for cache in replay_caches():
            if cache is not getattr(owner, "replay_cache", None):
                cache.remove(using, digest)


def _change(location: Location, change: Callable[[], Outcome]) -> Outcome:
    """Make the *change* in a transaction; if that is our own and loses a race, try again."""
    using = location.using
    if using is None:
        return change()
    tries_left = 0 if in_transaction(using) else TRIES - 1
    while True:
        try:
            return _call(location, partial(atomic_phase, using, change))
        except Error as error:
            if not tries_left or location.classify(error) is not Fault.RACE:
                raise
            tries_left -= 1


def _call(location: Location, call: Callable[[], Outcome]) -> Outcome:
    """Call *call*. If SQLite's one writer is in the way, that is a request in progress: it may have this identity."""
    try:
        return call()
    except Error as error:
        connection = connections[location.using or ""]
        opened = connection.connection is not None  # if not, the file is at fault, and not a writer
        if connection.vendor == "sqlite" and opened and location.classify(error) is Fault.UNAVAILABLE:
            raise RequestInProgress("Another request is writing to the database, perhaps with this key.") from error
        raise


def _log(using: str | None, message: str, digest: bytes, *arguments: object) -> None:
    """Log *message* once the transaction on *using*, if there is one, has committed."""

    def log() -> list[tuple[Any, Any]]:
        logger.info(message, digest.hex(), *arguments)
        return []

    if using is None:
        log()
    else:
        after_commit(using, log)
