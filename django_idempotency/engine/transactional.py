"""
An execution inside the database: claim, handler and record in one transaction.

The claim is the transaction's first statement and the record its last; between them runs the handler. Killed at any
instant before COMMIT, nothing of the three is left; after it, all of them are.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from django.db import Error, connections

from django_idempotency.core.decision import Answer, Claimed, Forget, Remember, decide, settle
from django_idempotency.core.keys import Attempt
from django_idempotency.engine import announcements
from django_idempotency.engine.execution import Executed, Execution, Refused, Replayed, Value
from django_idempotency.engine.handle import OperationHandle
from django_idempotency.engine.transactions import Watch, atomic_phase, in_transaction, roll_back
from django_idempotency.exceptions import CommittedEarly, HandlerError, StoreUnavailable
from django_idempotency.stores.base import Fault, LostRace, TransactionalStore

logger = logging.getLogger("django_idempotency")


class TransactionalExecution(Execution[Value]):
    """One attempt's way through a store in the database *using*."""

    __slots__ = ("is_recording", "store", "watch")

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
        self.is_recording = False  # set when the record is sent, perhaps together with COMMIT
        self.watch: Watch | None = None

    def try_once(self) -> Executed[Value] | Replayed | Refused | None:
        """The outcome, or None while a rival is in flight. Our own transaction, or savepoint, is over then."""
        try:
            seen = self.store.look_up(self.using, self.attempt)
            if seen is not None:
                return self.act(decide(seen, self.attempt.fingerprint))
            return atomic_phase(self.using, self._claim_and_act)
        except Error as error:
            if not self.has_run:
                self._explain(error)
            raise

    def can_start_again(self) -> bool:
        """Only a new transaction sees what a rival committed, and an outer one is not ours to start again."""
        return not in_transaction(self.using)

    def _claim_and_act(self) -> Executed[Value] | Replayed | Refused | None:
        return self.act(decide(self.store.claim(self.using, self.attempt), self.attempt.fingerprint))

    def carry_out(self, claim: Claimed) -> Executed[Value]:
        identity = self.attempt.identity
        watch = self.watch = Watch(self.using)
        try:
            with watch:
                answer = self.capture(self.run_handler())
        except RuntimeError as error:
            if "durable atomic block" in str(error):
                error.add_note(
                    "An idempotent handler already runs in a transaction, which commits its work together with the"
                    " stored answer. Leave durable=True out inside it, or protect the code around the durable block"
                    " instead."
                )
            raise
        for alias in watch.strangers:
            logger.warning(
                "%s wrote to database %r while its record is in %r: the two do not commit together. The option `using`"
                " names the database that the handler writes to.", identity, alias, self.using
            )  # fmt: skip
        # Asked only where there is an answer to keep: a handler may swallow a database error and refuse for it.
        match settle(answer, answer.record is not None and watch.rollback_requested()):
            case Remember(record):
                if self.attempt.request_id:
                    record = replace(record, request_id=self.attempt.request_id)  # as a replay has it from the store
                self.is_recording = True
                self.store.complete(self.using, self.attempt, claim, record)
                self.record = record
                return Executed(answer.value, record)
            case Forget():
                roll_back(self.using)
                if answer.refused and watch.wrote and not watch.may_have_committed():
                    logger.warning(
                        "%s had written before its handler refused, and its work was rolled back. If the refusal is the"
                        " answer to keep, the option `should_store` says so.", identity
                    )  # fmt: skip
                return Executed(answer.value, None)

    def announce_error(self, error: Exception) -> None:
        if self.record is not None:
            # From COMMIT on a database's error says nothing; any other is a hook's, and hooks run when it has
            # succeeded.
            if not isinstance(error, Error):
                announcements.executed(self.using, self.attempt.identity, self.record)
        elif isinstance(error, CommittedEarly) and error.identity is None:
            error.identity = self.attempt.identity
            announcements.unsettled(self.using, self.attempt.identity, error)
        elif self.is_recording and not isinstance(error, HandlerError):
            pass  # COMMIT may have travelled with the record: the retry finds out
        else:
            self.announce_forgotten()

    def announce_forgotten(self) -> None:
        """Nothing is left of an execution; or its claim is, because the handler committed it."""
        if self._left_a_claim():
            announcements.unsettled(self.using, self.attempt.identity, CommittedEarly())
        else:
            announcements.forgotten(self.using, self.attempt.identity)

    def _left_a_claim(self) -> bool:
        """Is the claim there although the work was rolled back? Asked where the handler may have committed it."""
        if self.watch is None or not self.watch.may_have_committed():
            return False
        if connections[self.using].needs_rollback:
            return True  # the savepoint that we set is gone, and with it the transaction that it was in
        try:
            return self.store.is_unsettled(self.using, self.attempt)
        except Error:  # a server that is away: the retry finds out
            logger.exception("Whether %s left a claim behind could not be asked", self.attempt.identity)
            return False

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
