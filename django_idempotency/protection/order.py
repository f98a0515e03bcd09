"""Where `@idempotent` may stand: inside whatever decides who may call the view, around the handler itself."""

from collections.abc import Iterable, Iterator
from functools import cache, partial
from typing import Any, NoReturn

from asgiref.sync import iscoroutinefunction
from django.apps import apps
from django.core.checks import CheckMessage, Error, register

from django_idempotency.exceptions import PolicyError

# Modules whose decorators decide who may call a view. Functions are told by the module that they were made in.
GUARDS = frozenset(
    {
        "django.contrib.admin.views.decorators",
        "django.contrib.auth.decorators",
        "guardian.decorators",
        "rules.contrib.views",
    }
)
# Modules whose classes decide it in their `dispatch`.
GUARDED_DISPATCH = frozenset(
    {"braces.views._access", "django.contrib.auth.mixins", "guardian.mixins", "rest_framework.views"}
)
METHOD_DECORATOR = "django.utils.decorators"
API_VIEW = "rest_framework.decorators"


# --- the project ---


def expect_app() -> None:
    """Something is protected: let `manage.py check` say if the app, and with it every other check, is missing."""
    register(check_installed)


def check_installed(**kwargs: object) -> list[CheckMessage]:
    """E008, registered without the app's help."""
    if apps.is_installed("django_idempotency"):
        return []
    return [
        Error(
            "Something in this project is protected by django_idempotency, which is not in INSTALLED_APPS.",
            hint="Add 'django_idempotency' to INSTALLED_APPS, then run `manage.py migrate`.",
            id="django_idempotency.E008",
        )
    ]


# --- the decorator ---


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
        if isinstance(getattr(layer, "cls", None), type):  # what DRF's as_view() returns, and so @api_view
            _refuse_drf_view(layer.cls)
        if hasattr(layer, "mapping") and hasattr(layer, "detail"):  # what @action leaves on a function
            raise PolicyError(
                "@idempotent must stand inside @action:\n\n"
                '    @action(detail=True, methods=["post"])\n    @idempotent\n'
                f"    def {layer.__name__}(self, request, pk=None): ..."
            )
        view_class = getattr(layer, "view_class", None)  # what a plain as_view() returns
        if isinstance(view_class, type) and guarded(view_class):
            _refuse_dispatch(view_class)
    method = view.func if isinstance(view, partial) else None  # method_decorator hands a bound method over
    owner = getattr(method, "__self__", None)
    if owner is not None:
        check_dispatch(owner.__class__, getattr(method, "__func__", None))
    check_handler(view)


def check_handler(handler: Any) -> None:
    """Raise a `PolicyError` where *handler* is async, or decides who may call it: inside what is put around it."""
    check_layers(layers(handler), handler)


def check_layers(inside: Iterable[Any], handler: Any) -> None:
    """Raise as `check_handler` does, for those layers of *handler* that are *inside* the protection."""
    name = getattr(handler, "__qualname__", None) or repr(handler)
    for layer in inside:
        if iscoroutinefunction(layer) or iscoroutinefunction(type(layer).__call__):
            raise PolicyError(
                f"@idempotent does not protect async views yet, and {name} is one: make it a plain `def`."
            )
        if is_guard(layer):
            raise PolicyError(
                "@idempotent must stand inside login_required and its kin, so that nobody gets an answer that was not"
                " theirs:\n\n    @login_required\n    @idempotent\n"
                f"    def {getattr(handler, '__name__', name)}(request): ..."
            )


@cache
def check_dispatch(view_class: type, method: Any) -> None:
    """
    Raise a `PolicyError` where *method*, which is protected, is a dispatch of *view_class* and runs outside what
    decides who may call the view: then a replay would let everybody in.
    """
    if any(layer is method for layer in dispatch_layers(view_class)) and guarded(view_class, method):
        _refuse_dispatch(view_class)


def _refuse_drf_view(view_class: type) -> NoReturn:
    name = view_class.__name__
    if api_view_function(view_class) is not None:
        raise PolicyError(
            "@idempotent must stand inside @api_view, so that authentication, permissions and throttles come first:"
            "\n\n"
            f'    @api_view(["POST"])\n    @idempotent\n    def {name}(request): ...'
        )
    raise PolicyError(
        f"@idempotent must not stand around {name}.as_view(): authentication, permissions and throttles would run after"
        f" a replay. Protect the handlers:\n\n    class {name}(IdempotencyMixin, ...): ..."
    )


def _refuse_dispatch(view_class: type) -> NoReturn:
    name = view_class.__name__
    if any(base.__module__ == "rest_framework.views" for base in view_class.__mro__):
        raise PolicyError(
            f"@idempotent must not stand around the dispatch of {name}: authentication, permissions and throttles would"
            f" run after a replay. Protect the handlers:\n\n    class {name}(IdempotencyMixin, ...): ..."
        )
    raise PolicyError(
        f"@idempotent must not stand around the dispatch of {name}, in which LoginRequiredMixin or its kin decide who"
        " may call it: a replay would let everybody in. Protect the handler:\n\n"
        f'    @method_decorator(idempotent, name="post")\n    class {name}(LoginRequiredMixin, View): ...'
    )


# --- what a view is made of ---


def guarded(view_class: type, around: Any = None) -> bool:
    """Is it decided inside the dispatch *around* (inside all of it, where None) who may call *view_class*?"""
    chain = list(dispatch_layers(view_class))
    start = next((position for position, layer in enumerate(chain) if layer is around), 0)
    if any(is_guard(layer) or module_of(layer) in GUARDED_DISPATCH for layer in chain[start:]):
        return True
    handlers = [getattr(view_class, name, None) for name in getattr(view_class, "http_method_names", ())]
    return any(is_guard(layer) for handler in handlers for layer in layers(handler))


def dispatch_layers(view_class: type) -> Iterator[Any]:
    """Each `dispatch` of *view_class* and its bases, with what is put around it, in the order in which they call."""
    seen: set[int] = set()
    for base in view_class.__mro__:
        for layer in layers(vars(base).get("dispatch")):
            if id(layer) not in seen:
                seen.add(id(layer))
                yield layer


def is_guard(layer: Any) -> bool:
    """Is *layer* login_required or of its kin: permission_required, user_passes_test, staff_member_required?"""
    return module_of(layer) in GUARDS and getattr(layer, "__name__", "") != "login_not_required"  # which lets all in


def module_of(layer: Any) -> str | None:
    """The module in whose code *layer* was made; `functools.wraps` changes `__module__`, but not this."""
    name = getattr(layer, "__globals__", {}).get("__name__")
    return name if isinstance(name, str) else None


def api_view_function(view_class: type) -> Any:
    """The function that `@api_view` made *view_class* of, or None."""
    for name in getattr(view_class, "http_method_names", ()):
        handler = getattr(view_class, name, None)
        if module_of(handler) == API_VIEW:
            return _enclosed(handler, "func")
    return None


def layers(view: Any) -> Iterator[Any]:
    """
    *view* and what it wraps, from the outside in, as far as `functools.wraps` tells. What `method_decorator` puts
    around a method it puts there at each call, so its decorators stand for that.
    """
    seen: set[int] = set()
    layer = view
    while layer is not None and id(layer) not in seen:
        seen.add(id(layer))
        yield layer
        if module_of(layer) == METHOD_DECORATOR:
            yield from reversed(_enclosed(layer, "decorators") or [])
        layer = getattr(layer, "__wrapped__", None) or (layer.func if isinstance(layer, partial) else None)


def _enclosed(function: Any, name: str) -> Any:
    """The variable *name* that *function* is a closure over, or None."""
    names = function.__code__.co_freevars
    closure = function.__closure__
    return closure[names.index(name)].cell_contents if closure and name in names else None
