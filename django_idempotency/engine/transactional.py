"""
An execution inside the database: claim, handler and record in one transaction.

The claim is the transaction's first statement and the record its last; the handler runs between them. If the process
is killed before COMMIT, nothing of the three is left; if it is killed later, all of them are. A store may begin the
transaction with the claim's statement, before the atomic block, and end it with the record's.
"""

import logging
from functools import partial
from typing import Any

from django.db import Error, connections

from django_idempotency.core.decision import (
    Claimed,
    ClaimResult,
    Decision,
    Execute,
    Forget,
    Refuse,
    Remember,
    Replay,
    Wait,
    decide,
    settle,
)
from django_idempotency.core.keys import Attempt
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.probe import UNSURE
from django_idempotency.core.record import CompletionRecord
from django_idempotency.core.seen import SeenNames
from django_idempotency.engine import announcements
from django_idempotency.engine.execution import Cancelled, Executed, Execution, Refused, Replayed, Value
from django_idempotency.engine.transactions import (
    atomic_phase,
    close_begun,
    in_transaction,
    is_in_transaction,
    roll_back,
)
from django_idempotency.engine.watch import TransactionWatch
from django_idempotency.exceptions import (
    CommittedEarly,
    HandlerError,
    OutcomeUnknown,
    RequestInProgress,
    StoreUnavailable,
    TransactionBroken,
)
from django_idempotency.stores.base import Fault, LostRace, TransactionalStore

logger = logging.getLogger("django_idempotency")

DURABLE = (
    "An idempotent handler already runs in a transaction, which commits its work together with the stored answer. Leave"
    " durable=True out inside it, or protect the code around the durable block instead."
)
warned = SeenNames()  # operations whose released locks were logged


class TransactionalExecution(Execution[Value]):
    """One attempt and its way through a store in the database *using*."""

    __slots__ = ("former_claims", "has_committed", "is_own", "is_recording", "rule", "watch")

    store: TransactionalStore
    using: str
    place: Any  # the connection

    def __init__(self, store: TransactionalStore, policy: ResolvedPolicy, using: str | None, *call: Any) -> None:
        super().__init__(store, policy, using or store.database(), *call)
        self.place = connections[self.using]
        self.is_recording = False  # set when the record is sent, perhaps together with COMMIT
        self.is_own = False  # set before the transaction begins, if its COMMIT is ours
        self.has_committed = False  # set when that has succeeded
        self.watch: TransactionWatch | None = None
        self.former_claims: list[Claimed] = []  # of `attempt.former`, in their order
        self.rule = ""  # by which the work is rolled back, for logs

    def try_once(self) -> Executed[Value] | Replayed | Refused | Cancelled[Value] | None:
        self.answer, self.has_run, self.rule = None, False, ""
        begun: ClaimResult | None = None
        begins = False  # while the store may begin the transaction
        try:
            if self.attempt.moved:
                moved = self.moved()
                if moved is not None:
                    return moved
            for attempt in self.attempt.names:
                seen = self.store.look_up(self.using, attempt)
                if seen is not None and not self.may_ask(seen, attempt):
                    return self.act(decide(seen, attempt.fingerprint))
            if not self.attempt.former:
                begins = not self.place.in_atomic_block and (self.place.autocommit or self.place.connection is None)
                begun = self.store.begin(self.using, self.attempt)
                begins = False
                if begun is not None and not isinstance(begun, Claimed) and not self.may_ask(begun, self.attempt):
                    return self.act(decide(begun, self.attempt.fingerprint))
            self.is_own = not is_in_transaction(self.place)
            outcome = atomic_phase(self.using, partial(self._claim_and_act, begun))
        except BaseException as error:
            if self.has_run:
                if isinstance(error, Exception) and self._is_cancelled(error):
                    return Cancelled(error)
            else:
                # An interruption may have come when `begin` had claimed, and its result was not assigned yet.
                if isinstance(begun, Claimed) or (begins and not isinstance(error, Error | LostRace)):
                    close_begun(self.using)
                if isinstance(error, Error):
                    explain(self.store, self.using, error)
            raise
        if isinstance(outcome, Executed) and outcome.record is None and self._is_cancelled(None):
            return Cancelled(outcome)
        return outcome

    def _note_commit(self) -> None:
        self.has_committed = True

    def _is_race(self, error: Exception) -> bool:
        return self.store.classify(self.using, error) is Fault.RACE

    def _is_cancelled(self, error: Exception | None) -> bool:
        """
        Was the work, which is rolled back, lost to a rival?

        Not if COMMIT may have succeeded, and not if the handler had committed part of it before.
        """
        watch = self.watch
        if self.has_committed or watch is None:
            return False
        if self.is_recording and not isinstance(error, TransactionBroken):
            if not isinstance(error, Error) or not self._is_race(error):
                return False
        elif not watch.lost_race:
            return False
        if watch.may_have_ended() and self._is_claim_left():
            return False
        self.record, self.is_recording = None, False
        return True

    def run_again(self, cancelled: Cancelled[Value]) -> bool:
        if self.retried >= self.policy.retries or not self.can_start_again():
            return False
        if self.restore is not None and not self.restore():
            return False
        result = cancelled.result
        summary = self.summary if isinstance(result, Executed) else type(result).__name__
        announcements.forgotten(self.using, self.attempt.identity, summary)
        return self.has_retry(summary)

    def can_start_again(self) -> bool:
        # Only a new transaction sees what a rival committed, and the engine cannot start an outer one again.
        return not in_transaction(self.using)

    def _claim_and_act(self, begun: ClaimResult | None) -> Executed[Value] | Replayed | Refused | None:
        decision = Execute(begun) if isinstance(begun, Claimed) else self._claim(self.attempt)
        if self.attempt.former and isinstance(decision, Execute):
            self.former_claims = []
            for attempt in self.attempt.former:
                of_former = self._claim(attempt)
                if isinstance(of_former, Replay) and of_former.record is self.answer:  # its probe has found it
                    self._complete_former(of_former.record)
                    self.store.complete(self.using, self.attempt, decision.claim, of_former.record)
                elif not isinstance(of_former, Execute):
                    roll_back(self.using)  # the claims of the names before it
                if not isinstance(of_former, Execute):
                    return self.act(of_former)
                self.former_claims.append(of_former.claim)
        return self.act(decision)

    def _claim(self, attempt: Attempt) -> Decision:
        found = self.store.claim(self.using, attempt)
        return self._ask(attempt) if self.may_ask(found, attempt) else decide(found, attempt.fingerprint)

    def _ask(self, attempt: Attempt) -> Decision:
        """
        Ask the probe about the unknown outcome of *attempt*. This transaction holds it: its claim is deleted first, and
        comes back if the transaction is rolled back.
        """
        using, digest = self.using, attempt.identity.digest
        if self.store.runs is not None and self.store.runs.has_run(using, attempt):  # it was phased before a deploy
            return Refuse(OutcomeUnknown())
        stored = self.store.find(using, digest)
        if stored is None or not stored.is_unsettled:  # another retry was faster, or its row cannot be read
            return decide(self.store.claim(using, attempt), attempt.fingerprint)
        try:
            if not self.store.free(using, digest, stored.executed_at, unsettled=True):
                raise LostRace
        except RequestInProgress:  # another retry asks, or an operator decides
            return Wait()
        answer = self.ask_probe(stored.executed_at)
        if answer is UNSURE:
            roll_back(using)
            return Refuse(OutcomeUnknown())
        found = self.store.claim(using, attempt)
        if not isinstance(found, Claimed):
            raise LostRace
        if not isinstance(answer, CompletionRecord):
            return Execute(found)
        self.store.complete(using, attempt, found, answer)
        return Replay(answer)

    def carry_out(self, claim: Claimed) -> Executed[Value]:
        if self.is_own:
            self.place.on_commit(self._note_commit)  # before all hooks of the handler's, which may raise
        watch = self.watch = TransactionWatch(self.place, self._is_claim_committed, self._is_race)
        try:
            with watch:
                answer = self.capture(self.run_handler())
        except RuntimeError as error:
            if "durable atomic block" in str(error):
                error.add_note(DURABLE)
            raise
        self.summary = answer.summary
        self._warn(watch)
        try:
            # Asked only if the answer is to be stored: a handler may catch a database error and refuse for it.
            requested = answer.record is not None and watch.rollback_requested()
            match settle(answer, rollback_requested=requested, has_written=watch.wrote):
                case Remember(record):
                    record = self.to_store(record)
                    self.is_recording = True
                    if self.former_claims:
                        self._complete_former(record)
                    self.store.complete(self.using, self.attempt, claim, record)
                    self.record = record
                    return Executed(answer.value, record)
                case Forget(rule):
                    self.rule = rule
        except TransactionBroken as error:
            if answer.is_promise:
                raise
            self.rule = str(error)
        roll_back(self.using)
        return Executed(answer.value, None)

    def _complete_former(self, record: CompletionRecord) -> None:
        """Write the *record* under the former names too, for processes that know no other. The last claim is first."""
        for attempt, claim in reversed(list(zip(self.attempt.former, self.former_claims, strict=False))):
            self.store.complete(self.using, attempt, claim, record)

    def _warn(self, watch: TransactionWatch) -> None:
        """Log what the handler did that the transaction does not cover."""
        identity = self.attempt.identity
        for alias in watch.strangers:
            logger.warning(
                "%s wrote to database %r while its record is in %r: the two do not commit together. The option `using`"
                " names the database that the handler writes to.", announcements.name(identity), alias, self.using
            )  # fmt: skip
        if watch.released_lock and warned.is_new(identity.operation):
            logger.warning(
                "%s released a lock of its database session before COMMIT, which comes after the handler: another"
                " request can take the lock and not see this one's work. Use a lock that lasts until COMMIT"
                " (select_for_update(), pg_advisory_xact_lock()), or take it around the protected view.",
                announcements.name(identity),
            )

    def announce_error(self, error: Exception) -> None:
        if self.record is not None:
            # A database error of COMMIT leaves it open whether the work is durable. Other errors come from hooks, which
            # run after COMMIT.
            if not isinstance(error, Error):
                announcements.executed(self.using, self.attempt.identity, self.record)
        elif self.is_recording and not isinstance(error, HandlerError):
            pass  # COMMIT may have been sent with the record: the retry finds out
        else:
            self.summary = type(error).__name__
            self._announce_end(error if isinstance(error, CommittedEarly) else None)

    def announce_forgotten(self) -> None:
        self._announce_end(None)

    def _announce_end(self, error: CommittedEarly | None) -> None:
        """Announce that the work was rolled back, or that the handler has committed it without an outcome."""
        identity = self.attempt.identity
        watch = self.watch
        left = watch is not None and (error is not None or watch.may_have_ended()) and self._is_claim_left()
        if left is None:
            return
        if left:
            error = error or CommittedEarly()
            error.identity = identity
            announcements.unsettled(self.using, identity, error)
            return
        if self.rule and watch is not None and watch.wrote:
            logger.warning(
                "%s had written before it answered with %s, and its work was rolled back: %s.",
                announcements.name(identity), self.summary, self.rule,
            )  # fmt: skip
        announcements.forgotten(self.using, identity, self.summary)

    def _is_claim_left(self) -> bool | None:
        """
        Does the claim exist although the work was to be rolled back? Then the handler has committed it.

        None if the database does not answer; then the retry finds out.
        """
        connection = self.place
        if connection.in_atomic_block if connection.closed_in_transaction else connection.connection is None:
            return False  # with the connection the server drops the transaction
        doomed = connection.in_atomic_block and connection.needs_rollback
        try:
            if doomed:
                # Our savepoint is gone, and with it the outer transaction: Django will roll back what is left.
                connection._rollback()
            connection.needs_rollback = False
            return self._is_claim_committed()
        except Error:
            logger.exception("Cannot ask whether %s has left a claim", announcements.name(self.attempt.identity))
            return None
        finally:
            connection.needs_rollback = doomed

    def _is_claim_committed(self) -> bool:
        return self.store.is_unsettled(self.using, self.attempt)


def explain(store: Any, using: str, error: Error) -> None:
    """
    Raise `LostRace` or `StoreUnavailable` if *error*, which came before the handler has run, means that; any other is
    left to propagate.
    """
    match store.classify(using, error):
        case Fault.RACE:
            raise LostRace from error
        case Fault.UNAVAILABLE:
            logger.error("The store %r does not answer: %s", store.alias, error)
            raise StoreUnavailable from error
        case Fault.OTHER:
            if "django_idempotency_r" in str(error):
                error.add_note("Has `manage.py migrate` created the tables of django_idempotency?")
