"""
Django Ninja: `@idempotent` on an operation, and `protect` for a router or a whole API.

Ninja authenticates, throttles and validates a request, calls the operation's function, and makes a response of what
that returns. The protection is around the function, so that a replay is sent to those alone whom Ninja lets in. The
response is made inside it, so that an answer that does not fit its schema is rolled back.

Tested with Ninja 1.7: `pip install "django-idempotency[ninja]"`.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar, Unpack, cast, overload

from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI, Router
from ninja.operation import Operation
from ninja.utils import contribute_operation_callback

from django_idempotency import conf
from django_idempotency.adapters.plain import PlainAdapter
from django_idempotency.core.policy import NO_OPTIONS, POLICY, Options, Policy, ResolvedPolicy
from django_idempotency.exceptions import IdempotencyError, PolicyError, Refusal
from django_idempotency.operations import openapi
from django_idempotency.protection.exemptions import is_exempt
from django_idempotency.protection.introspection import is_async, layers
from django_idempotency.protection.order import check_handler, check_place
from django_idempotency.protection.receiving import is_receipt
from django_idempotency.protection.views import call, call_async

__all__ = ["idempotent", "protect"]

OPERATION = "_idempotency_operation"  # of a request: Ninja's operation, which makes responses
INVALID = 422  # with which Ninja refuses a request that is not valid

Function = TypeVar("Function", bound=Callable[..., Any])


@overload
def idempotent(function: Function, /) -> Function: ...
@overload
def idempotent(**options: Unpack[Options]) -> Callable[[Function], Function]: ...
def idempotent(
    function: Function | None = None, /, **options: Unpack[Options]
) -> Function | Callable[[Function], Function]:
    """
    Let an operation take effect once per idempotency key. It stands below the operation's own decorator:

        @api.post("/payments", response={201: PaymentOut})
        @idempotent(required=True)
        def pay(request, payment: PaymentIn): ...

    *options* are those of `django_idempotency.idempotent`. Raises `PolicyError` for an unknown option, a bad value, a
    wrong place, and an operation that streams.
    """
    if function is not None:
        return _decorate(function, NO_OPTIONS)
    policy = Policy.at("@idempotent", options)
    return lambda function: _decorate(function, policy)


def protect(target: NinjaAPI | Router, **options: Unpack[Options]) -> None:
    """
    Protect each operation of *target*, an API or a router, that is not decorated itself; also those added later.

    *options* are those of `django_idempotency.idempotent`. `@idempotency_exempt` below an operation's own decorator
    leaves it out. Raises `PolicyError` for an unknown option and a bad value.
    """
    policy = Policy.at("ninja.protect", options)
    target.add_decorator(partial(_protect_run, policy), mode="view")


def _decorate(function: Function, policy: Policy) -> Function:
    check_place(function)
    protected = _wrap(function, policy)
    contribute_operation_callback(protected, partial(_join, policy))
    return protected


def _wrap(function: Function, policy: Policy) -> Function:
    """*function*, which Ninja calls with what it has validated, under *policy*."""

    def arguments(request: Any, args: Any, kwargs: Any) -> Any:
        return function, (request, *args), kwargs, request, conf.resolved(policy), partial(NinjaAdapter, kwargs)

    if is_async(function):

        @wraps(function)
        async def protected(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            return await call_async(*arguments(request, args, kwargs))

    else:

        @wraps(function)
        def protected(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            return call(*arguments(request, args, kwargs))

    setattr(protected, POLICY, policy)
    return cast(Function, protected)


def _join(policy: Policy, operation: Operation) -> None:
    """Let *operation*, whose function is protected by *policy*, and its clones name themselves to their requests."""
    _describe(operation, policy)
    # Innermost, where the bound method tells each clone, of which Ninja makes one for each API.
    decorators = [_name_operation, *getattr(operation, "_run_decorators", [])]
    vars(operation).pop("run", None)
    for decorate in decorators:
        operation.run = decorate(operation.run)  # type: ignore[method-assign]
    operation._run_decorators = decorators  # type: ignore[attr-defined]


def _protect_run(policy: Policy, run: Any) -> Any:
    """Protect the function of the operation that *run* belongs to, unless it is decorated or exempt."""
    operation = _operation_of(run)
    found = list(layers(operation.view_func))
    if is_exempt(found) or any(hasattr(layer, POLICY) for layer in found) or not _is_unsafe(operation, policy):
        return run
    check_handler(operation.view_func)
    _describe(operation, policy)
    operation.view_func = _wrap(operation.view_func, policy)
    return _name_operation(run)


def _name_operation(run: Any) -> Any:
    """*run*, which tells its request the operation that it belongs to. A receipt has no values to validate."""
    operation: Any = _operation_of(run)
    if operation.is_async:

        @wraps(run)
        async def named(request: HttpRequest, **values: Any) -> Any:
            setattr(request, OPERATION, operation)
            if not is_receipt(request):
                return await run(request, **values)
            refused = await operation._run_checks(request)
            try:
                return refused or await _call_function(operation, request)
            except Exception as error:  # as in Ninja's own `run`
                return operation.api.on_exception(request, error)

    else:

        @wraps(run)
        def named(request: HttpRequest, **values: Any) -> Any:
            setattr(request, OPERATION, operation)
            if not is_receipt(request):
                return run(request, **values)
            refused = operation._run_checks(request)
            try:
                return refused or _call_function(operation, request)
            except Exception as error:  # as in Ninja's own `run`
                return operation.api.on_exception(request, error)

    return named


def _call_function(operation: Any, request: HttpRequest) -> Any:
    """Call the protected function of *operation*, which answers a receipt itself."""
    protected = next(layer for layer in layers(operation.view_func) if hasattr(layer, POLICY))
    return protected(request)


def _operation_of(run: Any) -> Operation:
    for layer in layers(run):
        found = getattr(layer, "__self__", None)
        if isinstance(found, Operation):
            return found
    raise PolicyError(f"{run!r} hides the operation that it decorates: let the decorator use functools.wraps.")


def _is_unsafe(operation: Operation, policy: Policy) -> bool:
    return not conf.resolved(policy).methods.isdisjoint(operation.methods)


def _describe(operation: Operation, policy: Policy) -> None:
    """Let the OpenAPI document tell of keys at *operation*. Raises `PolicyError` if it streams."""
    if not _is_unsafe(operation, policy):
        return
    if operation.stream_format:
        raise PolicyError(
            f"{operation.view_func.__name__} streams its answer, which cannot be stored: return it in one piece."
        )
    resolved = conf.resolved(policy)
    extra = operation.openapi_extra or {}
    parameter = openapi.key_parameter(resolved)
    invalid = None if INVALID in operation.response_models else INVALID
    marked = {
        status: {"headers": header}
        for status in operation.response_models
        if isinstance(status, int) and (header := openapi.response_headers(resolved, str(status)))
    }
    operation.openapi_extra = {
        **extra,
        "parameters": [*extra.get("parameters", []), *([parameter] if parameter else [])],
        "responses": {
            **marked,
            **openapi.refusals(resolved, openapi.PROBLEM_SCHEMA, invalid),
            **extra.get("responses", {}),
        },
    }


class NinjaAdapter(PlainAdapter):
    """A request of Ninja, in the function of its operation, which was called with *values*."""

    __slots__ = ("ninja_operation", "values")

    reads_forms = False  # clients of an API send the header

    def __init__(self, values: dict[str, Any], request: Any, policy: ResolvedPolicy) -> None:
        super().__init__(request, policy)
        self.values = values
        operation: Operation | None = getattr(request, OPERATION, None)
        if operation is None:
            raise PolicyError(
                "Ninja does not call this function as an operation. For a view of Django's own, import `idempotent`"
                " from django_idempotency."
            )
        self.ninja_operation = operation

    def response_of(self, value: Any) -> Any:
        """The response that Ninja makes of *value*, with the headers that the function has set."""
        operation = self.ninja_operation
        name = operation.signature.response_arg
        response: HttpResponse = self.values[name] if name else operation.api.create_temporal_response(self.request)
        return operation._result_to_response(self.request, value, response)

    def refuse(self, refusal: Refusal) -> Any:
        """Answer with *refusal*, or raise it if the API has an exception handler for it, and no option `refuse`."""
        handlers = self.ninja_operation.api._exception_handlers
        if self.policy.refuse is None and any(
            kind in handlers for kind in type(refusal).__mro__ if issubclass(kind, IdempotencyError)
        ):
            raise refusal
        return super().refuse(refusal)
