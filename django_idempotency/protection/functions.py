"""`@once` protects work that does not arrive as a request: queues, tasks, webhooks, cron."""

import inspect
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, Generic, ParamSpec, Protocol, Self, TypeVar, Unpack, assert_never, cast, overload

from django_idempotency import conf
from django_idempotency.core.decision import Answer
from django_idempotency.core.fingerprint import check_fingerprint, digest, exact_json
from django_idempotency.core.keys import Attempt, Identity, check_age, check_key, check_string, renamed
from django_idempotency.core.observation import OBSERVE, is_sampled
from django_idempotency.core.policy import ONCE_OPTIONS, POLICY, Options, Policy, ResolvedPolicy
from django_idempotency.core.probe import Found
from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine.execution import Executed, Joined, Refused, Replayed
from django_idempotency.engine.handle import OperationHandle
from django_idempotency.engine.run import run
from django_idempotency.exceptions import KeyExpired, KeyInvalid, KeyMissing, PolicyError, Refusal, UnstorableResponse
from django_idempotency.protection.awaiting import OwnThread
from django_idempotency.protection.introspection import is_async
from django_idempotency.protection.observing import UNSTORABLE, Observation, Subject, observe, observe_async
from django_idempotency.protection.order import check_function
from django_idempotency.protection.original import OriginalArguments

NO_SCOPE = "-"  # the scope of events without the option `scope`
once_functions: dict[str, tuple[str, Policy]] = {}  # operation and policy by dotted name

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def protected_functions() -> Iterator[tuple[str, str, Policy]]:
    """
    Yield dotted name, operation and policy of each `@once` function that is imported, for system checks.

    Functions that the caller imports during the iteration are included.
    """
    seen: set[str] = set()
    while names := [name for name in tuple(once_functions) if name not in seen]:
        seen.update(names)
        yield from ((name, *once_functions[name]) for name in names)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """The *value* of a call of an `@once` function, and whether an earlier call returned it."""

    value: Result
    replayed: bool


class OnceFunction(Protocol[Arguments, Result]):
    """
    A function that `@once` protects. It is called as before, and has a method `run`.

    For a method, `run` takes the instance as its first argument: `Consumer.handle.run(consumer, event)`.
    """

    __name__: str

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Return the result of this call, or of the first one for the same event."""

    def run(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Outcome[Result]:
        """Like the call, but also tells whether the result was replayed. Raises the same errors."""

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> Callable[..., Result]: ...


class AsyncOnceFunction(Protocol[Arguments, Result]):
    """An `async def` that `@once` protects, like `OnceFunction`."""

    __name__: str

    async def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Return the result of this call, or of the first one for the same event."""

    async def run(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Outcome[Result]:
        """Like the call, but also tells whether the result was replayed. Raises the same errors."""

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> Callable[..., Coroutine[Any, Any, Result]]: ...


class OnceDecorator(Protocol):
    """What `once` returns."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a coroutine is a result, too
        self, function: Callable[Arguments, Coroutine[Any, Any, Result]], /
    ) -> AsyncOnceFunction[Arguments, Result]: ...
    @overload
    def __call__(self, function: Callable[Arguments, Result], /) -> OnceFunction[Arguments, Result]: ...


def once(operation: str, /, **options: Unpack[Options]) -> OnceDecorator:
    """
    Let a function take effect once per event: `@once("invoice.paid", key=lambda event: event["id"])`.

    Callables in `key`, `scope`, `fingerprint` and `using` get the function's arguments. A redelivery gets the result,
    which must be JSON (RFC 8259), and runs nothing. Only the key names an event, because brokers deliver one event
    with different counters; with `fingerprint`, a callable that returns bytes, the same key for another event is
    `KeyReused`. Each function needs an operation of its own, or the second would get the first one's result.

    An `async def` is protected too, and stays one: its `run` is awaited as well.

    The decorator raises `PolicyError` for an unknown option, a bad value, a missing key, and anything but a plain
    function. A call raises `KeyReused`, `RequestInProgress` (let the broker deliver it later),
    `OutcomeUnknown`, `StoreUnavailable`, `TryAgain`, `KeyMissing`, `KeyInvalid`, `KeyExpired`, and `UnstorableResponse`
    for a result that is not JSON. The work is then rolled back, unless its store is outside the databases, which also
    raises `OutcomeUncertain`.
    With `mode="observe"` a redelivery runs again and is counted, and a call raises what the function raises alone.
    """
    if not isinstance(operation, str) or not operation:
        raise PolicyError('@once needs the name of the operation: @once("invoice.paid", key=...)')
    policy = Policy.at("@once", options, ONCE_OPTIONS)
    if policy.options.get("key") is None:
        raise PolicyError(f'@once("{operation}") needs the option `key`: a callable that returns the id of an event.')

    def decorate(function: Any) -> Any:
        check_function(function, operation)
        once_functions[f"{function.__module__}.{function.__qualname__}"] = (operation, policy)
        if is_async(function):
            run_once, protected = _async_once(function, operation, policy)
        else:
            run_once, protected = _once(function, operation, policy)
        vars(protected).update({"run": run_once, POLICY: policy})
        return protected

    return cast(OnceDecorator, decorate)


def _once(function: Callable[..., Any], operation: str, policy: Policy) -> tuple[Any, Any]:
    """What `run` of the protected *function* is, and what takes its place."""

    def run_once(*args: Any, **kwargs: Any) -> Outcome[Any]:
        return _run(function, operation, conf.resolved_once(policy), args, kwargs)

    @wraps(function)
    def protected(*args: Any, **kwargs: Any) -> Any:
        return run_once(*args, **kwargs).value

    return run_once, protected


def _async_once(function: Callable[..., Awaitable[Any]], operation: str, policy: Policy) -> tuple[Any, Any]:
    """Like `_once`, for an async *function*."""

    async def run_once(*args: Any, **kwargs: Any) -> Outcome[Any]:
        resolved = conf.resolved_once(policy)
        if resolved.mode == OBSERVE:
            event = ObservedEvent(operation, resolved, args, kwargs)
            return Outcome(await observe_async(event, lambda handle: function(*args, **kwargs)), replayed=False)
        thread = OwnThread()
        outcome = await thread.run(partial(_run, function, operation, resolved, args, kwargs, thread))
        if inspect.isawaitable(outcome.value):  # of a call from inside the same operation
            return Outcome(await outcome.value, replayed=False)
        return outcome

    @wraps(function)
    async def protected(*args: Any, **kwargs: Any) -> Any:
        return (await run_once(*args, **kwargs)).value

    return run_once, protected


def _run(
    function: Callable[..., Any],
    operation: str,
    policy: ResolvedPolicy,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    thread: OwnThread | None = None,
) -> Outcome[Any]:
    """Call *function* once for the event in its arguments. With *thread*, which is this one, it is async."""
    if policy.mode == OBSERVE:
        event = ObservedEvent(operation, policy, args, kwargs)
        return Outcome(observe(event, lambda handle: function(*args, **kwargs)), replayed=False)

    original = OriginalArguments(function, args, kwargs) if policy.retries else None

    def execute(handle: OperationHandle) -> Any:
        nonlocal args, kwargs
        if original is not None:
            args, kwargs = original.arguments()
        return function(*args, **kwargs) if thread is None else thread.wait_for(partial(function, *args, **kwargs))

    def capture(value: Any) -> Answer[Any]:
        return Answer(value, result_record(value, policy, operation))

    attempt = _event_attempt(operation, policy, args, kwargs)
    outcome = run(
        attempt,
        policy,
        conf.database(policy, *args, **kwargs),
        execute,
        capture if thread is None else thread.unless_cancelled(capture),
        patience=thread,
        restore=None if original is None else original.restore,
    )
    match outcome:
        case Executed(value):
            return Outcome(value, replayed=False)
        case Joined():
            return Outcome(function(*args, **kwargs), replayed=False)
        case Replayed(record):
            return Outcome(json.loads(record.body), replayed=True)
        case Refused(refusal):
            raise refusal
        case _:
            assert_never(outcome)


class ObservedEvent(Subject[Any]):
    """An event in observe mode."""

    def __init__(self, operation: str, policy: ResolvedPolicy, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(policy)
        self._operation, self._args, self._kwargs = operation, args, kwargs

    def operation(self) -> str:
        return self._operation

    def is_sampled(self) -> bool:
        share = self.policy.observe_sample
        if share >= 1:
            return True
        found = self.read()
        return isinstance(found, Refusal) or is_sampled(found.identity.key, share)

    def read(self) -> Attempt | Refusal:
        try:
            return self._attempt()
        except (KeyExpired, KeyInvalid, KeyMissing) as refusal:
            return refusal

    def database(self) -> str | None:
        return conf.database(self.policy, *self._args, **self._kwargs)

    def judge(self, value: Any, observation: Observation) -> None:
        observation.status, observation.is_answer = 200, True
        try:
            result_record(value, self.policy, self._operation)
        except UnstorableResponse:
            observation.refusal = UNSTORABLE

    def _attempt(self) -> Attempt:
        return _event_attempt(self._operation, self.policy, self._args, self._kwargs)


def _event_attempt(operation: str, policy: ResolvedPolicy, args: Any, kwargs: Any) -> Attempt:
    made = None if policy.key is None else policy.key(*args, **kwargs)
    if made is None:
        raise KeyMissing(f'@once("{operation}"): the option `key` returned None for this event.')
    key = check_key(made)
    if policy.key_format is not None and not policy.key_format(key):
        raise KeyInvalid(f'@once("{operation}"): the event\'s key does not fit the option `key_format`.')
    if policy.key_max_age is not None:
        check_age(key, policy.key_max_age, time.time())
    scope = NO_SCOPE if policy.scope is None else policy.scope(*args, **kwargs)
    meaning = b"" if policy.fingerprint is None else check_fingerprint(policy.fingerprint(*args, **kwargs))
    attempt = Attempt(
        identity=Identity(check_string("scope", scope), operation, key),
        fingerprint=digest(b"event", meaning),
        ttl=policy.ttl,
        tombstone_ttl=policy.tombstone_ttl or 0.0,
        uncertain_ttl=policy.uncertain_ttl,
    )
    if policy.operation_aliases is None:
        return attempt
    former = {
        name: renamed(attempt, name, attempt.fingerprint) for name in policy.operation_aliases if name != operation
    }
    return replace(attempt, former=tuple(former.values()), origin=former.get(policy.operation_aliases[0]))


def result_record(value: Any, policy: ResolvedPolicy, operation: str) -> CompletionRecord:
    """The record of a function's result, or of what a probe `Found`. Raises `UnstorableResponse` if it is not JSON."""
    remedy = f'The result of @once("{operation}") is what a redelivery gets, and it was rolled back: return JSON'
    try:
        body = exact_json(value.answer if isinstance(value, Found) else value)
    except ValueError as error:
        raise UnstorableResponse(f"{remedy} ({error}).") from error
    if len(body) > policy.max_body:
        raise UnstorableResponse(f"{remedy} of at most {policy.max_body} bytes (option `max_body`), not {len(body)}.")
    return CompletionRecord(status=200, headers=(("Content-Type", "application/json"),), body=body)
