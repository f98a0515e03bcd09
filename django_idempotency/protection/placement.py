"""
Where protection goes in a view that says nothing of it: behind all that decides who may call it, directly around the
handler. Nothing is guessed: a view with a layer that is not known is left out, and the reason is said.

A view is not changed: `placement_of` builds a second one, of the same functions, in which the handler is protected.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial, update_wrapper
from types import CellType, FunctionType, MethodType
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.views import View

from django_idempotency.core.policy import NO_OPTIONS, POLICY, Policy
from django_idempotency.protection.exemptions import is_exempt
from django_idempotency.protection.handlers import decides_by_itself
from django_idempotency.protection.introspection import (
    API_VIEW,
    GUARDED_DISPATCH,
    GUARDS,
    METHOD_DECORATOR,
    SAFE,
    dispatch_layers,
    enclosed,
    has_mixin,
    is_guard,
    layers,
    module_of,
)
from django_idempotency.protection.views import wrap

# Modules whose decorators call what they decorate once, with the request that they got.
KNOWN = GUARDS | {"contextlib", "django.db.transaction", "django_ratelimit.decorators", METHOD_DECORATOR, API_VIEW}
KNOWN_PACKAGE = "django.views.decorators."
AS_VIEW = frozenset({"django.views.generic.base", "rest_framework.viewsets"})  # modules of Django's and DRF's as_view()
PLAIN_VALUES = (str, bytes, int, float, complex, bool, type(None))
DRF_VIEWS = "rest_framework.views"


DECORATOR, MIXIN, MIDDLEWARE, NONE = "decorator", "mixin", "middleware", "none"  # how a view is protected


class _LeftOut(Exception):  # no error: the reason why a view is not protected
    """The view cannot be protected safely, for the reason that this says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What becomes of the requests of one HTTP method of a view."""

    how: str  # DECORATOR, MIXIN, MIDDLEWARE or NONE
    why: str = ""  # a reason, if none
    decides: str = ""  # what of the handler itself decides who may call it: a replay would not ask it
    exempt: bool = False  # left out on purpose
    is_unplaced: bool = False  # it would be protected if its place were known
    guards: tuple[str, ...] = ()  # names of what decides who may call it, before the handler
    policies: tuple[Policy, ...] = ()
    function: Any = None  # the handler


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What becomes of a view, by HTTP method."""

    view: Callable[..., Any] | None  # the view with its handlers protected
    places: Mapping[str, Place] = field(default_factory=dict)
    every: Place | None = None  # for methods that a function view does not tell apart
    name: str  # without its module
    module: str = ""
    view_class: type | None = None
    layers: tuple[Any, ...] = ()

    @property
    def full_name(self) -> str:
        """Its name, with its module."""
        return f"{self.module}.{self.name}"

    def of(self, method: str) -> Place | None:
        """The place for HTTP's *method*, or None if the view has no handler for it."""
        return self.places.get(method, self.every)


def placement_of(callback: Any) -> Placement:
    """The placement for *callback*, the view of a URL pattern."""
    chain = list(_chain(callback))
    leaf = chain[-1]
    view_class = _view_class(leaf)
    known_class = view_class or getattr(callback, "cls", None) or getattr(callback, "view_class", None)
    known_class = known_class if isinstance(known_class, type) else None
    named = known_class or (leaf if hasattr(leaf, "__name__") else type(leaf))
    describe = partial(
        Placement, name=named.__name__, module=named.__module__, view_class=known_class, layers=tuple(chain)
    )
    exempt = is_exempt((*chain, known_class))
    guards = tuple(_guard_name(layer) for layer in chain if is_guard(layer))
    decorated = [policy for layer in chain if isinstance(policy := getattr(layer, POLICY, None), Policy)]
    if not decorated and not isinstance(leaf, FunctionType):
        decorated = [policy for policy in [getattr(type(leaf).__call__, POLICY, None)] if isinstance(policy, Policy)]
    if decorated:  # around a function, or around a plain as_view()
        return describe(view=None, every=Place(how=DECORATOR, policies=tuple(decorated[-1:]), guards=guards))
    try:
        _check_layers(chain[:-1])
        if view_class is not None:
            places, leaf_view = _of_class(leaf, view_class, exempt, guards)
            view = None if leaf_view is None else _rebuilt(chain, leaf_view)
            return describe(view=view, places=places)
        _check_handler(chain)
        place = Place(how=MIDDLEWARE, decides=decides_by_itself(leaf), exempt=exempt, guards=guards, function=leaf)
        return describe(view=_rebuilt(chain, wrap(leaf, NO_OPTIONS)), every=place)
    except _LeftOut as reason:
        return describe(view=None, every=Place(how=NONE, why=str(reason), exempt=exempt, guards=guards))


# --- what a view is made of ---


def _chain(view: Any) -> Iterator[Any]:
    """*view* and what it wraps, from the outside in, down to the handler or to what `as_view` made."""
    seen: list[Any] = []
    while view is not None and not any(view is each for each in seen):
        seen.append(view)
        yield view
        view = _inner(view)


def _inner(layer: Any) -> Any:
    if isinstance(layer, partial):
        return layer.func
    if not isinstance(layer, FunctionType) or _view_class(layer) is not None:
        return None  # what as_view() makes may carry the `__wrapped__` of a dispatch
    if module_of(layer) == API_VIEW:
        return enclosed(layer, "func")
    if module_of(layer) == METHOD_DECORATOR and (method := enclosed(layer, "method")) is not None:
        return method
    return getattr(layer, "__wrapped__", None)


def _view_class(layer: Any) -> type | None:
    """The class, if *layer* was made by its `as_view`, as Django or DRF have it."""
    if module_of(layer) not in AS_VIEW or not {"cls", "initkwargs"} <= {*layer.__code__.co_freevars}:
        return None
    view_class = enclosed(layer, "cls")
    return view_class if isinstance(view_class, type) and issubclass(view_class, View) else None


def _guard_name(layer: Any) -> str:
    test = enclosed(layer, "test_func")  # of user_passes_test, which the others of its module are made of
    made_by = test if module_of(test) in GUARDS else layer
    return str(made_by.__code__.co_qualname.partition(".<locals>")[0])


# --- what is known ---


def _check_layers(around: list[Any]) -> None:
    """Raise `_LeftOut` unless each layer *around* a handler calls what it wraps as it was called itself."""
    for layer in around:
        if iscoroutinefunction(layer):
            raise _LeftOut("it is async, and async views are not protected yet")
        if isinstance(layer, partial):
            if layer.args or not all(_is_plain(value) for value in layer.keywords.values()):
                raise _LeftOut("it is a partial with arguments that may be views")
        elif not _is_known(module_of(layer)):
            raise _LeftOut(f"the decorator {_spelt(layer)} is not known: it may decide who may call the view")
        for decorator in _method_decorators(layer):
            if not _is_known(module_of(decorator) or type(decorator).__module__):
                raise _LeftOut(f"the decorator {_spelt(decorator)} is not known: it may decide who may call the view")


def _is_known(module: str | None) -> bool:
    return module is not None and (module in KNOWN or module.startswith(KNOWN_PACKAGE))


def _method_decorators(layer: Any) -> list[Any]:
    """What `method_decorator` applies at each call of the method that *layer* wraps."""
    if not isinstance(layer, FunctionType) or module_of(layer) != METHOD_DECORATOR:
        return []
    decorators = enclosed(layer, "decorators")
    return list(decorators) if isinstance(decorators, (list, tuple)) else []


def _spelt(layer: Any) -> str:
    code = getattr(layer, "__code__", None)
    name = code.co_qualname if code else getattr(type(layer), "__qualname__", repr(layer))
    return f"{module_of(layer) or type(layer).__module__}.{name.partition('.<locals>')[0]}"


def _check_handler(chain: list[Any]) -> None:
    """Raise `_LeftOut` unless the last of *chain* is a plain function that cannot be a guard around another view."""
    leaf = chain[-1]
    if not isinstance(leaf, FunctionType):
        raise _LeftOut("it is no function, so what it does before it answers is not known")
    if any(iscoroutinefunction(layer) for layer in chain) or inspect.isasyncgenfunction(leaf):
        raise _LeftOut("it is async, and async views are not protected yet")
    defaults = (*(leaf.__defaults__ or ()), *(leaf.__kwdefaults__ or {}).values())
    values = zip(leaf.__code__.co_freevars, map(_content, leaf.__closure__ or ()), strict=True)
    for name, value in (*values, *(("a default", value) for value in defaults)):
        if name != "__class__" and not _is_plain(value):
            raise _LeftOut(
                f"it is made by another function, {_spelt(leaf)}, of something ({name}) that may be a view: it may"
                " decide who may call that"
            )


def _is_plain(value: Any) -> bool:
    """Is *value* no view: a constant, a class of data, or a collection of those?"""
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(_is_plain(each) for each in value)
    if isinstance(value, dict):
        return all(_is_plain(each) for each in value.values())
    if isinstance(value, type):
        return value.__module__ == "builtins" or hasattr(value, "_meta") or hasattr(value, "base_fields")
    return isinstance(value, PLAIN_VALUES)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty yet
        return cell


# --- classes ---


def _of_class(leaf: Any, view_class: type[View], exempt: bool, around: tuple[str, ...]) -> tuple[dict[str, Place], Any]:
    """The places of the methods of *view_class*, and its view with them protected, if there is one to protect."""
    options = getattr(leaf, "initkwargs", None) or getattr(leaf, "view_initkwargs", None) or {}
    own = options.get("idempotency", getattr(view_class, "idempotency", None))
    policies = (own,) if isinstance(own, Policy) else ()
    names = options.get("http_method_names", view_class.http_method_names)
    actions = getattr(leaf, "actions", None) or {name: name for name in names if hasattr(view_class, name)}
    guards = (*around, *_guards_of_class(view_class, options))
    trouble = _trouble_of_dispatch(view_class)
    if any(callable(value) and not isinstance(value, type) for value in options.values()):
        trouble = "its as_view() is given something to call, which may be a view"
    places: dict[str, Place] = {}
    functions: dict[str, Any] = {}
    for method, name in actions.items():
        if method.upper() in SAFE:
            continue
        raw = inspect.getattr_static(view_class, name, None)
        chain = list(_chain(raw))
        inside = tuple(_guard_name(layer) for layer in layers(raw) if is_guard(layer))
        decorated = [policy for layer in chain if isinstance(policy := getattr(layer, POLICY, None), Policy)]
        describe = partial(
            Place,
            exempt=exempt or is_exempt(chain),
            guards=(*guards, *inside),
            policies=(*policies, *decorated[-1:]),
            function=chain[-1],
        )
        if decorated:
            places[method.upper()] = describe(how=DECORATOR)
            continue
        if has_mixin(view_class):
            places[method.upper()] = describe(how=MIXIN)
            continue
        try:
            if trouble:
                raise _LeftOut(trouble)
            _check_layers(chain[:-1])
            _check_handler(chain)
        except _LeftOut as reason:
            places[method.upper()] = describe(how=NONE, why=str(reason))
            continue
        decides = decides_by_itself(chain[-1], view_class, options)
        places[method.upper()] = describe(how=MIDDLEWARE, decides=decides)
        functions[method] = _rebuilt(chain, wrap(chain[-1], NO_OPTIONS))
    if not functions:
        return places, None
    return places, _with_cell(leaf, view_class, _factory(view_class, functions))


def _trouble_of_dispatch(view_class: type[View]) -> str:
    """Why the handlers of *view_class* may not be where Django and DRF have them, or ""."""
    if view_class.view_is_async:
        return "it is async, and async views are not protected yet"
    for base in view_class.__mro__:
        own = vars(base).get("dispatch")
        if own is None:
            continue
        if base is View or base.__module__ == DRF_VIEWS:
            return ""
        innermost = list(_chain(own))[-1]
        if innermost is View.dispatch or module_of(innermost) == DRF_VIEWS:
            return ""
        if not isinstance(innermost, FunctionType) or "dispatch" not in innermost.__code__.co_names:
            return f"the dispatch of {base.__qualname__} does not call that of its base, so its handlers are not known"
    return ""


def _guards_of_class(view_class: type[View], options: Mapping[str, Any]) -> Iterator[str]:
    """Names of what decides, before the handler, who may call a view of *view_class*."""
    for base in view_class.__mro__:
        if "dispatch" in vars(base) and base.__module__ in GUARDED_DISPATCH and base.__module__ != DRF_VIEWS:
            yield base.__name__
    yield from (_guard_name(layer) for layer in dispatch_layers(view_class) if is_guard(layer))
    for kind in ("authentication_classes", "permission_classes", "throttle_classes"):
        for each in options.get(kind, getattr(view_class, kind, None)) or ():
            yield getattr(each, "__name__", type(each).__name__)


def _factory(view_class: type[View], functions: Mapping[str, Any]) -> Callable[..., View]:
    """What makes the objects of *view_class*, with *functions*, by HTTP method, in the place of their handlers."""
    in_initial = any(base.__module__ == DRF_VIEWS for base in view_class.__mro__)

    def make(*args: Any, **kwargs: Any) -> View:
        view = view_class(*args, **kwargs)
        if in_initial:
            _replace_after_initial(view, functions)
        else:
            for method, function in functions.items():
                setattr(view, method, MethodType(function, view))
        return view

    make.__name__ = view_class.__name__  # Django names it in an error
    return make


def _replace_after_initial(view: Any, functions: Mapping[str, Any]) -> None:
    """In a DRF view, as `IdempotencyMixin` does: behind negotiation, authentication, permissions and throttles."""
    checks = view.initial

    def initial(request: Any, *args: Any, **kwargs: Any) -> None:
        checks(request, *args, **kwargs)
        method = request.method.lower()
        if method in functions:
            setattr(view, method, MethodType(functions[method], view))

    view.initial = initial


# --- rebuild ---


def _rebuilt(chain: list[Any], protected: Any) -> Any:
    """The view of *chain* with *protected* in the place of its innermost layer."""
    original = chain[-1]
    for layer in reversed(chain[:-1]):
        if isinstance(layer, partial):
            copy: Any = partial(protected, *layer.args, **layer.keywords)
            vars(copy).update(vars(layer))
        else:
            copy = _with_cell(layer, original, protected)
        original, protected = layer, copy
    return protected


def _with_cell(layer: Any, original: Any, replacement: Any) -> Any:
    """A copy of the function *layer* that has *replacement* where it encloses *original*."""
    cells = layer.__closure__ or ()
    if not any(_content(cell) is original for cell in cells):
        raise _LeftOut(f"the decorator {_spelt(layer)} does not show what it wraps")
    copy = FunctionType(
        layer.__code__,
        layer.__globals__,
        layer.__name__,
        layer.__defaults__,
        tuple(CellType(replacement) if _content(cell) is original else cell for cell in cells),
    )
    copy.__kwdefaults__ = layer.__kwdefaults__
    update_wrapper(copy, layer)
    vars(copy)["__wrapped__"] = replacement
    return copy
