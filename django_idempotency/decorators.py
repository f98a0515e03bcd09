"""`@idempotent` for views and `@once` for all other work: the policy and the edge are picked here, and only here."""

import inspect
import json
import sys
from collections.abc import Callable
from functools import wraps
from hashlib import sha256
from typing import Any, TypeVar, Unpack, cast, overload

from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import Model
from django.http import HttpRequest

from django_idempotency import conf, engine
from django_idempotency.core.decision import Answer
from django_idempotency.core.fingerprint import canonical_json, framed
from django_idempotency.core.keys import Attempt, Identity, check_key
from django_idempotency.core.policy import NO_OPTIONS, Options, Policy, ResolvedPolicy
from django_idempotency.core.record import CompletionRecord
from django_idempotency.edges import http
from django_idempotency.engine import Executed, Joined, Replayed
from django_idempotency.exceptions import KeyInvalid, KeyMissing, PolicyError, Refusal, UnstorableResponse
from django_idempotency.handles import OperationHandle
from django_idempotency.placement import check_dispatch, check_place, expect_app

View = TypeVar("View", bound=Callable[..., Any])
POLICY = "idempotency_policy"  # the attribute that tells a protected view, with the decorator's own options


# --- views ---


@overload
def idempotent(view: View, /) -> View: ...
@overload
def idempotent(**options: Unpack[Options]) -> Callable[[View], View]: ...
def idempotent(view: View | None = None, /, **options: Unpack[Options]) -> View | Callable[[View], View]:
    """
    Let a view take effect once per idempotency key: `@idempotent`, or with options `@idempotent(required=True)`.

    It stands directly around the handler: inside `@api_view`, `@action` and `login_required`; around the method of a
    class, through `method_decorator` where that is a plain Django view.

    Raises `PolicyError` for an unknown option, a bad value, a wrong place and an `async def`.
    """
    if view is not None:
        return protect(view, NO_OPTIONS)
    policy = Policy.at("@idempotent", options)
    return lambda view: protect(view, policy)


def protect(view: View, policy: Policy) -> View:
    """*view*, protected by *policy* over its class's and the project's."""
    check_place(view)
    bound: Any = getattr(getattr(view, "func", None), "__self__", None)  # method_decorator hands over a bound method

    @wraps(view)
    def protected(*args: Any, **kwargs: Any) -> Any:
        owner, request = _owner_and_request(args, kwargs)
        if owner is not None:
            check_dispatch(owner.__class__, protected)
        return call(view, args, kwargs, request, _policy(owner if bound is None else bound, policy))

    setattr(protected, POLICY, policy)
    return cast(View, protected)


def _owner_and_request(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The view object, for a method, and the request."""
    for position, candidate in enumerate(args[:2]):
        if isinstance(candidate, HttpRequest) or _is_drf_request(candidate):
            return (args[0] if position else None), candidate
    request = kwargs.get("request")
    if isinstance(request, HttpRequest) or _is_drf_request(request):
        return (args[0] if args else None), request
    raise PolicyError("@idempotent protects views, which take a request. For other work there is @once.")


def _is_drf_request(candidate: object) -> bool:
    module = sys.modules.get("rest_framework.request")  # where nobody has imported DRF, nobody has its request
    return module is not None and isinstance(candidate, module.Request)


def _policy(owner: Any, policy: Policy) -> ResolvedPolicy:
    of_class = getattr(owner, "idempotency", None)
    return conf.resolved(of_class, policy) if isinstance(of_class, Policy) else conf.resolved(policy)


def call(
    view: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], request: Any, policy: ResolvedPolicy
) -> Any:
    """Call *view* under *policy*, through the edge of the framework that made *request*."""
    is_plain = isinstance(request, HttpRequest)
    django_request = request if is_plain else request._request
    outer = getattr(django_request, "idempotency", None)
    if request.method not in policy.methods:
        django_request.idempotency = outer
        return view(*args, **kwargs)
    if is_plain:
        return _call_plain(view, args, kwargs, request, policy, outer)
    return _call_drf(view, args, kwargs, request, policy, outer)


def _call_plain(view: Any, args: Any, kwargs: Any, request: Any, policy: ResolvedPolicy, outer: Any) -> Any:
    def execute(handle: OperationHandle) -> Answer[Any]:
        return http.capture(http.rendered(_with_handle(request, handle, outer, view, args, kwargs)), policy)

    try:
        attempt = http.read(request, policy)
        if attempt is None:
            request.idempotency = outer
            return view(*args, **kwargs)
        match engine.run(attempt, policy, http.database(request, policy), execute):
            case Executed(response):
                return response
            case Joined():
                return view(*args, **kwargs)
            case Replayed(record):
                if policy.replay_guard is not None:
                    policy.replay_guard(request, record)
                return http.replay(record, policy)
    except Refusal as refusal:
        return http.refuse(refusal, policy.docs_url)


def _call_drf(view: Any, args: Any, kwargs: Any, request: Any, policy: ResolvedPolicy, outer: Any) -> Any:
    from django_idempotency.edges import drf  # DRF is imported already, or there would be no such request

    api_view = request.parser_context["view"]

    def execute(handle: OperationHandle) -> Answer[Any]:
        response = _with_handle(request._request, handle, outer, view, args, kwargs)
        return drf.capture(api_view, request, response, policy)

    try:
        attempt = drf.read(request, policy)
        if attempt is None:
            request._request.idempotency = outer
            return view(*args, **kwargs)
        match engine.run(attempt, policy, http.database(request, policy), execute):
            case Executed(response):
                return response
            case Joined():
                return view(*args, **kwargs)
            case Replayed(record):
                if policy.replay_guard is not None:
                    policy.replay_guard(request, record)
                return drf.replay(api_view, request, record, policy)
    except Refusal as refusal:
        drf.refuse(api_view, refusal, policy.docs_url)


def call_method(handler: Callable[..., Any], owner: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the bound *handler* of *owner* under the policy of its class."""
    return call(handler, (request, *args), kwargs, request, _policy(owner, NO_OPTIONS))


def _with_handle(request: Any, handle: OperationHandle, outer: Any, view: Any, args: Any, kwargs: Any) -> Any:
    request.idempotency = handle
    try:
        return view(*args, **kwargs)
    finally:
        request.idempotency = outer or handle  # an outer operation goes on with its own


# --- other work ---

ONCE_OPTIONS = (
    "ttl",
    "in_flight",
    "wait_timeout",
    "lease",
    "mode",
    "store",
    "using",
    "scope",
    "key",
    "key_format",
    "fingerprint",
    "max_body",
)
NO_SCOPE = "-"  # the scope of events where no option gives one
once_functions: dict[str, Policy] = {}  # by dotted name: no URLconf leads the system checks there

Function = TypeVar("Function", bound=Callable[..., Any])


def once(operation: str, /, **options: Unpack[Options]) -> Callable[[Function], Function]:
    """
    Let a function take effect once per event: `@once("invoice.paid", key=lambda event: event["id"])`.

    The option `key`, and `scope`, `fingerprint` and `using` where they are callables, get the function's arguments. The
    function must return JSON: that is what a redelivery gets, without a second run. Its arguments are fingerprinted as
    JSON, so that one key for two different events is an error; the option `fingerprint` picks what counts.

    Raises, when called, `KeyReused`, `RequestInProgress` (let the broker deliver it later), `OutcomeUnknown`,
    `StoreUnavailable`, `KeyInvalid`, and `UnstorableResponse` for a result that is not JSON; the work is then rolled
    back.
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
        once_functions[f"{function.__module__}.{getattr(function, '__qualname__', function)}"] = policy

        @wraps(function)
        def protected(*args: Any, **kwargs: Any) -> Any:
            resolved = conf.resolved_once(policy)

            def execute(handle: OperationHandle) -> Answer[Any]:
                value = function(*args, **kwargs)
                return Answer(value, _result_record(value, resolved, operation))

            using = resolved.using if not callable(resolved.using) else resolved.using(*args, **kwargs)
            match engine.run(_event_attempt(operation, resolved, args, kwargs), resolved, using, execute):
                case Executed(value):
                    return value
                case Joined():
                    return function(*args, **kwargs)
                case Replayed(record):
                    return json.loads(record.body)

        setattr(protected, POLICY, policy)
        return cast(Function, protected)

    return decorate


def _event_attempt(operation: str, policy: ResolvedPolicy, args: Any, kwargs: Any) -> Attempt:
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
            meaning = json.dumps([args, kwargs], cls=_EventEncoder, sort_keys=True).encode()
        except (TypeError, ValueError) as error:
            raise PolicyError(
                f'@once("{operation}") cannot fingerprint its arguments as JSON ({error}). Set the option `fingerprint`'
                " to a callable that gives, as bytes, what tells one event from another."
            ) from error
    return Attempt(
        identity=Identity(http.storable_text("scope", scope), operation, key),
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
