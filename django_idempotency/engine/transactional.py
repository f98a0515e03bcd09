"""
An execution inside the database: claim, handler and record in one transaction.

The claim is the transaction's first statement and the record its last; between them runs the handler. Killed at any
instant before COMMIT, nothing of the three is left; after it, all of them are. A store may let the claim's statement
begin the transaction, which the atomic block then takes over, and the record's end it.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from django.db import Error, connections

from django_idempotency.core.decision import Answer, Claimed, ClaimResult, Forget, Remember, decide, settle
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine import announcements
from django_idempotency.engine.execution import Executed, Execution, Refused, Replayed, Value
from django_idempotency.engine.handle import OperationHandle
from django_idempotency.engine.transactions import atomic_phase, close_begun, in_transaction, roll_back
from django_idempotency.engine.watch import TransactionWatch
from django_idempotency.exceptions import CommittedEarly, HandlerError, StoreUnavailable, TransactionBroken
from django_idempotency.stores.base import Fault, LostRace, TransactionalStore

logger = logging.getLogger("django_idempotency")

DURABLE = (
    "An idempotent handler already runs in a transaction, which commits its work together with the stored answer. Leave"
    " durable=True out inside it, or protect the code around the durable block instead."
)
REMEMBERED = 1000  # operations: a callable `operation` may name any number of them
_warned: set[str] = set()  # operations whose released locks were logged


class TransactionalExecution(Execution[Value]):
    """One attempt's way through a store in the database *using*."""

    __slots__ = ("is_inside", "is_recording", "rule", "store", "summary", "watch")

    using: str

    def __init__(
        self,
        store: TransactionalStore,
        using: str | None,
        attempt: Attempt,
        execute: Callable[[OperationHandle], Value],
        capture: Callable[[Value], Answer[Value]],
    ) -> None:
        using = using or store.database()
        super().__init__(using, attempt, execute, capture)
        self.place = connections[using]
        self.store = store
        self.is_inside = False  # of the atomic block, which ends what is begun
        self.is_recording = False  # set when the record is sent, perhaps together with COMMIT
        self.watch: TransactionWatch | None = None
        # For logs: what the handler answered, and the rule by which its work is rolled back.
        self.summary = self.rule = ""

    def try_once(self) -> Executed[Value] | Replayed | Refused | None:
        """The outcome, or None while a rival is in flight. Our own transaction, or savepoint, is over then."""
        try:
            seen = self.store.look_up(self.using, self.attempt)
            if seen is not None:
                return self.act(decide(seen, self.attempt.fingerprint))
            return self._begin_and_act()
        except Error as error:
            if not self.has_run:
                self._explain(error)
            raise

    def can_start_again(self) -> bool:
        """Only a new transaction sees what a rival committed, and an outer one is not ours to start again."""
        return not in_transaction(self.using)

    def _begin_and_act(self) -> Executed[Value] | Replayed | Refused | None:
        begun: ClaimResult | None = None
        self.is_inside = is_plain = False
        try:
            begun = self.store.begin(self.using, self.attempt)
            is_plain = begun is None
            if begun is None or isinstance(begun, Claimed):
                return atomic_phase(self.using, partial(self._act_inside, begun))
            return self.act(decide(begun, self.attempt.fingerprint))
        except LostRace:
            raise  # which promises that no transaction is open
        except BaseException:
            if not (self.is_inside or is_plain):
                close_begun(self.using, is_begun=begun is not None)
            raise

    def _act_inside(self, begun: Claimed | None) -> Executed[Value] | Replayed | Refused | None:
        self.is_inside = True
        found = begun or self.store.claim(self.using, self.attempt)
        return self.act(decide(found, self.attempt.fingerprint))

    def carry_out(self, claim: Claimed) -> Executed[Value]:
        watch = self.watch = TransactionWatch(self.using, self._is_claim_committed)
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
            # Asked only for an answer to keep: a handler may swallow a database error and refuse for it.
            requested = answer.record is not None and watch.rollback_requested()
            match settle(answer, rollback_requested=requested, has_written=watch.wrote):
                case Remember(record):
                    return self._remember(claim, answer.value, record)
                case Forget(rule):
                    self.rule = rule
        except TransactionBroken as error:
            if answer.is_promise:
                raise
            self.rule = str(error)
        roll_back(self.using)
        return Executed(answer.value, None)

    def _remember(self, claim: Claimed, value: Value, record: CompletionRecord) -> Executed[Value]:
        if self.attempt.request_id:
            record = replace(record, request_id=self.attempt.request_id)  # as a replay has it from the store
        self.is_recording = True
        self.store.complete(self.using, self.attempt, claim, record)
        self.record = record
        return Executed(value, record)

    def _warn(self, watch: TransactionWatch) -> None:
        """Log what the handler has done that the transaction does not cover."""
        identity = self.attempt.identity
        for alias in watch.strangers:
            logger.warning(
                "%s wrote to database %r while its record is in %r: the two do not commit together. The option `using`"
                " names the database that the handler writes to.", announcements.name(identity), alias, self.using
            )  # fmt: skip
        if watch.released_lock and identity.operation not in _warned:
            if len(_warned) < REMEMBERED:
                _warned.add(identity.operation)
            logger.warning(
                "%s released a lock of its database session before COMMIT, which comes after the handler: another"
                " request can take the lock and not see this one's work. Use a lock that lasts until COMMIT"
                " (select_for_update(), pg_advisory_xact_lock()), or take it around the protected view.",
                announcements.name(identity),
            )

    def announce_error(self, error: Exception) -> None:
        if self.record is not None:
            # From COMMIT on, a database's error says nothing. Any other is a hook's, and hooks run after COMMIT.
            if not isinstance(error, Error):
                announcements.executed(self.using, self.attempt.identity, self.record)
        elif self.is_recording and not isinstance(error, HandlerError):
            pass  # COMMIT may have travelled with the record: the retry finds out
        else:
            self.summary = type(error).__name__
            self._announce_end(error if isinstance(error, CommittedEarly) else None)

    def announce_forgotten(self) -> None:
        self._announce_end(None)

    def _announce_end(self, error: CommittedEarly | None) -> None:
        """Announce that nothing is left of the work; or that it is committed, and its claim without an outcome."""
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
        Whether the claim is there although the work was to be rolled back: then the handler has committed it.

        None if the database does not answer: the retry finds out.
        """
        connection: Any = connections[self.using]  # `_rollback` is not in the stubs
        if connection.in_atomic_block if connection.closed_in_transaction else connection.connection is None:
            return False  # with the connection the server drops the transaction
        doomed = connection.in_atomic_block and connection.needs_rollback
        try:
            if doomed:
                # The savepoint that we set is gone, and the outer transaction with it: Django rolls back what is left.
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

    def _explain(self, error: Error) -> None:
        """Tell a lost race and a store that is away from each other and from all else, which is left to propagate."""
        match self.store.classify(self.using, error):
            case Fault.RACE:
                raise LostRace from error
            case Fault.UNAVAILABLE:
                logger.error("The store %r does not answer: %s", self.store.alias, error)
                raise StoreUnavailable from error
            case Fault.OTHER:
                if missing_table(error):
                    error.add_note("Has `manage.py migrate` created the tables of django_idempotency?")


def missing_table(error: Error) -> bool:
    return "django_idempotency_record" in str(error)
