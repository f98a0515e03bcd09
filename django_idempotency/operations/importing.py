"""
Copies the records of another package, so that the keys of its time are answered after the move.

A record is written by the store's own verbs, as if its request had been executed now: an identity that the store has
already is never overwritten, and a process that is killed leaves whole records.
"""

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import cast

from django.db import Error
from django.utils import timezone

from django_idempotency import conf
from django_idempotency.core.decision import Claimed, ClaimResult, InFlight, Unsettled
from django_idempotency.core.keys import MAX_KEY, Attempt, Identity
from django_idempotency.core.moved import ANYONE
from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine.transactions import atomic_phase
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.models import UNSETTLED, IdempotencyRecord
from django_idempotency.operations import records
from django_idempotency.operations.houses.base import UNREADABLE, Foreign, House, Source
from django_idempotency.operations.houses.django_idempotency_key import DjangoIdempotencyKey
from django_idempotency.operations.houses.djangorestframework_idempotency_key import DjangorestframeworkIdempotencyKey
from django_idempotency.operations.houses.drf_idempotency import DrfIdempotency
from django_idempotency.operations.houses.drf_idempotencykey import DrfIdempotencykey
from django_idempotency.operations.houses.idemkit import Idemkit
from django_idempotency.operations.purging import refuse_inside_a_transaction
from django_idempotency.stores.base import Fault, LeasedStore, LostRace, TransactionalStore
from django_idempotency.stores.stored import Location

logger = logging.getLogger("django_idempotency")

BATCH_SIZE = 100  # records of one transaction; PostgreSQL holds a lock for each
TRIES = 5  # of a batch that loses a race
LEASE = 30.0  # seconds, of a claim outside the databases

HOUSES: dict[str, House] = {
    house.package: house
    for house in (
        DjangoIdempotencyKey(),
        DjangorestframeworkIdempotencyKey(),
        DrfIdempotency(),
        DrfIdempotencykey(),
        Idemkit(),
    )
}

EXPIRED, HERE, IN_USE = "expired", "here already", "in use at this moment"
NOT_YET = "without an answer yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """
    How many answers and unknown outcomes an import wrote (in a dry run: would have), how many records it left, by the
    reason, and whether it came to the end.
    """

    answers: int = 0
    unknown: int = 0
    left: Counter[str] = field(default_factory=Counter)
    ended: bool = True

    @property
    def finished(self) -> bool:
        """Is everything here that a retry may ask for?"""
        return self.ended and not self.left[IN_USE] and not self.left[UNREADABLE]


def import_records(
    house: House,
    source: Source,
    location: Location,
    *,
    scope: str | None = None,
    answers: bool = True,
    ahead: bool = False,
    dry_run: bool = False,
    progress: Callable[[int], object] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Imported:
    """
    Copy what *house* has in *source* to *location*, in batches that commit by themselves.

    The records of a package that does not keep them apart by the user get the *scope*; with None they are for whoever
    sends the same key with the same request. With *answers* False each is written as an unknown outcome, which is
    refused to everybody and not run again. *ahead* of the move, while requests are in flight there, claims without an
    answer are left.

    A record lives as long as it would have lived there; where the package does not say how long, for the project's
    `ttl` after its request. So does an unknown outcome. An answer replaces an unknown outcome that was imported before
    it. *progress* is called after each batch with its number of records. No new batch begins once *stop* returns True.
    A *dry_run* counts and writes nothing.

    Raises `RuntimeError` inside an atomic block, `CannotRead` for a place without such records, and what a server
    raises; what was imported before stays so.
    """
    if location.using is not None and not dry_run:
        refuse_inside_a_transaction("An import", location.using)
    left: Counter[str] = Counter()
    written = {True: 0, False: 0}  # with and without an answer
    ended = True
    make = partial(
        _entry, ttl=timedelta(seconds=conf.resolved().ttl), scope=scope or ANYONE, answers=answers, ahead=ahead
    )
    write = _look if dry_run else _write
    with location.selected():
        found = house.read(source)
        while ended and (batch := list(islice(found, BATCH_SIZE))):
            made = [each if isinstance(each, str) else make(each) for each in batch]
            entries = [each for each in made if isinstance(each, Entry)]
            left.update(each for each in made if isinstance(each, str))
            for entry, reason in zip(entries, write(location, entries), strict=True):
                if reason:
                    left[reason] += 1
                else:
                    written[entry.answer is not None] += 1
            if progress is not None:
                progress(len(batch))
            ended = stop is None or not stop()
    if not dry_run:
        logger.info("Imported %d answers and %d unknown outcomes from %s", written[True], written[False], house.package)
    return Imported(answers=written[True], unknown=written[False], left=left, ended=ended)


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as it is written: the attempt that it stands for, and its answer if that is known."""

    attempt: Attempt
    answer: CompletionRecord | None


def _entry(foreign: Foreign, *, ttl: timedelta, scope: str, answers: bool, ahead: bool) -> Entry | str:
    """What *foreign* is written as, or why it is not."""
    if ahead and foreign.answer is None:
        return NOT_YET
    left = ((foreign.expires_at or foreign.began_at + ttl) - timezone.now()).total_seconds()
    if left <= 0:
        return EXPIRED
    if not 1 <= len(foreign.moved.name) <= MAX_KEY:
        return UNREADABLE
    arrival = Attempt(
        identity=Identity("", "", ""),
        fingerprint=b"",
        ttl=left,
        uncertain_ttl=left,
        request=f"request to {foreign.moved.package}",  # for people; an event has none
    )
    return Entry(foreign.moved.attempt(foreign.moved.scope or scope, arrival), foreign.answer if answers else None)


def _look(location: Location, entries: Sequence[Entry]) -> list[str]:
    """Why each of *entries* would be left; empty if it would be written."""
    statuses: dict[bytes, int] = {}
    digests = [entry.attempt.identity.digest for entry in entries]
    if location.using is not None:
        rows = IdempotencyRecord.objects.using(location.using).live().filter(digest__in=digests)
        statuses = {bytes(digest): status for digest, status in rows.values_list("digest", "status")}
    else:
        found = filter(None, map(location.find, digests))
        statuses = {each.digest: each.status for each in found if each.is_live}
    reasons = []
    for digest, entry in zip(digests, entries, strict=True):
        status = statuses.get(digest)
        is_free = status is None or (status == UNSETTLED and entry.answer is not None)  # for an answer
        reasons.append("" if is_free else HERE)
    return reasons


def _write(location: Location, entries: Sequence[Entry]) -> list[str]:
    """Write *entries*, in one transaction if *location* is in a database. Returns why each was left."""
    reasons = _look(location, entries)
    wanted = [entry for entry, reason in zip(entries, reasons, strict=True) if not reason]
    written = iter(_write_wanted(location, wanted) if wanted else ())
    return [reason or next(written) for reason in reasons]


def _write_wanted(location: Location, entries: Sequence[Entry]) -> list[str]:
    using, work = location.using, partial(_write_each, location, entries)
    if using is None:
        return work()
    for tries_left in reversed(range(TRIES)):
        try:
            # In a savepoint, because the record of an outermost transaction may be sent together with COMMIT.
            return atomic_phase(using, partial(atomic_phase, using, work))
        except (Error, LostRace) as error:
            is_race = isinstance(error, LostRace) or location.classify(error) is Fault.RACE
            if not tries_left or not is_race:
                raise
    raise AssertionError("the last try returns or raises")


def _write_each(location: Location, entries: Sequence[Entry]) -> list[str]:
    write = _write_leased if location.using is None else _write_transactional
    return [_settle(location, entry, write(location, entry)) for entry in entries]


def _write_transactional(location: Location, entry: Entry) -> ClaimResult | None:
    """Write *entry*. Returns what is in its place; None if it was written. A claim without a record is unsettled."""
    store, using = cast(TransactionalStore, location.store), cast(str, location.using)
    found = store.claim(using, entry.attempt)
    if not isinstance(found, Claimed):
        return found
    if entry.answer is not None:
        store.complete(using, entry.attempt, found, entry.answer)
    return None


def _write_leased(location: Location, entry: Entry) -> ClaimResult | None:
    """The same in a store outside the databases. If this is killed in between, the outcome is unknown, too."""
    store = cast(LeasedStore, location.store)
    found = store.claim(entry.attempt, secrets.token_hex(16), LEASE, take_over=False)
    if not isinstance(found, Claimed):
        return found
    if entry.answer is None:
        store.mark_unsettled(entry.attempt, found)
    else:
        store.complete(entry.attempt, found, entry.answer)
    return None


def _settle(location: Location, entry: Entry, found: ClaimResult | None) -> str:
    """Give the unknown outcome that was *found* in the place of *entry* its answer. Returns why *entry* was left."""
    if found is None:
        return ""
    if isinstance(found, InFlight):
        return IN_USE
    if isinstance(found, Unsettled) and entry.answer is not None and found.fingerprint == entry.attempt.fingerprint:
        stored = location.find(entry.attempt.identity.digest)
        try:
            if stored is not None and records.settle(stored, entry.answer):
                return ""
        except RequestInProgress:  # an operator decides about it
            return IN_USE
    return HERE
