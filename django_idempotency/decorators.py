"""`@idempotent`: the policy of a view and the edge of its request are picked here, and only here."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, Unpack, cast, overload

from django.http import HttpRequest

from django_idempotency import conf, engine
from django_idempotency.core.decision import Answer
from django_idempotency.core.policy import NO_OPTIONS, POLICY, Options, Policy, ResolvedPolicy
from django_idempotency.edges import http
from django_idempotency.engine import Executed, Joined, Replayed
from django_idempotency.exceptions import PolicyError, Refusal
from django_idempotency.handles import OperationHandle
from django_idempotency.placement import check_dispatch, check_place

View = TypeVar("View", bound=Callable[..., Any])


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
    edge = _edge(request)
    django_request = edge.django_request
    outer = getattr(django_request, "idempotency", None)  # an operation's whose handler calls this one
    if request.method not in policy.methods:
        django_request.idempotency = outer
        return view(*args, **kwargs)

    def execute(handle: OperationHandle) -> Answer[Any]:
        django_request.idempotency = handle
        try:
            response = view(*args, **kwargs)
        finally:
            django_request.idempotency = outer or handle
        return edge.capture(response, policy)

    try:
        attempt = edge.read(policy)
        if attempt is None:
            django_request.idempotency = outer
            return view(*args, **kwargs)
        match engine.run(attempt, policy, http.database(request, policy), execute):
            case Executed(response):
                return response
            case Joined():
                return view(*args, **kwargs)
            case Replayed(record):
                if policy.replay_guard is not None:
                    policy.replay_guard(request, record)
                return edge.replay(record, policy)
    except Refusal as refusal:
        return edge.refuse(refusal, policy)


def _edge(request: Any) -> http.HttpEdge:
    if isinstance(request, HttpRequest):
        return http.HttpEdge(request)
    from django_idempotency.edges.drf import DrfEdge  # DRF is imported already, or there would be no such request

    return DrfEdge(request)


def call_method(handler: Callable[..., Any], owner: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the bound *handler* of *owner* under the policy of its class."""
    return call(handler, (request, *args), kwargs, request, _policy(owner, NO_OPTIONS))
