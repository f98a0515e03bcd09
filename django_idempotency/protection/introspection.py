"""The functions that a view wraps, and those among them that decide who may call it."""

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.views import View

# Modules whose decorators decide who may call a view.
GUARDS = frozenset(
    {
        "django.contrib.admin.views.decorators",
        "django.contrib.auth.decorators",
        "guardian.decorators",
        "rules.contrib.views",
    }
)
DRF_VIEWS = frozenset({"adrf.views", "rest_framework.views"})  # modules of DRF's APIView, and of adrf's async one
# Modules whose classes decide who may call a view in their `dispatch`.
GUARDED_DISPATCH = DRF_VIEWS | {"braces.views._access", "django.contrib.auth.mixins", "guardian.mixins"}
METHOD_DECORATOR = "django.utils.decorators"
API_VIEW = frozenset({"adrf.decorators", "rest_framework.decorators"})  # modules of @api_view
DESCRIBING = frozenset({"HEAD", "OPTIONS", "TRACE"})  # methods that Django and DRF answer by themselves
SAFE = DESCRIBING | {"GET"}


def layers(view: Any) -> Iterator[Any]:
    """
    Yield *view* and the functions that it wraps, from the outside in, as far as `functools.wraps` shows them. The
    decorators that `method_decorator` applies at each call of a method are included.
    """
    seen: set[int] = set()
    layer = view
    while layer is not None and id(layer) not in seen:
        seen.add(id(layer))
        yield layer
        if module_of(layer) == METHOD_DECORATOR:
            yield from reversed(enclosed(layer, "decorators") or [])
        layer = getattr(layer, "__wrapped__", None) or (layer.func if isinstance(layer, partial) else None)


def dispatch_layers(view_class: type) -> Iterator[Any]:
    """Yield each `dispatch` of *view_class* and its bases after its decorators, in the order of the calls."""
    seen: set[int] = set()
    for base in view_class.__mro__:
        for layer in layers(vars(base).get("dispatch")):
            if id(layer) not in seen:
                seen.add(id(layer))
                yield layer


def module_of(layer: Any) -> str | None:
    """Find the module whose code made *layer*: `functools.wraps` overwrites `__module__`, but not the globals."""
    namespace = getattr(layer, "__globals__", None)
    name = namespace.get("__name__") if isinstance(namespace, dict) else None  # some objects have every attribute
    return name if isinstance(name, str) else None


def is_async(function: Any) -> bool:
    """Whether *function* is called to be awaited: an `async def`, an object with an async `__call__`, or marked so."""
    return iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__)


def operations_of(view: Any) -> dict[str, Any]:
    """The functions of a path of Django Ninja, by HTTP method; nothing for any other *view*."""
    if module_of(view) != "ninja.operation":
        return {}
    operations = getattr(enclosed(view, "self"), "operations", ())
    return {method: operation.view_func for operation in operations for method in operation.methods}


def actions_of(view: Any, view_class: type, names: Iterable[str]) -> dict[str, str]:
    """
    What *view* calls of *view_class* for each HTTP method, of those with *names*.

    A copy, because DRF adds `head` when the first request comes, and another thread's may come meanwhile.
    """
    return dict(getattr(view, "actions", None) or {name: name for name in names if hasattr(view_class, name)})


def is_guard(layer: Any) -> bool:
    """Whether *layer* decides who may call the view, like login_required, permission_required or user_passes_test."""
    # `login_not_required` comes from the same module and lets everyone in.
    return module_of(layer) in GUARDS and getattr(layer, "__name__", "") != "login_not_required"


def is_guarded(view_class: type, around: Any = None) -> bool:
    """Whether the dispatch of *view_class* decides who may call it. With *around*, only what runs inside that layer."""
    chain = list(dispatch_layers(view_class))
    start = next((position for position, layer in enumerate(chain) if layer is around), 0)
    if any(is_guard(layer) or module_of(layer) in GUARDED_DISPATCH for layer in chain[start:]):
        return True
    handlers = [getattr(view_class, name, None) for name in getattr(view_class, "http_method_names", ())]
    return any(is_guard(layer) for handler in handlers for layer in layers(handler))


def api_view_function(view_class: type) -> Any:
    """The function that `@api_view` made *view_class* of, or None."""
    for name in getattr(view_class, "http_method_names", ()):
        handler = getattr(view_class, name, None)
        if module_of(handler) in API_VIEW:
            return enclosed(handler, "func")
    return None


def enclosed(function: Any, name: str) -> Any:
    """The value of *name* in the closure of *function*, or None."""
    names = function.__code__.co_freevars
    closure = function.__closure__
    if not closure or name not in names:
        return None
    try:
        return closure[names.index(name)].cell_contents
    except ValueError:  # the cell is still empty
        return None


def may_call(value: Any) -> bool:
    """
    Is *value*, which a view is given, something to call, or a collection of such? Classes are not, but views; nor are
    DRF's own objects, such as `A & B` of permissions.
    """
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        return any(map(may_call, value.values() if isinstance(value, dict) else value))
    if isinstance(value, type):
        return issubclass(value, View)
    return callable(value) and not type(value).__module__.startswith("rest_framework.")


def classes_of(value: Any) -> list[Any] | None:
    """What `permission_classes` or the like names; None if the class does not say it: it may be a property."""
    if value is None:
        return []
    return list(value) if isinstance(value, Iterable) else None


def policy_of_admin(view: Any) -> Any:
    """The `Policy` of *view* if it is the add or the change page of an admin with `IdempotencyAdminMixin`, or None."""
    module = sys.modules.get("django_idempotency.admin.mixin")  # if it is not imported, no admin has it
    owner = getattr(view, "__self__", None)
    if module is None or not isinstance(owner, module.IdempotencyAdminMixin):
        return None
    return owner.idempotency if view.__name__ in ("add_view", "change_view") else None


def has_mixin(view_class: type) -> bool:
    """Whether *view_class* is protected as a whole, by `IdempotencyMixin`."""
    module = sys.modules.get("django_idempotency.rest_framework")  # if it is not imported, no class has its mixin
    return module is not None and issubclass(view_class, module.IdempotencyMixin)
