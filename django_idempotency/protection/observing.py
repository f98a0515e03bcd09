"""
Observe mode: a handler runs as if the package were not there, and its run is reported to `observers`.

No transaction is opened, no store is asked, and no statement is sent before the handler has ended, but for those of
callable options, which get a savepoint in an open transaction. Nothing here raises: an error of a callable option, or
of our own, is logged once per operation, and the handler runs all the same.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from asgiref.sync import sync_to_async
from django.db import connections, transaction

from django_idempotency.core.keys import Attempt
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.seen import SeenNames
from django_idempotency.engine.announcements import usual_database
from django_idempotency.engine.execution import await_running, call_running, find_running
from django_idempotency.engine.handle import DeferredHandle, OperationHandle
from django_idempotency.engine.transactions import undone_on_error
from django_idempotency.exceptions import Refusal
from django_idempotency.stores import stores
from django_idempotency.stores.base import TransactionalStore

logger = logging.getLogger("django_idempotency")

Value = TypeVar("Value")

PLACE = "observed"  # of the runs, where executions have their connection or store
ERROR = "error"  # the code of what is no refusal: atomic mode would have failed
UNSTORABLE = "unstorable-response"
warned = SeenNames()  # operations of which an error was logged


@dataclass(slots=True, eq=False, kw_only=True)
class Observation:
    """
    One run of a handler, without anything of its content. It is final once the response is rendered and the transaction
    around the handler has ended.

    The *attempt* is None if atomic mode would have refused the request, with the code *refusal*, before it looked for a
    record. With an attempt, *refusal* says that the answer could not have been stored.
    """

    using: str  # the database of its record
    operation: str
    attempt: Attempt | None = None
    refusal: str = ""
    patience: float = 0.0  # seconds for which atomic mode would wait for a request in flight
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0  # monotonic
    status: int = 0  # HTTP's; 0 if the handler raised
    is_answer: bool = False  # atomic mode would have stored it
    is_committed: bool = True


# Called on the request's thread, when the handler has ended.
observers: list[Callable[[Observation], None]] = []


class Subject(ABC, Generic[Value]):
    """What is observed: a request or an event, under the *policy* of its handler."""

    def __init__(self, policy: ResolvedPolicy) -> None:
        self.policy = policy

    @abstractmethod
    def operation(self) -> str:
        """The operation, for a request without an attempt."""

    @abstractmethod
    def is_sampled(self) -> bool:
        """Is it observed? A request without a key is: it costs no statement."""

    @abstractmethod
    def read(self) -> Attempt | Refusal | None:
        """Read the attempt that it makes, or what atomic mode would refuse it with; None without a key."""

    @abstractmethod
    def database(self) -> str | None:
        """The database that the option `using` names."""

    @abstractmethod
    def judge(self, value: Value, observation: Observation) -> None:
        """Note in *observation* what atomic mode would have made of the handler's *value*."""


def observe(subject: Subject[Value], call: Callable[[OperationHandle | None], Value]) -> Value:
    """*call* the handler, and report its run. Raises what the handler raises, and nothing else."""
    handle, observation = _begin(subject)
    if handle is None:
        if observation is not None:
            _report(observation)
        return call(None)
    attempt = None if observation is None else observation.attempt
    digest = b"" if attempt is None else attempt.identity.digest
    try:
        value = call_running(digest, PLACE, handle, partial(call, handle))
    except BaseException:
        if observation is not None:
            observation.ended = time.monotonic()
            _report(observation)
        raise
    if observation is not None:
        _end(subject, value, observation)
    return value


async def observe_async(subject: Subject[Value], call: Callable[[OperationHandle | None], Awaitable[Value]]) -> Value:
    """Like `observe`, for an async handler: what is read and reported is on the thread of its request."""
    handle, observation = await sync_to_async(_begin)(subject)
    if handle is None:
        if observation is not None:
            await sync_to_async(_report)(observation)
        return await call(None)
    attempt = None if observation is None else observation.attempt
    digest = b"" if attempt is None else attempt.identity.digest
    try:
        value = await await_running(digest, PLACE, handle, partial(call, handle))
    except BaseException:
        if observation is not None:
            observation.ended = time.monotonic()
            await sync_to_async(_report)(observation)
        raise
    if observation is not None:
        await sync_to_async(_end)(subject, value, observation)
    return value


def _begin(subject: Subject[Any]) -> tuple[OperationHandle | None, Observation | None]:
    """The handle for the handler, and the observation of its run; neither without a key."""
    try:
        with undone_on_error():
            if not subject.is_sampled():
                return DeferredHandle(subject.read), None
            found = subject.read()
            if found is None:
                return None, None
            using = _database(subject)
        if isinstance(found, Refusal):
            return None, Observation(using=using, operation=subject.operation(), refusal=found.code)
        identity = found.identity
        outer = find_running(identity.digest, PLACE)
        if outer is not None:
            return outer, None
        policy = subject.policy
        patience = policy.wait_timeout if policy.wait else 0.0
        observation = Observation(using=using, operation=identity.operation, attempt=found, patience=patience)
        return OperationHandle(found), observation
    except Exception as error:  # observing is not worth a request
        _log(subject, error)
        try:
            return None, Observation(using=usual_database(), operation=subject.operation(), refusal=ERROR)
        except Exception:  # the operation's own callable, which is logged above
            return None, None


def _database(subject: Subject[Any]) -> str:
    store = stores[subject.policy.store]
    named = subject.database()
    return (named or store.database()) if isinstance(store, TransactionalStore) else usual_database()


def _end(subject: Subject[Value], value: Value, observation: Observation) -> None:
    observation.ended = time.monotonic()
    try:
        with undone_on_error():
            subject.judge(value, observation)
        if connections[observation.using].in_atomic_block:
            observation.is_committed = False
            transaction.on_commit(partial(_commit, observation), using=observation.using, robust=True)
    except Exception as error:  # observing is not worth a request
        _log(subject, error)
    _report(observation)


def _commit(observation: Observation) -> None:
    observation.ended = time.monotonic()
    observation.is_committed = True


def _report(observation: Observation) -> None:
    for observer in observers:
        try:
            observer(observation)
        except Exception:  # observing is not worth a request
            if warned.is_new(observation.operation):
                logger.exception("Cannot observe %s; the request is not affected", observation.operation)


def _log(subject: Subject[Any], error: Exception) -> None:
    try:
        operation = subject.operation()
    except Exception:  # the option `operation` may be what has failed
        operation = "an operation"
    log_error(operation, error)


def log_error(operation: str, error: Exception) -> None:
    """Log once per process and *operation* that observing failed, where atomic mode would have failed the request."""
    if warned.is_new(operation):
        logger.error(
            "Cannot observe %s, which ran all the same; in atomic mode the request would have failed: %s: %s",
            operation, type(error).__name__, error, exc_info=error,
        )  # fmt: skip
