"""What comes of an attempt, and what both kinds of execution share: the operations that a call stack is inside of."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, TypeVar, assert_never

from django_idempotency.core.decision import Answer, Claimed, Decision, Execute, Refuse, Replay, Wait
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine.handle import OperationHandle
from django_idempotency.exceptions import Refusal

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
class Refused:
    """The handler did not run, and no record answers; *refusal* says why."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Joined:
    """This very call stack is executing the identity already: the caller runs its handler, the outer call records."""

    handle: OperationHandle


@dataclass(slots=True)
class _Running:
    """An operation that this very call stack is executing."""

    digest: bytes
    place: object
    handle: OperationHandle
    over: bool = False  # a context that was copied meanwhile outlives it


_running: ContextVar[tuple[_Running, ...]] = ContextVar("django_idempotency_running", default=())


class Execution(Generic[Value]):
    """
    One attempt on its way through its store. *execute* is the handler, and *capture* makes its answer of what it
    returned.
    """

    __slots__ = ("attempt", "capture", "execute", "has_run", "place", "record", "using")

    # Where two operations of one identity would be one: a connection, or a store beside them.
    place: object

    def __init__(
        self,
        using: str | None,
        attempt: Attempt,
        execute: Callable[[OperationHandle], Value],
        capture: Callable[[Value], Answer[Value]],
    ) -> None:
        self.using = using
        self.attempt = attempt
        self.execute = execute
        self.capture = capture
        # Set when the handler runs: from there on an error is its own or of unknown outcome, never "nothing was done".
        self.has_run = False
        # Set when it is written.
        self.record: CompletionRecord | None = None

    def try_once(self) -> Executed[Value] | Replayed | Refused | None:
        """
        The outcome, or None while a rival is in flight.

        Raises `LostRace` if only a new start can tell, and `StoreUnavailable` if the store does not answer the claim.
        """
        raise NotImplementedError

    def can_start_again(self) -> bool:
        """Would a new start see more?"""
        raise NotImplementedError

    def announce_error(self, error: Exception) -> None:
        """Announce what is known of an execution that ended in *error*."""
        raise NotImplementedError

    def announce_forgotten(self) -> None:
        """Announce that nothing is remembered of what the handler has answered."""
        raise NotImplementedError

    def joined(self) -> Joined | None:
        """The execution of the same identity that this call is made from."""
        for running in _running.get():
            if running.digest == self.attempt.identity.digest and running.place is self.place and not running.over:
                return Joined(running.handle)
        return None

    def act(self, decision: Decision) -> Executed[Value] | Replayed | Refused | None:
        """Carry the *decision* out; None while a rival is in flight."""
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

    def carry_out(self, claim: Claimed) -> Executed[Value] | Replayed:
        """Run the handler under *claim*, and remember or forget it."""
        raise NotImplementedError

    def run_handler(self) -> Value:
        """What the handler returns. Meanwhile, calls for the same identity from inside it join it."""
        self.has_run = True
        handle = OperationHandle(self.attempt)
        running = _Running(self.attempt.identity.digest, self.place, handle)
        token = _running.set((*_running.get(), running))
        try:
            return self.execute(handle)
        finally:
            running.over = True
            _running.reset(token)


def current_operation() -> OperationHandle | None:
    """The handle of the innermost protected work that is running, a view's or an `@once` function's, or None."""
    return next((running.handle for running in reversed(_running.get()) if not running.over), None)
