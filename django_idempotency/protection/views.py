"""`@idempotent` picks the policy of a view and the adapter of its request."""

import inspect
import sys
from collections.abc import Callable, Hashable
from functools import partial, wraps
from typing import Any, TypeVar, Unpack, assert_never, cast, overload

from django.http import HttpRequest

from django_idempotency import conf
from django_idempotency.adapters.cookies import warn_of_cookies
from django_idempotency.adapters.plain import PlainAdapter, found_response
from django_idempotency.adapters.session import restore_session, session_key
from django_idempotency.core.decision import Answer
from django_idempotency.core.observation import OBSERVE
from django_idempotency.core.policy import NO_OPTIONS, POLICY, Options, Policy, ResolvedPolicy
from django_idempotency.core.probe import Found
from django_idempotency.core.progress import PHASED
from django_idempotency.engine.execution import Executed, Joined, Refused, Replayed
from django_idempotency.engine.handle import OperationHandle
from django_idempotency.engine.run import run, run_without_key
from django_idempotency.exceptions import PolicyError, Refusal, TryAgain
from django_idempotency.protection.awaiting import OwnThread
from django_idempotency.protection.introspection import is_async
from django_idempotency.protection.observed_request import observe_async_request, observe_request
from django_idempotency.protection.order import check_dispatch, check_method, check_place
from django_idempotency.protection.original import OriginalRequest
from django_idempotency.protection.receiving import Receipt
from django_idempotency.protection.resumption import RESUMPTION, Resumption

View = TypeVar("View", bound=Callable[..., Any])
AdapterOf = Callable[[Any, ResolvedPolicy], PlainAdapter]


@overload
def idempotent(view: View, /) -> View: ...
@overload
def idempotent(**options: Unpack[Options]) -> Callable[[View], View]: ...
def idempotent(view: View | None = None, /, **options: Unpack[Options]) -> View | Callable[[View], View]:
    """
    Let a view take effect once per idempotency key: `@idempotent`, or with options `@idempotent(required=True)`.

    It stands directly around the handler: inside `@api_view`, `@action` and `login_required`. In a class it stands
    around a method, in a plain Django view through `method_decorator`.

    An `async def` is protected too, and stays one. Raises `PolicyError` for an unknown option, a bad value and a wrong
    place.
    """
    if view is not None:
        return protect(view, NO_OPTIONS)
    policy = Policy.at("@idempotent", options)
    return lambda view: protect(view, policy)


def protect(view: View, policy: Policy) -> View:
    """Protect *view* by *policy*, which wins over the policies of its class and of the project."""
    method: Any = getattr(view, "func", None)  # `method_decorator` passes a partial of the bound method
    bound: Any = getattr(method, "__self__", None)
    if bound is None:
        check_place(view)
    else:
        check_method(cast(Hashable, type(bound)), getattr(method, "__func__", method))
        if method.__name__ == "dispatch" and getattr(type(bound), "view_is_async", False):
            return _wrap_async(view, policy, bound)  # it is a plain `def` that returns what the handler returns
    return wrap(view, policy, bound)


def wrap(view: View, policy: Policy, bound: Any = None) -> View:
    """Protect *view* by *policy*. The caller has checked its place. *bound* is the object of a bound method."""
    if is_async(view):
        return _wrap_async(view, policy, bound)

    @wraps(view)
    def protected(*args: Any, **kwargs: Any) -> Any:
        owner, request = _owner_and_request(args, kwargs)
        if owner is not None:
            check_dispatch(owner.__class__, protected)
        return call(view, args, kwargs, request, _policy(owner if bound is None else bound, policy))

    setattr(protected, POLICY, policy)
    return cast(View, protected)


def _wrap_async(view: View, policy: Policy, bound: Any) -> View:
    @wraps(view)
    async def protected(*args: Any, **kwargs: Any) -> Any:
        owner, request = _owner_and_request(args, kwargs)
        if owner is not None:
            check_dispatch(owner.__class__, protected)
        return await call_async(view, args, kwargs, request, _policy(owner if bound is None else bound, policy))

    setattr(protected, POLICY, policy)
    return cast(View, protected)


def _owner_and_request(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Find the view object, for a method, and the request."""
    for position, candidate in enumerate(args[:2]):
        if _is_request(candidate):
            return (args[0] if position else None), candidate
    request = kwargs.get("request")
    if _is_request(request):
        return (args[0] if args else None), request
    raise PolicyError("@idempotent protects views, which take a request. For other work there is @once.")


def _is_request(candidate: object) -> bool:
    if isinstance(candidate, HttpRequest):
        return True
    module = sys.modules.get("rest_framework.request")  # if DRF is not imported, this is not its request
    return module is not None and isinstance(candidate, module.Request)


def _policy(owner: Any, policy: Policy) -> ResolvedPolicy:
    of_class = getattr(owner, "idempotency", None)
    return conf.resolved(of_class, policy) if isinstance(of_class, Policy) else conf.resolved(policy)


def call(
    view: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    request: Any,
    policy: ResolvedPolicy,
    adapter_of: AdapterOf | None = None,
    thread: OwnThread | None = None,
) -> Any:
    """
    Call *view* under *policy*, through the adapter of the framework that made *request*, or which *adapter_of* makes.

    With *thread*, which is this one, *view* is async. It is awaited if there is anything to protect; else what it
    returns is left to the caller to await.
    """
    adapter = (adapter_of or _adapter)(request, policy)
    django_request = adapter.django_request
    # The handle of the operation whose handler calls this one, if there is one.
    outer = django_request.idempotency = getattr(django_request, "idempotency", None)
    resumption: Resumption | Receipt | None = vars(django_request).pop(RESUMPTION, None)
    if isinstance(resumption, Receipt):
        return resumption.answer(adapter)
    if resumption is None:
        if request.method not in policy.methods:
            return view(*args, **kwargs)
        if policy.mode == OBSERVE:
            return observe_request(adapter, outer, partial(view, *args, **kwargs))
        attempt = adapter.read()
    else:
        attempt = resumption.read(adapter)
    if isinstance(attempt, Refusal):
        return adapter.refuse(attempt)

    original: OriginalRequest | None = None

    def execute(handle: OperationHandle) -> Any:
        nonlocal args, kwargs
        django_request.idempotency = handle
        if original is not None:
            args, kwargs = original.arguments()
        try:
            return view(*args, **kwargs) if thread is None else thread.wait_for(partial(view, *args, **kwargs))
        finally:
            django_request.idempotency = outer or handle

    if attempt is None:
        if policy.mode == PHASED:
            return run_without_key(policy, conf.database(policy, request), execute)
        return view(*args, **kwargs)
    policy = adapter.policy  # of a form, if the key is in its field
    operation = attempt.identity.operation

    def capture(response: Any) -> "Answer[Any]":  # no generic type is made for each request
        answer = adapter.capture(found_response(response) if isinstance(response, Found) else response)
        if answer.record is not None:
            warn_of_cookies(operation, django_request, answer.value)
        return answer

    if policy.retries and policy.mode != PHASED:  # whose phases run again, not its handler
        original = OriginalRequest(adapter, view, args, kwargs)

    def conclude() -> Any:
        session = session_key(django_request)
        try:
            outcome = run(
                attempt,
                policy,
                conf.database(policy, request),
                execute,
                capture if thread is None else thread.unless_cancelled(capture),
                adapter.check_replay,
                thread,
                None if original is None else original.restore,
            )
        except Exception:
            restore_session(django_request, session)
            raise
        match outcome:
            case Executed(response, record):
                if record is None:
                    restore_session(django_request, session)
                return adapter.complete(response, record)
            case Joined(handle):
                django_request.idempotency = handle
                return view(*args, **kwargs)
            case Replayed(record):
                return adapter.complete(adapter.replay(record), None)
            case Refused(refusal):
                if isinstance(refusal, TryAgain):  # after the handler has run
                    restore_session(django_request, session)
                return adapter.refuse(refusal)
            case _:
                assert_never(outcome)

    if thread is not None:
        thread.again = conclude  # the request is read once
    return conclude()


async def call_async(
    view: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    request: Any,
    policy: ResolvedPolicy,
    adapter_of: AdapterOf | None = None,
) -> Any:
    """Like `call`, for an async *view*: what it protects runs on the thread of the request."""
    is_plain = request.method not in policy.methods
    if is_plain or policy.mode == OBSERVE:
        adapter = (adapter_of or _adapter)(request, policy)
        django_request = adapter.django_request
        if RESUMPTION not in vars(django_request):
            outer = django_request.idempotency = getattr(django_request, "idempotency", None)
            if is_plain:
                return await view(*args, **kwargs)
            return await observe_async_request(adapter, outer, partial(view, *args, **kwargs))
    thread = OwnThread()
    answer = await thread.run(partial(call, view, args, kwargs, request, policy, adapter_of, thread))
    return await answer if inspect.isawaitable(answer) else answer


def _adapter(request: Any, policy: ResolvedPolicy) -> PlainAdapter:
    if isinstance(request, HttpRequest):
        return PlainAdapter(request, policy)
    from django_idempotency.adapters.drf import DrfAdapter  # such a request shows that DRF is imported already

    return DrfAdapter(request, policy)


def call_method(handler: Callable[..., Any], owner: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the bound *handler* of *owner* under the policy of its class."""
    return call(handler, (request, *args), kwargs, request, _policy(owner, NO_OPTIONS))


async def call_async_method(handler: Callable[..., Any], owner: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Like `call_method`, for an async *handler*."""
    return await call_async(handler, (request, *args), kwargs, request, _policy(owner, NO_OPTIONS))
