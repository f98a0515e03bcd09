"""Where `@idempotent` may stand: inside whatever decides who may call the view, around the handler itself."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from django_idempotency.exceptions import PolicyError

AUTH_DECORATORS = "django.contrib.auth.decorators"
AUTH_MIXINS = "django.contrib.auth.mixins"


def check_place(view: Any) -> None:
    """Raise a `PolicyError` that shows the right order if @idempotent must not stand directly around *view*."""
    name = getattr(view, "__qualname__", None) or repr(view)
    if isinstance(view, (staticmethod, classmethod)):
        raise PolicyError(
            f"@idempotent must stand inside @{type(view).__name__}: it protects the function itself.\n\n"
            f"    @{type(view).__name__}\n    @idempotent\n    def {view.__func__.__name__}(request): ..."
        )
    if isinstance(view, type):
        raise PolicyError(
            f"@idempotent protects a handler, and {name} is a class.\n\n"
            f"    class {name}(IdempotencyMixin, ...): ...                  # a DRF view: every unsafe method\n\n"
            f'    @method_decorator(idempotent, name="post")\n    class {name}(View): ...   # a plain Django view'
        )
    if not callable(view):
        raise PolicyError(f"@idempotent protects a view, and {view!r} cannot be called.")
    for layer in layers(view):
        if inspect.iscoroutinefunction(layer):
            raise PolicyError(f"@idempotent does not protect async views yet, and {name} is one: make it a plain `def`.")
        _check_layer(layer, name)


def _check_layer(layer: Any, name: str) -> None:
    if hasattr(layer, "cls"):  # what DRF's as_view() returns, and so @api_view
        if getattr(layer.cls, "__name__", "") == "WrappedAPIView" or layer.cls.__module__ == "rest_framework.decorators":
            raise PolicyError(
                f"@idempotent must stand inside @api_view, so that authentication, permissions and throttles come first:\n\n"
                f'    @api_view(["POST"])\n    @idempotent\n    def {name}(request): ...'
            )
        raise PolicyError(
            f"@idempotent must not stand around {layer.cls.__name__}.as_view(): authentication, permissions and throttles"
            f" would run after a replay. Protect the handlers:\n\n    class {layer.cls.__name__}(IdempotencyMixin, ...): ..."
        )
    if hasattr(layer, "mapping") and hasattr(layer, "detail"):  # what @action leaves on a function
        raise PolicyError(
            f'@idempotent must stand inside @action:\n\n    @action(detail=True, methods=["post"])\n    @idempotent\n'
            f"    def {layer.__name__}(self, request, pk=None): ..."
        )
    module = getattr(layer, "__globals__", {}).get("__name__")
    if module == AUTH_DECORATORS:
        raise PolicyError(
            f"@idempotent must stand inside login_required and its kin, so that nobody gets an answer that was not theirs:\n\n"
            f"    @login_required\n    @idempotent\n    def {name}(request): ..."
        )
    if module == AUTH_MIXINS or _is_guarded_dispatch(layer) or guards(getattr(layer, "view_class", None)):
        raise PolicyError(
            "@idempotent must not stand around the dispatch of LoginRequiredMixin and its kin: they would let nobody in"
            ' only after a replay. Protect the handler:\n\n    @method_decorator(idempotent, name="post")\n'
            "    class MyView(LoginRequiredMixin, View): ..."
        )


def guards(view_class: Any) -> bool:
    """Does *view_class* decide in its dispatch who may call it?"""
    if not isinstance(view_class, type):
        return False
    return any(base.__module__ == AUTH_MIXINS for base in view_class.__mro__)


def _is_guarded_dispatch(layer: Any) -> bool:
    """Is *layer* the bound `dispatch` of a guarded view, as `method_decorator` hands it over?"""
    method: Any = getattr(layer, "func", layer)
    owner = getattr(method, "__self__", None)
    return getattr(method, "__name__", "") == "dispatch" and owner is not None and guards(type(owner))


def layers(view: Callable[..., Any]) -> Iterator[Any]:
    """*view* and what it wraps, from the outside in, as far as `functools.wraps` tells."""
    seen: set[int] = set()
    layer: Any = view
    while layer is not None and id(layer) not in seen:
        seen.add(id(layer))
        yield layer
        layer = getattr(layer, "__wrapped__", None)
