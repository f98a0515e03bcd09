"""
Where the decorators may stand: `@idempotent` directly around the handler, inside everything that decides who may call
the view; `@once` directly around the function, inside the decorator of a queue.
"""

from collections.abc import Iterable
from functools import cache
from types import FunctionType
from typing import Any, NoReturn

from django_idempotency.exceptions import PolicyError
from django_idempotency.protection.installation import expect_app
from django_idempotency.protection.introspection import (
    api_view_function,
    dispatch_layers,
    is_async,
    is_guard,
    is_guarded,
    layers,
)

# Methods by which Celery, dramatiq, Django's tasks, RQ, procrastinate and others enqueue a call.
ENQUEUE = ("apply_async", "defer", "delay", "enqueue", "send_with_options")


def check_place(view: Any) -> None:
    """Raise a `PolicyError` that shows the right order if @idempotent must not stand directly around *view*."""
    expect_app()
    if isinstance(view, (staticmethod, classmethod)):
        kind = type(view).__name__
        raise PolicyError(
            f"@idempotent must stand inside @{kind}: it protects the function itself.\n\n"
            f"    @{kind}\n    @idempotent\n    def {view.__func__.__name__}(request): ..."
        )
    if isinstance(view, type):
        raise PolicyError(
            f"@idempotent protects a handler, and {view.__qualname__} is a class.\n\n"
            f"    class {view.__name__}(IdempotencyMixin, ...): ...  # a DRF view: every unsafe method\n\n"
            '    @method_decorator(idempotent, name="post")  # a plain Django view\n'
            f"    class {view.__name__}(View): ..."
        )
    if not callable(view):
        raise PolicyError(f"@idempotent protects a view, and {view!r} cannot be called.")
    for layer in layers(view):
        if hasattr(layer, "_ninja_operation") or type(getattr(layer, "__self__", None)).__module__ == "ninja.operation":
            _refuse_outside_ninja(view)
        if isinstance(getattr(layer, "cls", None), type):  # made by DRF's as_view(), and so by @api_view
            _refuse_drf_view(layer.cls)
        if hasattr(layer, "mapping") and hasattr(layer, "detail"):  # set by @action on a function
            raise PolicyError(
                "@idempotent must stand inside @action:\n\n"
                '    @action(detail=True, methods=["post"])\n    @idempotent\n'
                f"    def {layer.__name__}(self, request, pk=None): ..."
            )
        view_class = getattr(layer, "view_class", None)  # set by a plain as_view()
        if isinstance(view_class, type) and is_guarded(view_class):
            _refuse_dispatch(view_class)
    check_handler(view)


@cache  # `method_decorator` decorates the bound method again for each request
def check_method(view_class: type, function: Any) -> None:
    """Raise as `check_place` does if @idempotent must not stand around *function*, a method of *view_class*."""
    check_dispatch(view_class, function)
    check_place(function)


@cache
def check_dispatch(view_class: type, method: Any) -> None:
    """
    Raise a `PolicyError` if *method*, which is protected, is a dispatch of *view_class* outside the code that decides
    who may call the view, because a replay would then answer everyone.
    """
    if any(layer is method for layer in dispatch_layers(view_class)) and is_guarded(view_class, method):
        _refuse_dispatch(view_class)


def check_handler(handler: Any) -> None:
    """Raise a `PolicyError` if *handler* decides itself who may call it, or is async without showing it."""
    check_layers(layers(handler), handler)


def check_layers(inside: Iterable[Any], handler: Any) -> None:
    """Raise as `check_handler` does, but only for the layers of *handler* that are *inside* the protection."""
    name = getattr(handler, "__qualname__", None) or repr(handler)
    is_first = shows_async = True
    for layer in inside:
        if is_first:
            is_first, shows_async = False, is_async(layer)
        elif not shows_async and is_async(layer):
            raise PolicyError(
                f"{name} is async, and the decorator around it does not show it: what it returns has to be awaited. Let"
                " the decorator return an `async def` for an async view, as Django's own do."
            )
        if is_guard(layer):
            raise PolicyError(
                "@idempotent must stand inside login_required and similar decorators, so that a replay is sent only to"
                " those who may call the view:\n\n    @login_required\n    @idempotent\n"
                f"    def {getattr(handler, '__name__', name)}(request): ..."
            )


def check_function(function: Any, operation: str) -> None:
    """Raise a `PolicyError` that shows the right order if @once must not stand directly around *function*."""
    expect_app()
    # dramatiq and Django's tasks keep the function as `fn` and `func`.
    known: tuple[Any, ...] = (function, getattr(function, "fn", None), getattr(function, "func", None))
    name = next((each.__name__ for each in known if hasattr(each, "__name__")), "on_event")
    # Some queues return the function itself, with a method that enqueues a call.
    if not isinstance(function, FunctionType) or any(hasattr(function, method) for method in ENQUEUE):
        raise PolicyError(
            f"@once can only decorate a plain function, not a {type(function).__name__}. The decorator of a queue"
            " stands outside, so that the queue calls the protected function:\n\n"
            "    @shared_task  # or @app.task, @dramatiq.actor, @task, @staticmethod\n"
            f'    @once("{operation}", key=...)\n    def {name}(...): ...'
        )


def _refuse_drf_view(view_class: type) -> NoReturn:
    name = view_class.__name__
    if api_view_function(view_class) is not None:
        raise PolicyError(
            "@idempotent must stand inside @api_view, so that authentication, permissions and throttles come first:\n\n"
            f'    @api_view(["POST"])\n    @idempotent\n    def {name}(request): ...'
        )
    _refuse_outside_drf(f"{name}.as_view()", name)


def _refuse_outside_ninja(view: Any) -> NoReturn:
    operation = getattr(getattr(view, "__self__", None), "view_func", view)
    raise PolicyError(
        "@idempotent must not stand around an operation of Django Ninja, in decorate_view or above its decorator:"
        " authentication, throttling and validation would run after a replay, or nothing would be protected. Protect"
        " the function, with the decorator for Ninja:\n\n"
        "    from django_idempotency.contrib.ninja import idempotent\n\n"
        f'    @api.post("/...")\n    @idempotent\n    def {getattr(operation, "__name__", "pay")}(request): ...'
    )


def _refuse_dispatch(view_class: type) -> NoReturn:
    name = view_class.__name__
    if any(base.__module__ == "rest_framework.views" for base in view_class.__mro__):
        _refuse_outside_drf(f"the dispatch of {name}", name)
    raise PolicyError(
        f"@idempotent must not stand around the dispatch of {name}, in which LoginRequiredMixin or a similar class"
        " decides who may call it: a replay would answer everyone. Protect the handler:\n\n"
        f'    @method_decorator(idempotent, name="post")\n    class {name}(LoginRequiredMixin, View): ...'
    )


def _refuse_outside_drf(place: str, name: str) -> NoReturn:
    raise PolicyError(
        f"@idempotent must not stand around {place}: authentication, permissions and throttles would run after a"
        f" replay. Protect the handlers:\n\n    class {name}(IdempotencyMixin, ...): ..."
    )
