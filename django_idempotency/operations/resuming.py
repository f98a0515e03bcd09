"""Resumes interrupted runs of phased mode whose clients never come back, and asks probes for them."""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from itertools import islice
from typing import Any

from django_idempotency.core.keys import Identity
from django_idempotency.encryption import unseal
from django_idempotency.engine import announcements
from django_idempotency.exceptions import OutcomeUncertain
from django_idempotency.models import GIVEN_UP, NO_DOUBT, PhasedRun
from django_idempotency.operations import locations
from django_idempotency.operations.probing import Asked, Probes
from django_idempotency.protection.resumption import NotResumed, Resumption
from django_idempotency.protection.sending import send_again
from django_idempotency.stores.database import interrupted
from django_idempotency.stores.database.phased import SENT
from django_idempotency.stores.stored import Location, StoredRecord

logger = logging.getLogger("django_idempotency")

SHORTEST_PAUSE, LONGEST_PAUSE = 10.0, 3600.0  # seconds
MOST = 10_000  # unsettled outcomes that are looked through for those with a probe
# What the view answers for reasons that may pass: 408, 425, 429 (a throttle) and everything from 500 on.
MAY_PASS = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
FORBIDDEN = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})


class Result(Enum):
    """What came of the resumption of a run."""

    FINISHED = "finished"  # its answer is stored, and its client's retry gets it
    LATER = "to be tried again"
    UNSETTLED = "unsettled"  # it was refused or given up
    BUSY = "taken by another"  # resumer, or by its client


@dataclass(frozen=True, slots=True)
class Resumed:
    """A run, and what came of its resumption, with the reason if it did not end."""

    digest: bytes
    result: Result
    reason: str = ""


class Resumer:
    """
    Resumes runs, one after the other. Any number may work at once: each run is taken over by one of them.

    It keeps no state but the times at which it may call probes again.
    """

    def __init__(self) -> None:
        self.probes = Probes()
        self._next_question: dict[bytes, float] = {}  # by digest; monotonic

    def resume_each(self, location: Location, limit: int) -> Iterator[Resumed]:
        """
        Resume at most *limit* runs of *location* that are due, one at each step.

        Raises what the database raises; what the view raises is kept with its run. If this process is killed in the
        middle of a run, another goes on when the lease has run out.
        """
        using = location.using or ""
        with location.selected():
            digests = [bytes(digest) for digest in interrupted.due(using).values_list("digest", flat=True)[:limit]]
        for digest in digests:
            with location.selected():
                resumed = self._resume(location, digest)
            if resumed.result is not Result.BUSY:
                reason = f", {resumed.reason}" if resumed.reason else ""
                logger.info("Resumed %s: %s%s", digest.hex(), resumed.result.value, reason)
            yield resumed

    def count_due(self, location: Location) -> int:
        """How many runs of *location* are due."""
        with location.selected():
            return interrupted.due(location.using or "").count()

    def _resume(self, location: Location, digest: bytes) -> Resumed:
        using = location.using or ""
        run = interrupted.due(using).filter(digest=digest).first()
        record = None if run is None else interrupted.record_of(using, run)
        if run is None or record is None:  # another was faster
            return Resumed(digest, Result.BUSY)
        resumption = Resumption(digest, bytes(record.fingerprint))
        status, failure = 0, ""
        try:
            status = send_again(unseal(record.scope, digest, SENT, bytes(run.sent)), resumption)
        except NotResumed:
            pass  # the reason is in `resumption`
        except Exception as error:  # the project's, or a key is gone; a later attempt may succeed
            logger.warning("Resuming %s ended in an error", digest.hex(), exc_info=True)
            failure = f"{type(error).__name__}: {error}"
        return self._judge(location, run, resumption, status, failure)

    def _judge(
        self, location: Location, before: PhasedRun, resumption: Resumption, status: int, failure: str
    ) -> Resumed:
        """Say what came of the run, as its row tells now, and keep what the next resumer needs."""
        using, digest = location.using or "", resumption.digest
        run = interrupted.find(using, digest)
        if run is None:
            return Resumed(digest, Result.FINISHED)
        if run.ends_at > run.now or (resumption.is_reached and run.token == before.token and run.doubt < GIVEN_UP):
            return Resumed(digest, Result.BUSY)
        if run.doubt == GIVEN_UP:
            return Resumed(digest, Result.UNSETTLED, run.error or "it was attempted too often")
        reason = resumption.reason
        if not reason and not failure and (status in FORBIDDEN or not (resumption.is_reached or _may_pass(status))):
            reason = f"its view answered with status {status}{_meaning(status)}"
        if reason:
            if interrupted.refuse(using, run, reason):
                _announce(location, run, reason)
            return Resumed(digest, Result.UNSETTLED, reason)
        if not resumption.is_reached:
            failure = failure or f"its view answered with status {status} before its handler"
        interrupted.postpone(using, run, _pause(run), "" if resumption.is_reached else failure)
        return Resumed(digest, Result.LATER, failure or run.error)

    def give_up_overdue(self, location: Location, limit: int) -> list[Resumed]:
        """Give at most *limit* runs up that are older than the option `resume_for` allows, and return them."""
        using, given_up = location.using or "", []
        with location.selected():
            for run in interrupted.overdue(using)[:limit]:
                reason = run.error or "nobody has resumed it in time"
                if not interrupted.give_up(using, run, reason):
                    continue
                record = interrupted.record_of(using, run)
                policy = None if record is None else self.probes.policy(record)
                if policy is not None and location.store.runs is not None:
                    location.store.runs.let_expire(using, bytes(run.digest), str(run.token), policy.uncertain_ttl)
                _announce(location, run, f"it could not be finished within `resume_for`: {reason}")
                given_up.append(Resumed(bytes(run.digest), Result.UNSETTLED, reason))
        return given_up

    def count_without_request(self, location: Location) -> tuple[int, int]:
        """How many interrupted requests and calls of `@once` functions of *location* no resumer can send again."""
        with location.selected():
            requests, calls = (
                interrupted.without_request(location.using or "", is_call=each) for each in (False, True)
            )
            return requests.count(), calls.count()

    def ask_each(self, places: Iterable[Location], limit: int) -> tuple[Iterator[Asked], list[locations.Error]]:
        """
        Call the probes of at most *limit* unsettled outcomes in *places*, the oldest first. Returns what came of them,
        one at each step, and the errors of places that do not answer.
        """
        found, errors = locations.find_unsettled([each for each in places if self.probes.may_know(each)], MOST)
        return self.probes.ask_each(islice(self._askable(found), limit)), errors

    def _askable(self, found: list[StoredRecord]) -> Iterator[StoredRecord]:
        """Those of the unsettled outcomes *found* whose probe was not called a short while ago."""
        now = time.monotonic()
        digests = {record.digest for record in found}
        self._next_question = {digest: at for digest, at in self._next_question.items() if digest in digests}
        for record in found:
            policy = self.probes.policy(record)
            if policy is None or policy.probe is None or self._next_question.get(record.digest, now) > now:
                continue
            age = (record.now - record.executed_at).total_seconds()
            self._next_question[record.digest] = now + min(max(age, SHORTEST_PAUSE), LONGEST_PAUSE)
            yield record


def resumable(places: Iterable[Location]) -> list[Location]:
    """Those of *places* that keep runs of phased mode."""
    return [each for each in places if each.using is not None and each.store.runs is not None]


def _meaning(status: int) -> str:
    if status in FORBIDDEN or 300 <= status < 400:  # to the login
        return ", so its user may not do this, or not any more"
    return " before its handler was reached"


def _may_pass(status: int) -> bool:
    return status in MAY_PASS or status >= 500


def _pause(run: Any) -> float:
    """Seconds for which *run* is left alone: as long as it is old, so that each pause is twice the one before."""
    age = (run.now - run.executed_at).total_seconds()
    return float(min(max(age, SHORTEST_PAUSE), LONGEST_PAUSE))


def _announce(location: Location, run: PhasedRun, reason: str) -> None:
    """Report that the outcome of *run* is unsettled, unless that was reported before."""
    record = interrupted.record_of(location.using or "", run)
    if record is None or run.doubt != NO_DOUBT:
        return
    identity = Identity(record.scope, record.operation, record.key)
    if identity.digest != bytes(run.digest):  # a column has cut it off
        logger.error("Unsettled %s: %s", bytes(run.digest).hex(), reason)
        return
    error = OutcomeUncertain(reason)
    error.identity = identity
    announcements.unsettled(location.using, identity, error)
