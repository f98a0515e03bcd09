"""`@once`: work that arrives by other roads than HTTP takes effect once too. The engine is the same."""

import inspect
import json
from collections.abc import Callable, Iterator
from functools import wraps
from hashlib import sha256
from typing import Any, TypeVar, Unpack, assert_never, cast

from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import Model

from django_idempotency import conf
from django_idempotency.core.decision import Answer
from django_idempotency.core.fingerprint import canonical_json, framed
from django_idempotency.core.keys import Attempt, Identity, check_key, storable_text
from django_idempotency.core.policy import ONCE_OPTIONS, POLICY, Options, Policy, ResolvedPolicy
from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine.execution import Executed, Joined, Refused, Replayed
from django_idempotency.engine.handle import OperationHandle
from django_idempotency.engine.run import run
from django_idempotency.exceptions import KeyInvalid, KeyMissing, PolicyError, UnstorableResponse
from django_idempotency.protection.installation import expect_app

NO_SCOPE = "-"  # the scope of events where no option gives one
once_functions: dict[str, tuple[str, Policy]] = {}  # operation and policy by dotted name

Function = TypeVar("Function", bound=Callable[..., Any])


def protected_functions() -> Iterator[tuple[str, str, Policy]]:
    """
    Dotted name, operation and policy of each function of `@once` that is imported by now, for system checks.

    Functions that the caller imports meanwhile (it resolves dotted paths) are included.
    """
    seen: set[str] = set()
    while names := [name for name in tuple(once_functions) if name not in seen]:
        seen.update(names)
        yield from ((name, *once_functions[name]) for name in names)


def once(operation: str, /, **options: Unpack[Options]) -> Callable[[Function], Function]:
    """
    Let a function take effect once per event: `@once("invoice.paid", key=lambda event: event["id"])`.

    The option `key`, and `scope`, `fingerprint` and `using` where they are callables, get the function's arguments. The
    function must return JSON: that is what a redelivery gets, without a second run. Its arguments are fingerprinted as
    JSON, so that one key for two different events is an error; the option `fingerprint` picks what counts. Two
    functions need two operations, even for one event: with one, the second would get the first's result.

    Raises, when called, `KeyReused`, `RequestInProgress` (let the broker deliver it later), `OutcomeUnknown`,
    `StoreUnavailable`, `KeyInvalid`, and `UnstorableResponse` for a result that is not JSON; the work is then rolled
    back, unless its store is outside the database; there also `OutcomeUncertain`.
    Raises `PolicyError`, when decorating, for an unknown option, a bad value, a missing key and an `async def`.
    """
    if not isinstance(operation, str) or not operation:
        raise PolicyError('@once needs the name of the operation: @once("invoice.paid", key=...)')
    policy = Policy.at("@once", options, ONCE_OPTIONS)
    if policy.options.get("key") is None:
        raise PolicyError(f'@once("{operation}") needs the option `key`: a callable that gives each event\'s own id.')

    def decorate(function: Function) -> Function:
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise PolicyError(f"@once protects a plain function, and {function!r} is none.")
        expect_app()
        signature = inspect.signature(function)
        once_functions[f"{function.__module__}.{getattr(function, '__qualname__', function)}"] = (operation, policy)

        @wraps(function)
        def protected(*args: Any, **kwargs: Any) -> Any:
            resolved = conf.resolved_once(policy)

            def execute(handle: OperationHandle) -> Any:
                return function(*args, **kwargs)

            def capture(value: Any) -> Answer[Any]:
                return Answer(value, _result_record(value, resolved, operation))

            attempt = _event_attempt(operation, resolved, signature, args, kwargs)
            outcome = run(attempt, resolved, conf.database(resolved, *args, **kwargs), execute, capture)
            match outcome:
                case Executed(value):
                    return value
                case Joined():
                    return function(*args, **kwargs)
                case Replayed(record):
                    return json.loads(record.body)
                case Refused(refusal):
                    raise refusal
                case _:
                    assert_never(outcome)

        setattr(protected, POLICY, policy)
        return cast(Function, protected)

    return decorate


def _event_attempt(
    operation: str, policy: ResolvedPolicy, signature: inspect.Signature, args: Any, kwargs: Any
) -> Attempt:
    made = None if policy.key is None else policy.key(*args, **kwargs)
    if made is None:
        raise KeyMissing(f'@once("{operation}"): the option `key` gave None for this event.')
    key = check_key(made)
    if policy.key_format is not None and not policy.key_format(key):
        raise KeyInvalid(f'@once("{operation}"): the event\'s key does not fit the option `key_format`.')
    scope = NO_SCOPE if policy.scope is None else policy.scope(*args, **kwargs)
    if policy.fingerprint is not None:
        meaning = policy.fingerprint(*args, **kwargs)
    else:
        try:
            # By name: an argument means the same, by whichever road it comes.
            arguments = signature.bind(*args, **kwargs).arguments
            meaning = json.dumps(arguments, cls=_EventEncoder, sort_keys=True).encode()
        except (TypeError, ValueError) as error:
            raise PolicyError(
                f'@once("{operation}") cannot fingerprint its arguments as JSON ({error}). Set the option `fingerprint`'
                " to a callable that gives, as bytes, what tells one event from another."
            ) from error
    return Attempt(
        identity=Identity(storable_text("scope", scope), operation, key),
        fingerprint=sha256(b"event" + framed(meaning)).digest(),
        ttl=policy.ttl,
    )


class _EventEncoder(DjangoJSONEncoder):
    """What events are made of besides JSON: dates, decimals and UUIDs (Django's encoder), bytes and saved models."""

    def default(self, o: Any) -> Any:
        if isinstance(o, Model) and o.pk is not None:
            return [o._meta.label_lower, o.pk]
        if isinstance(o, (bytes, bytearray, memoryview)):
            return bytes(o).hex()
        return super().default(o)


def _result_record(value: Any, policy: ResolvedPolicy, operation: str) -> CompletionRecord:
    remedy = f'The result of @once("{operation}") is what a redelivery gets, and it was rolled back: return JSON'
    try:
        body = canonical_json(value)
        same = json.loads(body) == value
    except (TypeError, ValueError, RecursionError) as error:
        raise UnstorableResponse(f"{remedy} ({error}).") from error
    if not same:
        raise UnstorableResponse(f"{remedy}, whose lists, texts as names and finite numbers come back as they were.")
    if len(body) > policy.max_body:
        raise UnstorableResponse(f"{remedy} of at most {policy.max_body} bytes (option `max_body`), not {len(body)}.")
    return CompletionRecord(status=200, headers=(("Content-Type", "application/json"),), body=body)
