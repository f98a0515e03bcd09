"""
The entrance of the engine: claim, execute, record, replay.

`transactional` holds the law: what commits is remembered, what rolls back is forgotten. `leased` says what remains of
it for work outside the databases. `tests/model` searches both, in every interleaving of two clients.
"""

import random
import time
from collections.abc import Callable
from typing import Any, NoReturn, assert_never

from django.db import Error

from django_idempotency.core.decision import Answer
from django_idempotency.core.keys import Attempt
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.progress import PHASED
from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine import announcements, steps
from django_idempotency.engine.execution import (
    Cancelled,
    Executed,
    Execution,
    Joined,
    Refused,
    Replayed,
    Value,
    try_again,
)
from django_idempotency.engine.handle import OperationHandle
from django_idempotency.engine.leased import LeasedExecution
from django_idempotency.engine.phases import KeylessHandle
from django_idempotency.engine.transactional import TransactionalExecution
from django_idempotency.exceptions import HandlerError, Refusal, RequestInProgress, TryAgain
from django_idempotency.stores import stores
from django_idempotency.stores.base import LostRace

RESTARTS = 5  # lost races in a row, after which the client gets 409
FIRST_POLL, LONGEST_POLL = 0.02, 0.5  # seconds


def run(
    attempt: Attempt,
    policy: ResolvedPolicy,
    using: str | None,
    execute: Callable[[OperationHandle], Value],
    capture: Callable[[Value], Answer[Value]],
    guard: Callable[[CompletionRecord], object] | None = None,
    patience: "Patience | None" = None,
    restore: Callable[[], bool] | None = None,
) -> Executed[Value] | Replayed | Refused | Joined:
    """
    Run *attempt* at most once.

    A new identity is claimed, *execute* runs, and what *capture* makes of its result is stored. An existing record is
    returned once *guard* accepts it. A call from inside the same execution joins it. *using* names the database; with
    None the store chooses. *patience* is how a call waits that does not block its thread; by default it sleeps.
    *restore* is called before *execute* runs again, and returns False if it must not.

    Raises `HandlerError` if the handler broke the law, and whatever *execute*, *capture* and *guard* raise; work in the
    database is rolled back then.
    """
    store: Any = stores[policy.store]
    execution = _kind(store, policy)(store, policy, using, attempt, execute, capture, restore)
    joined = execution.joined()
    if joined is not None:
        return joined
    if not steps.observers:
        return _run(execution, attempt, policy, guard, patience)
    observed = execution.observed = steps.Run(attempt)
    is_over = True
    try:
        outcome = observed.outcome = _run(execution, attempt, policy, guard, patience)
        return outcome
    except Pause:
        is_over = False
        raise
    finally:
        if is_over:
            for observe in steps.observers:
                steps.shielded(observe, observed)


def _run(
    execution: Execution[Value],
    attempt: Attempt,
    policy: ResolvedPolicy,
    guard: Callable[[CompletionRecord], object] | None,
    patience: "Patience | None",
) -> Executed[Value] | Replayed | Refused:
    execution.enter(steps.CLAIM)
    try:
        outcome = _decide_until_final(execution, policy, patience)
    except Refusal as error:
        if execution.has_run:
            _pass_on(error, execution)  # of another operation, which the handler or one of its hooks started
        outcome = Refused(error)
    except Exception as error:
        if execution.has_run:
            execution.announce_error(error)
        raise
    finally:
        execution.enter(steps.BETWEEN)
    identity = attempt.identity
    match outcome:
        case Replayed(record):
            if guard is not None:
                guard(record)
            announcements.replayed(execution.using, identity, record)
        case Refused(refusal):
            refusal.identity = identity
            if isinstance(refusal, RequestInProgress):
                refusal.retry_after = policy.seconds_to_retry(attempt)
            announcements.refused(execution.using, identity, refusal)
        case Executed(record=record):
            if record is None:
                execution.announce_forgotten()
            else:
                announcements.executed(execution.using, identity, record)
        case _:
            assert_never(outcome)
    return outcome


def _kind(store: Any, policy: ResolvedPolicy) -> type[Execution[Any]]:
    if policy.mode == PHASED:
        from django_idempotency.engine.phased import PhasedExecution  # models are not ready when this is imported

        return PhasedExecution
    return TransactionalExecution if store.commits_with_handler else LeasedExecution


def run_without_key(policy: ResolvedPolicy, using: str | None, execute: Callable[[OperationHandle], Value]) -> Value:
    """Run *execute* in phased mode for a request without a key: its phases commit, and nothing is recorded."""
    from django_idempotency.engine.phased import runs_of

    handle = KeylessHandle(using or runs_of(stores[policy.store]).store.database())
    with handle.phases.watched():
        return execute(handle)


class Pause(Exception):
    """Raised by `Patience.sleep`: the run is to be done again after so many *seconds*."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Patience:
    """How long an attempt waits for a rival that is in flight, and in what steps."""

    __slots__ = ("_deadline", "_poll")

    def __init__(self) -> None:
        self._deadline: float | None = None
        self._poll = FIRST_POLL

    def wait(self, timeout: float) -> bool:
        """Wait a step, each longer than the one before. Returns False if the *timeout* (seconds) is over."""
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + timeout
        remaining, poll = self._deadline - now, self._poll
        if remaining <= 0:
            return False
        self._poll = min(poll * 2, LONGEST_POLL)
        self.sleep(min(remaining, poll * random.uniform(0.5, 1)))  # noqa: S311 jitter
        return True

    def sleep(self, seconds: float) -> None:
        """Let *seconds* pass; or raise `Pause`, if the caller calls `run` again after them, with this patience."""
        time.sleep(seconds)


def _decide_until_final(
    execution: Execution[Value], policy: ResolvedPolicy, patience: Patience | None
) -> Executed[Value] | Replayed | Refused:
    """Try until the decision is final; it is not while a rival is in flight, or if a rival was faster."""
    restarts = 0
    while True:
        try:
            outcome = execution.try_once()
        except LostRace:
            restarts += 1
            if restarts > RESTARTS or not execution.can_start_again():
                return Refused(RequestInProgress())
            continue
        if isinstance(outcome, Cancelled):
            if not execution.run_again(outcome):
                return _give_up(execution, outcome.result)
            continue
        if outcome is not None:
            return outcome
        patience = patience or Patience()
        if not policy.wait or not patience.wait(policy.wait_timeout):
            return Refused(RequestInProgress())


def _give_up(execution: Execution[Value], result: Executed[Value] | Exception) -> Executed[Value] | Refused:
    """Answer when no retry is left: as the handler did, if it has made something of the database's error."""
    if isinstance(result, Executed):
        return result
    if not isinstance(result, Error | TryAgain):
        raise result
    execution.announce_error(result)
    return try_again(result)


def _pass_on(refusal: Refusal, execution: Execution[Value]) -> NoReturn:
    """Raise another operation's *refusal*, or a `HandlerError` if the work of *execution* is already committed."""
    execution.announce_error(refusal)
    if execution.record is None:
        raise refusal
    raise HandlerError(
        f"An on_commit hook raised {type(refusal).__name__} after the work was committed. A retry gets the stored"
        " answer. Let the hook catch the refusal."
    ) from refusal
