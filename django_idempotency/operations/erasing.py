"""Erases what is stored for a scope: the records of a person, whose account is closed."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from django.db import Error

from django_idempotency.engine.transactions import atomic_phase
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.operations import records
from django_idempotency.operations.presentation import State, state
from django_idempotency.operations.purging import refuse_inside_a_transaction
from django_idempotency.stores.stored import Location, StoredRecord

logger = logging.getLogger("django_idempotency")

NOT_KNOWN = (State.UNSETTLED, State.INTERRUPTED)  # whether the request took effect
BATCH_SIZE = 100  # records of one transaction; PostgreSQL holds a lock for each


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """How many records were erased (in a dry run: would have been), and how many were left, by the reason."""

    count: int
    unsettled: int  # the outcome is unknown
    in_flight: int  # the request runs, as far as that can be seen

    @property
    def finished(self) -> bool:
        """Was nothing left?"""
        return not self.unsettled and not self.in_flight


def erase(
    location: Location,
    scope: str,
    *,
    include_unsettled: bool = False,
    dry_run: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Erased:
    """
    Erase what *location* has for exactly this *scope*, replay caches included. The keys are new then: a retry runs.

    It works in batches, each of which commits by itself; if it is killed, call it again. Claims in flight are left. So
    are unsettled outcomes and interrupted runs, because their keys would run again although the first request may have
    taken effect; *include_unsettled* erases those, too. *progress* is called after each batch with the number that it
    erased. A *dry_run* counts and erases nothing.

    In a database a request in flight cannot be seen, and writes its record when it commits: call this again, when no
    request of the scope can run any more.

    Raises `RuntimeError` inside an atomic block, `NotImplementedError` for a store that cannot list a scope,
    `StoreUnavailable` if a replay cache does not answer, and what the server raises; what was erased before stays so.
    """
    count = unsettled = in_flight = 0
    with location.selected():
        if location.using is not None and not dry_run:
            refuse_inside_a_transaction("Erasing", location.using)
        found = location.store.of_scope(location.using, scope)
        while batch := list(islice(found, BATCH_SIZE)):
            wanted = []
            for record in batch:
                if record.is_in_flight:
                    in_flight += 1
                elif state(record) in NOT_KNOWN and not include_unsettled:
                    unsettled += 1
                else:
                    wanted.append(record)
            erased, refused = (len(wanted), 0) if dry_run else _erase(location, wanted)
            count += erased
            in_flight += refused
            if progress is not None:
                progress(erased)
    if count and not dry_run:
        logger.info("Erased %d records of one scope from the %s", count, location)
    return Erased(count=count, unsettled=unsettled, in_flight=in_flight)


def _erase(location: Location, wanted: Sequence[StoredRecord]) -> tuple[int, int]:
    """Erase the *wanted* records. Returns how many were erased, and how many are in flight again."""
    using = location.using
    if using is not None and wanted:
        for record in wanted:  # before the rows: a record that is only in a cache would still be replayed
            records.evict(location.store, using, record.digest)
        try:
            return atomic_phase(using, partial(_free, location, wanted)), 0
        except (RequestInProgress, Error):
            pass  # one of them is in use, or lost a race: each by itself
    count = refused = 0
    for record in wanted:
        try:
            count += records.free(record)
        except RequestInProgress:
            refused += 1
    return count, refused


def _free(location: Location, wanted: Sequence[StoredRecord]) -> int:
    free = partial(location.store.free, location.using)
    return sum(free(each.digest, each.executed_at, unsettled=each.is_unsettled) for each in wanted)
