"""
Claim, execute, record, replay: one direction of flow. Knows no HTTP.

The law: what commits is remembered, what rolls back is forgotten. `transactional` holds it in the database; `leased`
says what is left of it for work that no transaction covers. Both are searched, every interleaving of two clients, in
`tests/model`.
"""

import random
import time
from collections.abc import Callable
from typing import assert_never

from django_idempotency.core.decision import Answer
from django_idempotency.core.keys import Attempt
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine import announcements
from django_idempotency.engine.execution import Executed, Execution, Joined, Replayed, Value
from django_idempotency.engine.handle import OperationHandle
from django_idempotency.engine.leased import LeasedExecution
from django_idempotency.engine.transactional import TransactionalExecution
from django_idempotency.exceptions import HandlerError, Refusal, RequestInProgress
from django_idempotency.stores import stores
from django_idempotency.stores.base import LeasedStore, LostRace, TransactionalStore

RESTARTS = 5  # lost races in a row after which the client is asked to come again
FIRST_POLL, LONGEST_POLL = 0.02, 0.5  # seconds


def run(
    attempt: Attempt,
    policy: ResolvedPolicy,
    using: str | None,
    execute: Callable[[OperationHandle], Value],
    capture: Callable[[Value], Answer[Value]],
    guard: Callable[[CompletionRecord], object] | None = None,
) -> Executed[Value] | Replayed | Joined:
    """
    Carry *attempt* out, once: call *execute* under a claim of the policy's store (in a transaction on *using*, the
    store's own choice where None), and keep what *capture* makes of its value; or return the record of the execution
    that was, if *guard* lets it pass, or join the one that this call is made from.

    Raises a `Refusal` of the attempt's own identity where neither can be had, a `HandlerError` where the handler broke
    the law, and whatever *execute* and *capture* raise, in each case with the work rolled back, where it is in the
    database; and whatever *guard* raises.
    """
    this = _execution(attempt, policy, using, execute, capture)
    joined = this.joined()
    if joined is not None:
        return joined
    identity = attempt.identity
    try:
        outcome = _decide_until_final(this, policy)
    except Refusal as refusal:
        if not this.has_run:
            refusal.about = identity
            announcements.refused(this.using, identity, refusal)
            raise
        this.announce_error(refusal)  # of another operation, inside this one's handler or one of its hooks
        if this.record is None:
            raise
        raise HandlerError(
            f"An on_commit hook raised {type(refusal).__name__} after the work was committed. A retry gets the stored"
            " answer. Let the hook catch what it starts."
        ) from refusal
    except Exception as error:
        if this.has_run:
            this.announce_error(error)
        raise
    match outcome:
        case Replayed(record):
            if guard is not None:
                guard(record)
            announcements.replayed(this.using, identity, record)
        case Executed(record=record):
            if record is None:
                this.announce_forgotten()
            else:
                announcements.executed(this.using, identity, record)
        case _:
            assert_never(outcome)
    return outcome


def _execution(
    attempt: Attempt,
    policy: ResolvedPolicy,
    using: str | None,
    execute: Callable[[OperationHandle], Value],
    capture: Callable[[Value], Answer[Value]],
) -> Execution[Value]:
    store = stores[policy.store]
    if isinstance(store, TransactionalStore):
        return TransactionalExecution(store, using, attempt, execute, capture)
    assert isinstance(store, LeasedStore)  # noqa: S101  # or the handler of stores would not have made it
    return LeasedExecution(store, policy, attempt, execute, capture)


def _decide_until_final(this: Execution[Value], policy: ResolvedPolicy) -> Executed[Value] | Replayed:
    """Try until the decision is final: a rival that is in flight or was faster makes it provisional."""
    deadline = time.monotonic() + policy.wait_timeout if policy.wait else 0.0
    poll = FIRST_POLL
    restarts = 0
    while True:
        try:
            outcome = this.once()
        except LostRace:
            restarts += 1
            if restarts > RESTARTS or not this.can_start_again():
                raise RequestInProgress from None
            continue
        if outcome is not None:
            return outcome
        remaining = deadline - time.monotonic()
        if not policy.wait or remaining <= 0:
            raise RequestInProgress
        time.sleep(min(remaining, poll * random.uniform(0.5, 1)))  # noqa: S311 jitter
        poll = min(poll * 2, LONGEST_POLL)
