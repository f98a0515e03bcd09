"""One execution: its outcomes, and what both kinds (`transactional` and `leased`) have in common."""

import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from time import time_ns
from typing import Any, Generic, TypeVar, assert_never

from django_idempotency.core.decision import (
    Answer,
    Claimed,
    ClaimResult,
    Completed,
    Decision,
    Execute,
    Expired,
    Refuse,
    Replay,
    Unsettled,
    Wait,
    decide,
)
from django_idempotency.core.keys import Attempt
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.probe import UNSURE, UnsettledOperation, Verdict
from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine import steps
from django_idempotency.engine.handle import OperationHandle
from django_idempotency.engine.probing import ask
from django_idempotency.exceptions import Refusal, TryAgain
from django_idempotency.stores.stored import StoredRecord

logger = logging.getLogger("django_idempotency")

Value = TypeVar("Value")
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5  # seconds, at most, before a handler runs again


@dataclass(frozen=True, slots=True)
class Executed(Generic[Value]):
    """The handler ran and answered with *value*. The *record* is None if nothing is remembered."""

    value: Value
    record: CompletionRecord | None


@dataclass(frozen=True, slots=True)
class Replayed:
    """The handler did not run; *record* answers."""

    record: CompletionRecord


@dataclass(frozen=True, slots=True)
class Refused:
    """The handler did not run, and no record answers, for the reason in *refusal*."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Cancelled(Generic[Value]):
    """
    The handler's work was rolled back, and the database had cancelled part of it for a rival's sake: it may run again.
    *result* is what the handler made of that, an answer that is not stored or an exception.
    """

    result: Executed[Value] | Exception


def try_again(error: Exception) -> Refused:
    """The refusal of a request that has lost to a rival, by *error*."""
    refusal = TryAgain()
    refusal.__cause__ = error  # for the project's logs
    return Refused(refusal)


@dataclass(frozen=True, slots=True)
class Joined:
    """This call comes from inside an execution of the same identity: the caller runs its handler, the outer records."""

    handle: OperationHandle


@dataclass(slots=True)
class _Running:
    """An operation that this call stack is executing."""

    digest: bytes
    place: object
    handle: OperationHandle
    is_over: bool = False  # a copy of the context, made meanwhile, outlives it


_running: ContextVar[tuple[_Running, ...]] = ContextVar("django_idempotency_running", default=())


class Execution(ABC, Generic[Value]):
    """
    One attempt and its way through *store*. *execute* calls the handler, and *capture* turns the result into an answer.

    *using* is the database of the store; None for a store outside the databases.
    """

    __slots__ = (
        *("answer", "attempt", "capture", "execute", "has_run", "observed", "place", "policy", "record", "restore"),
        *("retried", "store", "summary", "using"),
    )

    # Two operations of one identity are the same operation if they share it: a connection, or a store.
    place: object

    def __init__(
        self,
        store: Any,
        policy: ResolvedPolicy,
        using: str | None,
        attempt: Attempt,
        execute: Callable[[OperationHandle], Value],
        capture: Callable[[Value], Answer[Value]],
        restore: Callable[[], bool] | None,
    ) -> None:
        self.store = store
        self.policy = policy
        self.using = using
        self.attempt = attempt
        self.execute = execute
        self.capture = capture
        self.restore = restore
        self.retried = 0  # how often work of this execution ran again
        # Set when the handler starts: from then on an error is the handler's, or leaves an unknown outcome.
        self.has_run = False
        # Set when it is written.
        self.record: CompletionRecord | None = None
        self.summary = ""  # of the handler's answer, for logs
        # The probe's answer, for all names of the attempt, while they are held.
        self.answer: CompletionRecord | Verdict | None = None
        self.observed: steps.Run | None = None

    @abstractmethod
    def try_once(self) -> Executed[Value] | Replayed | Refused | Cancelled[Value] | None:
        """
        Return the outcome, or None while a rival is in flight.

        Raises `LostRace` if the attempt has to start again, and `StoreUnavailable` if the store does not answer the
        claim.
        """

    def can_start_again(self) -> bool:
        """Would a new start see more?"""
        return True

    def run_again(self, cancelled: Cancelled[Value]) -> bool:
        """Prepare another try after one that was *cancelled*. Returns False if there is to be none."""
        return False

    def has_retry(self, reason: object) -> bool:
        """Is there a retry left for work that was rolled back for the *reason* given? Then pause, and count it."""
        if self.retried >= self.policy.retries:
            return False
        self.retried += 1
        logger.warning(
            "%s (%s) lost to a rival, and runs again: retry %d of %d: %s", self.attempt.identity,
            self.attempt.identity.operation, self.retried, self.policy.retries, reason,
        )  # fmt: skip
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2**self.retried)
        time.sleep(random.uniform(0, longest))  # noqa: S311 jitter
        return True

    @abstractmethod
    def announce_error(self, error: Exception) -> None:
        """Announce what is known of an execution that ended in *error*."""

    @abstractmethod
    def announce_forgotten(self) -> None:
        """Announce that nothing is remembered of the handler's answer."""

    @abstractmethod
    def carry_out(self, claim: Claimed) -> Executed[Value] | Replayed | Refused:
        """Run the handler under *claim*, and remember or forget its answer."""

    def joined(self) -> Joined | None:
        """Find the execution of the same identity from which this call is made."""
        handle = find_running(self.attempt.identity.digest, self.place)
        return None if handle is None else Joined(handle)

    def act(self, decision: Decision) -> Executed[Value] | Replayed | Refused | None:
        """Carry the *decision* out. Returns None while a rival is in flight."""
        match decision:
            case Execute(claim):
                return self.carry_out(claim)
            case Replay(record):
                return Replayed(record)
            case Wait():
                return None
            case Refuse(refusal):
                return Refused(refusal)
            case _:
                assert_never(decision)

    def moved(self) -> Replayed | Refused | None:
        """
        The answer of a record that was imported from another package for this request, or its refusal. Nothing is
        claimed: such a record only ends.
        """
        for attempt in self.attempt.moved:
            stored = self.store.find(self.using, attempt.identity.digest)
            if stored is None or not stored.is_live:
                continue
            match decide(_as_found(stored), attempt.fingerprint):
                case Replay(record):
                    return Replayed(record)
                case Refuse(refusal):
                    return Refused(refusal)
        return None

    def run_handler(self) -> Value:
        """Call the handler. Meanwhile, calls for the same identity from inside it join this execution."""
        self.has_run = True
        handle = self.make_handle()
        call = partial(call_running, self.attempt.identity.digest, self.place, handle, partial(self.execute, handle))
        return call() if self.observed is None else _run_observed(self.observed, call)

    def enter(self, step: str) -> None:
        """Let observers know that the run enters *step*."""
        if self.observed is not None:
            self.observed.marks.append((step, time_ns()))

    def make_handle(self) -> OperationHandle:
        return OperationHandle(self.attempt)

    def ask_probe(self, executed_at: datetime) -> CompletionRecord | Verdict:
        """Ask the policy's probe what became of the operation that began at *executed_at*. Called while it is held."""
        if self.answer is None and self.policy.probe is not None:
            capture: Any = self.capture  # takes what a probe has found, too
            operation = UnsettledOperation(executed_at=executed_at, attempt=self.attempt)
            found = ask(self.policy.probe, operation, capture)
            self.answer = self.with_request_id(found) if isinstance(found, CompletionRecord) else found
        return self.answer or UNSURE

    def may_ask(self, found: ClaimResult | None, attempt: Attempt) -> bool:
        """Is the outcome *found* for *attempt* unknown, and is there a probe to ask?"""
        return (
            isinstance(found, Unsettled) and found.fingerprint == attempt.fingerprint and self.policy.probe is not None
        )

    def to_store(self, record: CompletionRecord) -> CompletionRecord:
        """Begin to store the *record*: with the id and the trace of the request, as a replay will get it."""
        record = self.with_request_id(record)
        self.enter(steps.RECORD)
        return replace(record, trace=self.observed.trace) if self.observed and self.observed.trace else record

    def with_request_id(self, record: CompletionRecord) -> CompletionRecord:
        """The *record* with the id of the request, as the store will return it for a replay."""
        return replace(record, request_id=self.attempt.request_id) if self.attempt.request_id else record


def _as_found(stored: StoredRecord) -> ClaimResult:
    """What a claim of the identity of *stored* would find."""
    if stored.is_tombstone:
        return Expired(stored.fingerprint)
    try:
        record = stored.record
    except (RecursionError, TypeError, ValueError):  # its row was changed
        record = None
    return Unsettled(stored.fingerprint) if record is None else Completed(record, stored.fingerprint)


def _run_observed(run: steps.Run, call: Callable[[], Value]) -> Value:
    """*call* the handler of *run*, with those around it who want to know when it begins and ends."""
    run.marks.append((steps.HANDLER, time_ns()))
    ends = [steps.shielded(begin, run) for begin in steps.around_handlers]
    raised: BaseException | None = None
    try:
        return call()
    except BaseException as error:
        raised = error
        raise
    finally:
        for end in reversed(ends):
            if end is not None:
                steps.shielded(end, raised)
        raised = None  # its traceback refers to this frame
        run.marks.append((steps.BETWEEN, time_ns()))


def call_running(digest: bytes, place: object, handle: OperationHandle, call: Callable[[], Value]) -> Value:
    """*call* a handler. Meanwhile `find_running` finds it, and `current_operation` returns its *handle*."""
    entry = _Running(digest, place, handle)
    token = _running.set((*_running.get(), entry))
    try:
        return call()
    finally:
        entry.is_over = True
        _running.reset(token)


async def await_running(
    digest: bytes, place: object, handle: OperationHandle, call: Callable[[], Awaitable[Value]]
) -> Value:
    """Like `call_running`, for an async handler."""
    entry = _Running(digest, place, handle)
    token = _running.set((*_running.get(), entry))
    try:
        return await call()
    finally:
        entry.is_over = True
        _running.reset(token)


def running() -> tuple[_Running, ...]:
    """The operations that this call stack is executing, the innermost last."""
    return _running.get()


def find_running(digest: bytes, place: object) -> OperationHandle | None:
    """The handle of the operation *digest* at *place* from whose handler this call is made, or None."""
    for each in _running.get():
        if each.digest == digest and each.place is place and not each.is_over:
            return each.handle
    return None


def current_operation() -> OperationHandle | None:
    """The handle of the innermost protected view or `@once` function that is running, or None."""
    return next((each.handle for each in reversed(_running.get()) if not each.is_over), None)
