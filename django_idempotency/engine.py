"""
Claim, execute, record, replay: one direction of flow, in one transaction. Knows no HTTP.

The law: what commits is remembered, what rolls back is forgotten. The claim is the transaction's first statement and
the record its last; between them runs the handler. Killed at any instant before COMMIT, nothing of the three is left;
after it, all of them are.
"""

import logging
import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, assert_never

from django.db import Error, connections

from django_idempotency import announcements
from django_idempotency.core.decision import (
    Answer,
    Claimed,
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
from django_idempotency.core.keys import Attempt, Identity
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import CommittedEarly, HandlerError, Refusal, RequestInProgress, StoreUnavailable
from django_idempotency.handles import OperationHandle
from django_idempotency.stores import stores
from django_idempotency.stores.base import Fault, LostRace, Store
from django_idempotency.transactions import Watch, atomic_phase, in_transaction, roll_back

logger = logging.getLogger("django_idempotency")

RESTARTS = 5  # lost races in a row after which the client is asked to come again
FIRST_POLL, LONGEST_POLL = 0.02, 0.5  # seconds

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Executed(Generic[Value]):
    """The handler ran; *value* is what it answered, and *record* what is remembered of it, or None."""

    value: Value
    record: CompletionRecord | None


@dataclass(frozen=True, slots=True)
class Replayed:
    """The handler did not run; *record* answers."""

    record: CompletionRecord


@dataclass(frozen=True, slots=True)
class Joined:
    """This very call stack is executing the identity already: the caller runs its handler, the outer call records."""

    handle: OperationHandle


@dataclass(slots=True)
class _Execution:
    """An operation that this very call stack is executing, on this connection."""

    digest: bytes
    connection: object
    handle: OperationHandle
    over: bool = False  # a context that was copied meanwhile outlives it


_executing: ContextVar[tuple[_Execution, ...]] = ContextVar("django_idempotency_executing", default=())


def run(
    attempt: Attempt,
    policy: ResolvedPolicy,
    using: str | None,
    execute: Callable[[OperationHandle], Answer[Value]],
    guard: Callable[[CompletionRecord], object] | None = None,
) -> Executed[Value] | Replayed | Joined:
    """
    Carry *attempt* out, once: call *execute* inside the transaction on *using* (the store's own choice where None), or
    return the record of the execution that was, if *guard* lets it pass, or join the one that this call is made from.

    Raises a `Refusal` of the attempt's own identity where neither can be had, a `HandlerError` where the handler broke
    the law, and whatever *execute* raises, in each case with the work rolled back; and whatever *guard* raises.
    """
    store = stores[policy.store]
    using = using or store.database()
    identity = attempt.identity
    outer = _execution_of(identity, using)
    if outer is not None:
        return Joined(outer.handle)
    this = _Try(store, using, attempt, execute)
    try:
        outcome = _decide_until_final(this, policy)
    except Refusal as refusal:
        if this.watch is None:
            refusal.about = identity
            announcements.refused(using, identity, refusal)
            raise
        _announce_error(this, refusal)  # of another operation, inside this one's handler or one of its hooks
        if this.record is None:
            raise
        raise HandlerError(
            f"An on_commit hook raised {type(refusal).__name__} after the work was committed. A retry gets the stored"
            " answer. Let the hook catch what it starts."
        ) from refusal
    except Exception as error:
        if this.watch is not None:
            _announce_error(this, error)
        raise
    match outcome:
        case Replayed(record):
            if guard is not None:
                guard(record)
            announcements.replayed(using, identity, record)
        case Executed(record=record):
            if record is None:
                _announce_forgotten(this)
            else:
                announcements.executed(using, identity, record)
        case _:
            assert_never(outcome)
    return outcome


def _announce_error(this: "_Try[Value]", error: Exception) -> None:
    """Announce what is known of an execution that ended in *error*."""
    if this.record is not None:
        # From COMMIT on a database's error says nothing; any other is a hook's, and hooks run when it has succeeded.
        if not isinstance(error, Error):
            announcements.executed(this.using, this.attempt.identity, this.record)
    elif isinstance(error, CommittedEarly) and error.about is None:
        error.about = this.attempt.identity
        announcements.unsettled(this.using, error.about, error)
    elif this.is_recording and not isinstance(error, HandlerError):
        pass  # COMMIT may have travelled with the record: the retry finds out
    else:
        _announce_forgotten(this)


def _announce_forgotten(this: "_Try[Value]") -> None:
    """Nothing is left of an execution; or its claim is, because the handler committed it."""
    if this.left_a_claim():
        announcements.unsettled(this.using, this.attempt.identity, CommittedEarly())
    else:
        announcements.forgotten(this.using, this.attempt.identity)


def _execution_of(identity: Identity, using: str) -> _Execution | None:
    for execution in _executing.get():
        if execution.digest == identity.digest and execution.connection is connections[using] and not execution.over:
            return execution
    return None


def _decide_until_final(this: "_Try[Value]", policy: ResolvedPolicy) -> Executed[Value] | Replayed:
    """Try until the decision is final: a rival that is in flight or was faster makes it provisional."""
    deadline = time.monotonic() + policy.wait_timeout if policy.wait else 0.0
    poll = FIRST_POLL
    restarts = 0
    while True:
        try:
            outcome = this.once()
        except LostRace:
            # Only a new transaction sees what the rival committed, and an outer one is not ours to start again.
            restarts += 1
            if in_transaction(this.using) or restarts > RESTARTS:
                raise RequestInProgress from None
            continue
        if outcome is not None:
            return outcome
        remaining = deadline - time.monotonic()
        if not policy.wait or remaining <= 0:
            raise RequestInProgress
        time.sleep(min(remaining, poll * random.uniform(0.5, 1)))  # noqa: S311 jitter
        poll = min(poll * 2, LONGEST_POLL)


class _Try(Generic[Value]):
    """One attempt's way through the store; `once` goes it from the start."""

    __slots__ = ("attempt", "execute", "is_recording", "record", "store", "using", "watch")

    def __init__(
        self, store: Store, using: str, attempt: Attempt, execute: Callable[[OperationHandle], Answer[Value]]
    ) -> None:
        self.store = store
        self.using = using
        self.attempt = attempt
        self.execute = execute
        # Set when it is written: from then on only COMMIT and its hooks can raise, and nobody here can know of COMMIT.
        self.record: CompletionRecord | None = None
        self.is_recording = False  # set when it is sent, perhaps together with COMMIT
        # Set when the handler runs: from there on an error is its own or of unknown outcome, never "nothing was done".
        self.watch: Watch | None = None

    def once(self) -> Executed[Value] | Replayed | None:
        """The outcome, or None while a rival is in flight. Our own transaction, or savepoint, is over then."""
        try:
            seen = self.store.look_up(self.using, self.attempt)
            if seen is not None:
                return self._act(decide(seen, self.attempt.fingerprint))
            return atomic_phase(self.using, self._claim_and_act)
        except Error as error:
            if self.watch is not None:
                raise
            self._explain(error)
            raise

    def _claim_and_act(self) -> Executed[Value] | Replayed | None:
        return self._act(decide(self.store.claim(self.using, self.attempt), self.attempt.fingerprint))

    def _act(self, decision: Decision) -> Executed[Value] | Replayed | None:
        match decision:
            case Execute(claim):
                return self._execute(claim)
            case Replay(record):
                return Replayed(record)
            case Wait():
                return None
            case Refuse(refusal):
                raise refusal
            case _:
                assert_never(decision)

    def _execute(self, claim: Claimed) -> Executed[Value]:
        identity = self.attempt.identity
        handle = OperationHandle(self.attempt)
        watch = self.watch = Watch(self.using)
        execution = _Execution(identity.digest, connections[self.using], handle)
        token = _executing.set((*_executing.get(), execution))
        try:
            with watch:
                answer = self.execute(handle)
        except RuntimeError as error:
            if "durable atomic block" in str(error):
                error.add_note(
                    "An idempotent handler already runs in a transaction, which commits its work together with the"
                    " stored answer. Leave durable=True out inside it, or protect the code around the durable block"
                    " instead."
                )
            raise
        finally:
            execution.over = True
            _executing.reset(token)
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

    def left_a_claim(self) -> bool:
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
