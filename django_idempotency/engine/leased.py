"""
An execution outside the database: claim, handler, record, each by itself, as no transaction covers them.

Nothing rolls back here, so outcomes are told apart. A handler that answered by itself, with a refusal or an exception
of its own, leaves its key free. One that never answered, or whose answer is not stored, leaves an uncertain outcome:
the claim stays, and whoever comes with its key is refused (or, where the work is harmless to repeat, runs it).

Killed before the claim: nothing was done. Killed from there on, until the record is written: uncertain, as soon as the
lease has run out. After it: replayed.
"""

import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import replace

from django_idempotency.core.decision import Answer, Claimed, Forget, Remember, Unsettled, decide, settle
from django_idempotency.core.keys import Attempt
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine import announcements
from django_idempotency.engine.execution import Executed, Execution, Refused, Replayed, Value
from django_idempotency.engine.handle import OperationHandle
from django_idempotency.engine.renewal import Lease, keeper
from django_idempotency.exceptions import OutcomeUncertain, PolicyError, StoreUnavailable
from django_idempotency.stores.base import Fault, LeasedStore

logger = logging.getLogger("django_idempotency")


class LeasedExecution(Execution[Value]):
    """One attempt's way through a store beside the databases."""

    __slots__ = ("is_uncertain", "lease", "pid", "policy", "store", "summary", "token")

    using: None

    def __init__(
        self,
        store: LeasedStore,
        policy: ResolvedPolicy,
        attempt: Attempt,
        execute: Callable[[OperationHandle], Value],
        capture: Callable[[Value], Answer[Value]],
    ) -> None:
        super().__init__(None, attempt, execute, capture)
        self.place = store
        self.store = store
        self.policy = policy
        self.token = secrets.token_hex(16)
        self.pid = os.getpid()
        self.is_uncertain = False  # as was announced
        self.summary = ""  # for logs: what the handler answered

    def try_once(self) -> Executed[Value] | Replayed | Refused | None:
        policy = self.policy
        claim = Claimed(self.token)
        lease = self.lease = Lease(self.store, self.attempt, claim, policy.lease)  # before the store's own begins
        try:
            found = self.store.claim(self.attempt, self.token, policy.lease, take_over=policy.take_over)
        except PolicyError:  # there is no such store
            raise
        except BaseException as error:  # the worker's end among them
            # The claim may be there, its reply lost or not understood, or come to the store later on.
            keeper.release_late(lease)
            if isinstance(error, Exception) and self.store.classify(None, error) is Fault.UNAVAILABLE:
                logger.error("The store %r does not answer: %s", self.store.alias, error)
                raise StoreUnavailable from error
            raise
        match found:
            case Unsettled(found_out=reason) if reason:
                announcements.unsettled(None, self.attempt.identity, OutcomeUncertain(reason))
            case Claimed(taken_over=True):
                logger.warning("Took %s over from a request whose outcome is uncertain", self.attempt.identity)
            case _:
                pass
        decision = decide(found, self.attempt.fingerprint)
        if not isinstance(found, Claimed):
            return self.act(decision)
        try:
            try:
                keeper.hold(lease)
            except RuntimeError as error:  # without a thread it would run out while the handler runs
                self._release(found)
                logger.error("Cannot start the thread that renews leases; refused %s: %s", self.attempt.identity, error)
                raise StoreUnavailable from error
            return self.act(decision)
        finally:
            keeper.drop(lease)

    def can_start_again(self) -> bool:
        return True

    def carry_out(self, claim: Claimed) -> Executed[Value] | Replayed:
        try:
            value = self.run_handler()
        except BaseException as error:
            if not self._is_in_fork():
                self._end(claim, error)
            raise
        if self._is_in_fork():
            return Executed(value, None)
        try:
            answer = self.capture(value)
        except BaseException as error:
            self._mark_unsettled(claim, OutcomeUncertain(f"its handler's answer cannot be stored: {error}"))
            raise
        self.summary = answer.summary
        # Work outside the database cannot be observed, so that it counts as done.
        match settle(answer, rollback_requested=False, has_written=True):
            case Forget():
                self._release(claim)
                return Executed(answer.value, None)
            case Remember(record):
                if self.attempt.request_id:
                    record = replace(record, request_id=self.attempt.request_id)
                return self._complete(claim, record, answer.value)

    def _complete(self, claim: Claimed, record: CompletionRecord, value: Value) -> Executed[Value] | Replayed:
        try:
            kept = self.store.complete(self.attempt, claim, record)
        except Exception as error:
            uncertain = OutcomeUncertain(f"the store {self.store.alias!r} did not take the answer ({error})")
            keeper.mark_unsettled(self.lease)  # later: the store has just not answered
            self._announce_uncertain(uncertain)
            raise uncertain from error
        except BaseException as error:  # the worker is being ended
            self._mark_unsettled(claim, OutcomeUncertain(f"its answer was on its way at {type(error).__name__}"))
            raise
        if kept is record:
            self.record = record
            return Executed(value, record)
        if kept is not None:
            logger.warning(
                "%s took longer than its lease, and another request with its key has answered meanwhile: so does this"
                " one, though its handler ran too", self.attempt.identity
            )  # fmt: skip
            return Replayed(kept)
        uncertain = OutcomeUncertain("its claim was lost while the handler ran, to another request or to an operator")
        self._announce_uncertain(uncertain)
        raise uncertain

    def _is_in_fork(self) -> bool:
        """Is this a process that the handler has forked, and that came out of it? The claim is its parent's."""
        return os.getpid() != self.pid

    def _end(self, claim: Claimed, error: BaseException) -> None:
        """What the *error* that the handler raised says of its outcome."""
        match error:
            case OutcomeUncertain(identity=None):  # the handler itself does not know
                self._mark_unsettled(claim, error)
            case Exception():  # its own answer; or another operation's uncertain outcome, which it has started
                self._release(claim)
            case _:  # the worker is being ended: whatever the handler was about to do
                self._mark_unsettled(claim, OutcomeUncertain(f"its handler was ended by {type(error).__name__}"))

    def _release(self, claim: Claimed) -> None:
        try:
            self.store.release(self.attempt, claim)
        except Exception as error:  # the caller gets the handler's answer
            logger.warning("The key of %s is freed as soon as its store answers: %s", self.attempt.identity, error)
            keeper.release(self.lease)

    def _mark_unsettled(self, claim: Claimed, uncertain: OutcomeUncertain) -> None:
        keeper.drop(self.lease)  # a renewal would let it go on
        try:
            self.store.mark_unsettled(self.attempt, claim)
        except Exception as error:  # whatever it is: if the store never answers, the lease runs out by itself
            logger.warning("The lease of %s is ended as soon as its store answers: %s", self.attempt.identity, error)
            keeper.mark_unsettled(self.lease)
        self._announce_uncertain(uncertain)

    def _announce_uncertain(self, uncertain: OutcomeUncertain) -> None:
        uncertain.identity = self.attempt.identity
        self.is_uncertain = True
        announcements.unsettled(None, self.attempt.identity, uncertain)

    def announce_error(self, error: Exception) -> None:
        if not self.is_uncertain:
            self.summary = type(error).__name__
            self.announce_forgotten()

    def announce_forgotten(self) -> None:
        if not self._is_in_fork():
            announcements.forgotten(None, self.attempt.identity, self.summary)
