"""What a view is made of: its decorators, from the outside in, down to its handler; and which of them are known."""

from collections.abc import Iterator
from functools import partial
from types import CellType, FunctionType
from typing import Any

from django.views import View

from django_idempotency.protection.introspection import API_VIEW, GUARDS, METHOD_DECORATOR, enclosed, module_of

# Modules whose decorators call what they decorate once, with the request that they got.
KNOWN = GUARDS | API_VIEW | {"contextlib", "django.db.transaction", "django_ratelimit.decorators", METHOD_DECORATOR}
KNOWN_PACKAGE = "django.views.decorators."
# Modules of the as_view() of Django, DRF and adrf.
AS_VIEW = frozenset({"adrf.viewsets", "django.views.generic.base", "rest_framework.viewsets"})
PLAIN_VALUES = (str, bytes, int, float, complex, bool, type(None))


class LeftOut(Exception):  # no error: the reason why a view is not protected
    """The view cannot be protected safely, for the reason that this says."""


# --- what a view is made of ---


def chain_of(view: Any) -> Iterator[Any]:
    """*view* and what it wraps, from the outside in, down to the handler or to what `as_view` made."""
    seen: list[Any] = []
    while view is not None and not any(view is each for each in seen):
        seen.append(view)
        yield view
        view = _inner(view)


def _inner(layer: Any) -> Any:
    if isinstance(layer, partial):
        return layer.func
    if not isinstance(layer, FunctionType) or view_class_of(layer) is not None:
        return None  # what as_view() makes may carry the `__wrapped__` of a dispatch
    if module_of(layer) in API_VIEW:
        return enclosed(layer, "func")
    if module_of(layer) == METHOD_DECORATOR and (method := enclosed(layer, "method")) is not None:
        return method
    return getattr(layer, "__wrapped__", None)


def view_class_of(layer: Any) -> type | None:
    """The class, if *layer* was made by its `as_view`, as Django or DRF have it."""
    if module_of(layer) not in AS_VIEW or not {"cls", "initkwargs"} <= {*layer.__code__.co_freevars}:
        return None
    view_class = enclosed(layer, "cls")
    return view_class if isinstance(view_class, type) and issubclass(view_class, View) else None


def guard_name(layer: Any) -> str:
    """The name of *layer*, which `is_guard`, as a project writes it."""
    test = enclosed(layer, "test_func")  # of user_passes_test, which the others of its module are made of
    made_by = test if module_of(test) in GUARDS else layer
    return str(made_by.__code__.co_qualname.partition(".<locals>")[0])


# --- what is known ---


def check_layers(around: list[Any]) -> None:
    """Raise `LeftOut` unless each layer *around* a handler calls what it wraps as it was called itself."""
    for layer in around:
        if isinstance(layer, partial):
            if layer.args or not all(is_plain(value) for value in layer.keywords.values()):
                raise LeftOut("it is a partial with arguments that may be views")
        elif not _is_known(module_of(layer)):
            raise LeftOut(f"the decorator {spelt(layer)} is not known: it may decide who may call the view")
        for decorator in method_decorators(layer):
            if not _is_known(module_of(decorator) or type(decorator).__module__):
                raise LeftOut(f"the decorator {spelt(decorator)} is not known: it may decide who may call the view")


def _is_known(module: str | None) -> bool:
    return module is not None and (module in KNOWN or module.startswith(KNOWN_PACKAGE))


def method_decorators(layer: Any) -> list[Any]:
    """What `method_decorator` applies at each call of the method that *layer* wraps."""
    if not isinstance(layer, FunctionType) or module_of(layer) != METHOD_DECORATOR:
        return []
    decorators = enclosed(layer, "decorators")
    return list(decorators or ())


def spelt(layer: Any) -> str:
    """The name of what made *layer*, with its module."""
    code = getattr(layer, "__code__", None)
    name = code.co_qualname if code else getattr(type(layer), "__qualname__", repr(layer))
    return f"{module_of(layer) or type(layer).__module__}.{name.partition('.<locals>')[0]}"


def is_plain(value: Any) -> bool:
    """Is *value* no view: a constant, a class of data, or a collection of those?"""
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(is_plain(each) for each in value)
    if isinstance(value, dict):
        return all(is_plain(each) for each in value.values())
    if isinstance(value, type):
        return value.__module__ == "builtins" or hasattr(value, "_meta") or hasattr(value, "base_fields")
    return isinstance(value, PLAIN_VALUES)


def content_of(cell: CellType) -> Any:
    """What *cell* of a closure holds; itself if that is nothing yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return cell
