"""
An execution outside the databases: no transaction covers claim, handler and record.

Nothing rolls back here. A handler that answered with a refusal, or raised what says that nothing was done, leaves its
key free. One that raised anything else (a gateway's `TimeoutError` says nothing about the card), did not answer, or
whose answer is not stored, leaves an unknown outcome: the claim stays, and a retry is refused (with
`uncertain="retry"` it runs, and a probe is asked).

If the process is killed before the claim, nothing was done. If it is killed before the record is written, the outcome
is unknown as soon as the lease has run out. If it is killed later, a retry gets the record.
"""

import logging
import os
import secrets
import sys
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation, ValidationError
from django.http import Http404

from django_idempotency.core.decision import (
    Claimed,
    ClaimResult,
    Decision,
    Execute,
    Forget,
    Refuse,
    Remember,
    Replay,
    Unsettled,
    Wait,
    decide,
    settle,
)
from django_idempotency.core.keys import Attempt
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.probe import UNSURE
from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine import announcements
from django_idempotency.engine.execution import Executed, Execution, Refused, Replayed, Value
from django_idempotency.engine.renewal import Lease, keeper
from django_idempotency.exceptions import (
    NothingDone,
    OutcomeUncertain,
    OutcomeUnknown,
    PolicyError,
    Refusal,
    StoreUnavailable,
)
from django_idempotency.stores.base import Fault, LeasedStore

Result = TypeVar("Result")

logger = logging.getLogger("django_idempotency")

# A handler that raises one of these refuses: nothing was done. DRF's `APIException` is another, where DRF is imported.
REFUSALS = (BadRequest, Http404, NothingDone, PermissionDenied, Refusal, SuspiciousOperation, ValidationError)


class LeasedExecution(Execution[Value]):
    """One attempt and its way through a store outside the databases."""

    __slots__ = ("is_unsettled", "leases", "pid", "token")

    store: LeasedStore
    using: None

    def __init__(self, store: LeasedStore, policy: ResolvedPolicy, using: str | None, *call: Any) -> None:
        super().__init__(store, policy, None, *call)
        self.place = store
        self.token = secrets.token_hex(16)
        self.leases: list[Lease] = []  # of the names of the attempt, which are held
        self.pid = os.getpid()
        self.is_unsettled = False  # was announced as such

    def try_once(self) -> Executed[Value] | Replayed | Refused | None:
        self.leases, self.answer = [], None
        moved = self._call_store(None, self.moved)
        if moved is not None:
            return moved
        try:
            for attempt in self.attempt.names:
                decision = self._claim_and_hold(attempt)
                if not isinstance(decision, Execute):
                    self._release()
                    return self.act(decision)
            return self.act(Execute(Claimed(self.token)))
        except BaseException:
            if not self.has_run:
                self._release()
            raise
        finally:
            for lease in self.leases:
                keeper.drop(lease)

    def _claim_and_hold(self, attempt: Attempt) -> Decision:
        # Made before the store's own lease begins.
        lease = Lease(self.store, attempt, Claimed(self.token), self.policy.lease)
        found = self._claim(attempt, lease)
        executed_at = None
        if self.may_ask(found, attempt):
            # Not given up if the call fails: the key would be free, although its outcome is unknown.
            executed_at = self._call_store(None, self.store.hold, attempt, self.token, self.policy.lease)
            if executed_at is None:  # another retry was faster, or an operator, or its value cannot be read
                found = self._claim(attempt, lease)
        match found:
            case Unsettled(found_out=reason) if reason and executed_at is None:
                announcements.unsettled(None, attempt.identity, OutcomeUncertain(reason))
            case Claimed(taken_over=True):
                logger.warning("Took %s over from a request whose outcome is unknown", attempt.identity)
            case _:
                pass
        if isinstance(found, Unsettled) and executed_at is not None:
            decision = self._ask(lease, found, executed_at)
        else:
            decision = decide(found, attempt.fingerprint)
        if isinstance(decision, Execute):
            self.leases.append(lease)
            try:
                keeper.hold(lease)
            except RuntimeError as error:  # without a thread the lease would run out while the handler runs
                logger.error("Cannot start the thread that renews leases; refused %s: %s", attempt.identity, error)
                raise StoreUnavailable from error
        return decision

    def _claim(self, attempt: Attempt, lease: Lease) -> ClaimResult:
        claim = partial(self.store.claim, take_over=self.policy.take_over)
        return self._call_store(lease, claim, attempt, self.token, self.policy.lease)

    def _ask(self, lease: Lease, found: Unsettled, executed_at: datetime) -> Decision:
        """Ask the probe about an outcome that was *found* to be unknown, and whose claim is held now."""
        attempt, claim = lease.attempt, lease.claim
        try:
            answer = self.ask_probe(executed_at)
        except BaseException:  # the worker is being ended
            self._give_back(lease, found)
            raise
        if answer is UNSURE:
            self._give_back(lease, found)
            return Refuse(OutcomeUnknown())
        if not isinstance(answer, CompletionRecord):
            lease.begin(time.monotonic())
            if not self._call_store(None, self.store.begin, attempt, claim, self.policy.lease):
                return Wait()  # the probe took longer than the lease, and another one was faster
            logger.warning("The probe of %s says that nothing was done: it runs", attempt.identity)
            return Execute(claim)
        kept = self._call_store(None, self.store.complete, attempt, claim, answer)
        if kept is None:
            return Wait()
        try:
            for name in self.attempt.names:  # those before it are claimed, those after it may be as unsettled
                if name is not attempt:
                    self.store.hold(name, self.token, self.policy.lease)
                    self.store.complete(name, claim, kept)
        except Exception as error:  # the answer is stored, under one name
            logger.warning("The answer to %s is not stored under each of its names: %s", attempt.identity, error)
        return Replay(kept)

    def _give_back(self, lease: Lease, found: Unsettled) -> None:
        """Leave the outcome that was *found* as unknown as before. The first who hears of it announces it."""
        try:
            self.store.mark_unsettled(lease.attempt, lease.claim)
        except Exception as failure:  # then the lease runs out by itself
            logger.warning("The lease of %s was not ended: %s", lease.attempt.identity, failure)
        if found.found_out:
            announcements.unsettled(None, lease.attempt.identity, OutcomeUncertain(found.found_out))

    def _call_store(self, lease: Lease | None, call: Callable[..., Result], *arguments: Any) -> Result:
        """Make a *call* before the handler runs. If it fails, a claim that may come of it, by *lease*, is given up."""
        try:
            return call(*arguments)
        except PolicyError:  # there is no such store
            raise
        except BaseException as error:  # the end of the worker is one, too
            # The claim may exist if its reply was lost or not understood, or may still reach the store.
            if lease is not None:
                keeper.release_late(lease)
            if isinstance(error, Exception) and self.store.classify(None, error) is Fault.UNAVAILABLE:
                logger.error("The store %r does not answer: %s", self.store.alias, error)
                raise StoreUnavailable from error
            raise

    def carry_out(self, claim: Claimed) -> Executed[Value] | Replayed:
        try:
            value = self.run_handler()
        except BaseException as error:
            if not self._is_in_fork():
                self._end(error)
            raise
        if self._is_in_fork():
            return Executed(value, None)
        try:
            answer = self.capture(value)
        except BaseException as error:
            self._mark_unsettled(OutcomeUncertain(f"its handler's answer cannot be stored: {error}"))
            raise
        self.summary = answer.summary
        # Work outside the database cannot be observed, so it counts as done.
        match settle(answer, rollback_requested=False, has_written=True):
            case Forget():
                self._release()
                return Executed(answer.value, None)
            case Remember(record):
                return self._complete(claim, self.to_store(record), answer.value)

    def _complete(self, claim: Claimed, record: CompletionRecord, value: Value) -> Executed[Value] | Replayed:
        try:
            kept = self.store.complete(self.attempt, claim, record)
        except Exception as error:
            unknown = OutcomeUncertain(f"the store {self.store.alias!r} did not take the answer ({error})")
            for lease in self.leases:
                keeper.mark_unsettled(lease)  # later, because the store does not answer now
            self._announce_unsettled(unknown)
            raise unknown from error
        except BaseException as error:  # the worker is being ended
            self._mark_unsettled(OutcomeUncertain(f"its answer was on its way at {type(error).__name__}"))
            raise
        if kept is not None:
            self._complete_former(kept)
        if kept is record:
            self.record = record
            return Executed(value, record)
        if kept is not None:
            logger.warning(
                "%s took longer than its lease, and another request with its key has answered: this one gets the same"
                " answer, although its handler ran too", self.attempt.identity
            )  # fmt: skip
            return Replayed(kept)
        unknown = OutcomeUncertain("its claim was lost while the handler ran, to another request or to an operator")
        self._announce_unsettled(unknown)
        raise unknown

    def _complete_former(self, record: CompletionRecord) -> None:
        """Write the *record* under the former names too, for processes that know no other."""
        for lease in self.leases[1:]:
            try:
                self.store.complete(lease.attempt, lease.claim, record)
            except Exception as error:  # the answer is stored, under the name that decides
                logger.warning("The answer to %s is not stored: %s", lease.attempt.identity, error)
                keeper.mark_unsettled(lease)

    def _is_in_fork(self) -> bool:
        """Did the handler fork this process? The claim belongs to its parent."""
        return os.getpid() != self.pid

    def _end(self, error: BaseException) -> None:
        """End the claim of a handler that raised *error*."""
        match error:
            case OutcomeUncertain(identity=None):  # the handler itself says that it does not know
                self._mark_unsettled(error)
            case Exception() if says_nothing_was_done(error, self.policy):
                self._release()
            case Exception():
                self._mark_unsettled(OutcomeUncertain(f"its handler raised {type(error).__name__}"))
            case _:  # the worker is being ended, at any point of the handler
                self._mark_unsettled(OutcomeUncertain(f"its handler was ended by {type(error).__name__}"))

    def _release(self) -> None:
        for lease in self.leases:
            try:
                self.store.release(lease.attempt, lease.claim)
            except Exception as error:  # the caller gets the handler's answer all the same
                logger.warning("The key of %s will be freed when its store answers: %s", lease.attempt.identity, error)
                keeper.release(lease)

    def _mark_unsettled(self, error: OutcomeUncertain) -> None:
        for lease in self.leases:
            keeper.drop(lease)  # a renewal would prolong it
            try:
                self.store.mark_unsettled(lease.attempt, lease.claim)
            except Exception as failure:  # if the store never answers, the lease runs out by itself
                logger.warning(
                    "The lease of %s will be ended when its store answers: %s", lease.attempt.identity, failure
                )
                keeper.mark_unsettled(lease)
        self._announce_unsettled(error)

    def _announce_unsettled(self, error: OutcomeUncertain) -> None:
        error.identity = self.attempt.identity
        self.is_unsettled = True
        announcements.unsettled(None, self.attempt.identity, error)

    def announce_error(self, error: Exception) -> None:
        if not self.is_unsettled:
            self.summary = type(error).__name__
            self.announce_forgotten()

    def announce_forgotten(self) -> None:
        if not self._is_in_fork():
            announcements.forgotten(None, self.attempt.identity, self.summary)


def says_nothing_was_done(error: Exception, policy: ResolvedPolicy) -> bool:
    """Does *error*, which a handler outside of any transaction has raised, say that nothing was done?"""
    drf = sys.modules.get("rest_framework.exceptions")
    return isinstance(error, (*REFUSALS, *policy.not_done)) or (drf is not None and isinstance(error, drf.APIException))
