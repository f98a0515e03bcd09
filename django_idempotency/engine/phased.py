"""
An execution in phases: the claim commits first, each phase commits with its recovery point, and the record comes last.

If the process is killed before the claim, nothing was done. If it is killed later, a retry waits for the lease to run
out, takes the run over, gets the results of the recorded phases, and goes on after them. If it is killed when
the record is written, a retry gets that. `core.progress` draws the states of a run.

Between two phases nothing may be written. A phase that reaches another system is in no transaction with it: its derived
key, or its probe, is what heals a kill between that system's answer and our COMMIT.
"""

import logging
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from django.db import Error, connections

from django_idempotency.core.decision import Claimed, Execute, Forget, Unsettled, decide, settle
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.progress import Progress
from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine import announcements
from django_idempotency.engine.execution import Executed, Execution, Refused, Replayed, Value, try_again
from django_idempotency.engine.handle import OperationHandle
from django_idempotency.engine.leased import says_nothing_was_done
from django_idempotency.engine.phases import PhasedHandle, Phases
from django_idempotency.engine.renewal import Lease, keeper
from django_idempotency.engine.transactional import explain
from django_idempotency.engine.transactions import (
    atomic_phase,
    in_transaction,
    is_inside_a_transaction,
    leave_open_blocks,
    repeated_phase,
)
from django_idempotency.exceptions import (
    KeyReused,
    OutcomeUncertain,
    OutcomeUnknown,
    PhaseError,
    PolicyError,
    Refusal,
    RequestInProgress,
    StoreUnavailable,
)
from django_idempotency.models import GIVEN_UP, NO_DOUBT, UNSURE
from django_idempotency.stores.base import Fault, Store, TransactionalStore
from django_idempotency.stores.database.phased import Free, Run, Runs, leases_of

logger = logging.getLogger("django_idempotency")


def runs_of(store: Store) -> Runs:
    """Where *store* keeps runs. Raises `PolicyError` if it keeps none."""
    if store.runs is None:
        raise PolicyError(f'{store} keeps no runs: mode="phased" needs a DatabaseStore.')
    return store.runs


class LostRun(Exception):
    """The run now belongs to another request, or to an operator: what this one would commit is rolled back."""


class PhasedExecution(Execution[Value]):
    """One attempt and its way through a store in the database *using*, in several transactions."""

    __slots__ = ("attempts", "doubt", "is_forgotten", "is_resumed", "lease", "phases", "progress", "runs", "token")

    store: TransactionalStore
    using: str
    phases: Phases

    def __init__(self, store: TransactionalStore, policy: ResolvedPolicy, using: str | None, *call: Any) -> None:
        self.runs = runs_of(store)
        super().__init__(store, policy, using or store.database(), *call)
        self.place = connections[self.using]
        self.token = str(secrets.randbits(63))
        self.attempts = 1  # of this run, with this one, or since an operator let it be resumed
        self.is_resumed = False  # Was there an earlier attempt?
        self.progress = Progress()  # of earlier attempts
        self.lease: Lease | None = None
        self.is_forgotten = False
        self.doubt: OutcomeUncertain | None = None  # which leaves the outcome unsettled

    def try_once(self) -> Executed[Value] | Replayed | Refused | None:
        try:
            if is_inside_a_transaction(self.using):
                raise PolicyError(
                    f'mode="phased" inside a transaction on database {self.using!r}, in which no phase could commit.'
                    " Decorate a view that ATOMIC_REQUESTS would cover with @transaction.non_atomic_requests, and take"
                    " other atomic blocks away."
                )
            moved = self.moved()
            if moved is not None:
                return moved
            found = self.runs.look_up(self.using, self.attempt)
            if isinstance(found, Run):
                return self._go_on(found)
            if isinstance(found, Free):
                return self._begin(found)
            return self.act(decide(found, self.attempt.fingerprint))
        except Error as error:
            if not self.has_run:
                explain(self.store, self.using, error)
            elif self.phases.was_cancelled and self.doubt is None and self._is_race(error):
                self.announce_error(error)
                return try_again(error)
            raise
        finally:
            if self.lease is not None:
                keeper.drop(self.lease)

    def _begin(self, free: Free) -> Executed[Value] | Replayed | Refused | None:
        policy = self.policy
        resume_for = policy.ttl if policy.resume_for is None else policy.resume_for
        self.attempts, self.progress, self.is_resumed = 1, Progress(), False
        return self._claim(
            partial(self.runs.begin, self.using, self.attempt, free, self.token, policy.lease, resume_for)
        )

    def _go_on(self, run: Run) -> Executed[Value] | Replayed | Refused | None:
        """Take the *run* of an earlier attempt over, if that has ended and may be tried again."""
        if run.fingerprint != self.attempt.fingerprint:
            return Refused(KeyReused())
        if run.is_held:
            return None
        if not run.is_given_up and run.attempts >= self.policy.max_attempts:
            if self.runs.give_up(self.using, self.attempt, run):
                self._announce_unsettled(OutcomeUncertain(f"it was attempted {run.attempts} times without an answer"))
        elif not run.is_given_up:
            self.attempts, self.progress, self.is_resumed = run.attempts + 1, run.progress, True
            logger.warning(
                "Attempt %d of %s, %s", self.attempts, self.attempt.identity,
                f"after phase {run.progress.last!r}" if run.progress.last else "from its beginning",
            )  # fmt: skip
            return self._claim(
                partial(self.runs.take_over, self.using, self.attempt, run, self.token, self.policy.lease)
            )
        return self.act(decide(Unsettled(run.fingerprint), self.attempt.fingerprint))

    def _claim(self, claim: Callable[[], bool]) -> Executed[Value] | Replayed | Refused | None:
        # Made before the lease in the database begins.
        claimed = Claimed(self.token)
        self.lease = Lease(leases_of(self.runs, self.using), self.attempt, claimed, self.policy.lease)
        if not atomic_phase(self.using, claim):
            return None
        try:
            keeper.hold(self.lease)
        except RuntimeError as error:  # without a thread the lease would run out while the handler runs
            logger.error("Cannot start the thread that renews leases; refused %s: %s", self.attempt.identity, error)
            self._give_back(error)
            raise StoreUnavailable from error
        return self.act(Execute(claimed))

    # --- the handler ---

    def make_handle(self) -> OperationHandle:
        return PhasedHandle(self.attempt, self.phases)

    def carry_out(self, claim: Claimed) -> Executed[Value] | Replayed | Refused:
        self.phases = phases = Phases(
            self.using, OperationHandle(self.attempt).derive_key, self, self.progress, resumed=self.is_resumed
        )
        try:
            with phases.watched():
                answer = self.capture(self.run_handler())
            if leave_open_blocks(self.using):
                raise PhaseError("The handler left an atomic block open: leave it before you return.")
            phases.check_end()
        except BaseException as error:
            leave_open_blocks(self.using)
            if phases.verdict is not None:
                return self._refuse(phases.verdict)
            self._end(error)
            raise
        if phases.verdict is not None:  # the handler has swallowed it
            return self._refuse(phases.verdict)
        self.summary = answer.summary
        # A redirect to the login page without a finished phase is a refusal.
        match settle(answer, rollback_requested=False, has_written=bool(phases.progress.phases)):
            case Forget():
                self._end(None)
                return Executed(answer.value, None)
            case remember:
                return self._finish(self.to_store(remember.record), answer.value)

    def _refuse(self, verdict: Refusal) -> Refused:
        """Answer with the *verdict* of a phase, whatever the handler made of it."""
        if self.doubt is not None:
            self._give_back(self.doubt, GIVEN_UP if self.attempts >= self.policy.max_attempts else UNSURE)
            self._announce_unsettled(self.doubt)
        return Refused(verdict)

    def _finish(self, record: CompletionRecord, value: Value) -> Executed[Value] | Refused:
        def work() -> None:
            if not self.runs.finish(self.using, self.attempt, self.token, record):
                raise LostRun

        lease = self.lease

        def may_repeat(error: Error) -> bool:
            nonlocal lease
            if lease is None or in_transaction(self.using) or not self._is_race(error):
                return self.may_repeat(error)
            keeper.drop(lease)  # our own renewal of it may have been in the way
            lease = None
            return True

        try:
            repeated_phase(self.using, work, may_repeat)
        except LostRun:
            return Refused(self.lost())
        except BaseException as error:  # a retry resumes, or finds the record if COMMIT was sent
            self._give_back(error)
            raise
        self.record = record
        return Executed(value, record)

    def _end(self, error: BaseException | None) -> None:
        """End an attempt whose answer is not stored. What its phases have committed stays."""
        phases = self.phases
        if self.lease is not None:
            keeper.drop(self.lease)  # whose renewal might be in the way
        untouched = not self.is_resumed and not phases.may_have_done and not phases.progress.phases
        try:
            if untouched and atomic_phase(self.using, partial(self.runs.forget, self.using, self.attempt, self.token)):
                self.is_forgotten = True
                return
        except Error as failure:
            identity = self.attempt.identity
            logger.warning("%s is not freed: a retry runs when its lease has run out: %s", identity, failure)
            return
        if self.attempts >= self.policy.max_attempts:
            self.doubt = OutcomeUncertain(f"its attempt {self.attempts}, the last one, ended in phase {phases.place!r}")
        self._give_back(error, GIVEN_UP if self.doubt else NO_DOUBT)

    def _give_back(self, error: BaseException | None, doubt: int = NO_DOUBT) -> None:
        """End the lease, so that a retry resumes at once."""
        if self.lease is not None:
            keeper.drop(self.lease)
        said = self.summary if error is None else f"{type(error).__name__}: {error}"
        place = self.phases.place if self.has_run else ""
        try:
            self.runs.give_back(self.using, self.attempt, self.token, doubt=doubt, phase=place, error=said)
        except Error as failure:
            logger.warning("The lease of %s was not ended, and runs out by itself: %s", self.attempt.identity, failure)

    # --- what the phases ask for ---

    def enter_phase(self, *, holds: bool) -> bool:
        return self.runs.enter_phase(self.using, self.attempt, self.token, self.policy.lease, holds=holds)

    def advance(self, progress: Progress) -> bool:
        return self.runs.advance(self.using, self.attempt, self.token, progress)

    def may_repeat(self, error: Error, *, is_allowed: bool = True) -> bool:
        self.phases.was_cancelled = self._is_race(error)
        is_possible = is_allowed and self.phases.was_cancelled and not in_transaction(self.using)
        return is_possible and self.has_retry(error)

    def _is_race(self, error: Error) -> bool:
        return self.store.classify(self.using, error) is Fault.RACE

    def owns(self) -> bool:
        return self.runs.owns(self.using, self.attempt, self.token)

    def lost(self) -> Refusal:
        logger.warning(
            "%s has lost its lease to another request or to an operator, and commits nothing any more",
            announcements.name(self.attempt.identity),
        )
        return RequestInProgress("Another request with this key has taken over. Send the same request again.")

    def unsure(self, name: str, reason: str) -> Refusal:
        self.doubt = OutcomeUncertain(f"phase {name!r} may have been done, and {reason}")
        return OutcomeUnknown()

    def says_nothing_was_done(self, error: Exception) -> bool:
        return says_nothing_was_done(error, self.policy)

    # --- announcements ---

    def announce_error(self, error: Exception) -> None:
        if self.record is not None:
            announcements.executed(self.using, self.attempt.identity, self.record)
            return
        self.summary = type(error).__name__
        self.announce_forgotten()

    def announce_forgotten(self) -> None:
        identity = self.attempt.identity
        if self.is_forgotten:
            announcements.forgotten(self.using, identity, self.summary)
        elif self.doubt is not None:
            self._announce_unsettled(self.doubt)
        else:
            logger.warning(
                "Interrupted %s in or after phase %r with %s: the next attempt goes on there",
                announcements.name(identity), self.phases.place, self.summary,
            )  # fmt: skip

    def _announce_unsettled(self, error: OutcomeUncertain) -> None:
        error.identity = self.attempt.identity
        announcements.unsettled(self.using, self.attempt.identity, error)
