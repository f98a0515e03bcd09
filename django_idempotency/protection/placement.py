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

from django.views import View

from django_idempotency.core.policy import NO_OPTIONS, POLICY, Policy
from django_idempotency.protection.exemptions import is_exempt
from django_idempotency.protection.handlers import decides_by_itself
from django_idempotency.protection.introspection import (
    DRF_VIEWS,
    GUARDED_DISPATCH,
    SAFE,
    actions_of,
    classes_of,
    dispatch_layers,
    has_mixin,
    is_async,
    is_guard,
    layers,
    may_call,
    module_of,
    operations_of,
    policy_of_admin,
)
from django_idempotency.protection.views import wrap
from django_idempotency.protection.wrapping import (
    LeftOut,
    chain_of,
    check_layers,
    content_of,
    guard_name,
    is_plain,
    spelt,
    view_class_of,
)

NO_GUARDS = ("django.", "django_idempotency.")  # packages whose own `dispatch` is no guard, or is known as one


DECORATOR, MIXIN, MIDDLEWARE, NONE = "decorator", "mixin", "middleware", "none"  # how a view is protected


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
    chain = list(chain_of(callback))
    leaf = chain[-1]
    view_class = view_class_of(leaf)
    known_class = view_class or getattr(callback, "cls", None) or getattr(callback, "view_class", None)
    known_class = known_class if isinstance(known_class, type) else None
    operations = operations_of(leaf)
    named = known_class or next(iter(operations.values()), leaf if hasattr(leaf, "__name__") else type(leaf))
    describe = partial(
        Placement, name=named.__name__, module=named.__module__, view_class=known_class, layers=tuple(chain)
    )
    exempt = is_exempt((*chain, known_class))
    guards = tuple(guard_name(layer) for layer in chain if is_guard(layer))
    decorated = [policy for layer in chain if isinstance(policy := getattr(layer, POLICY, None), Policy)]
    if not decorated and not isinstance(leaf, FunctionType):
        decorated = [policy for policy in [getattr(type(leaf).__call__, POLICY, None)] if isinstance(policy, Policy)]
    if decorated:  # around a function, or around a plain as_view()
        return describe(view=None, every=Place(how=DECORATOR, policies=tuple(decorated[-1:]), guards=guards))
    if operations:
        return describe(view=None, places={method: _of_operation(operations[method]) for method in operations})
    if (policy := policy_of_admin(leaf)) is not None:
        return describe(view=None, every=Place(how=MIXIN, policies=(policy,), guards=guards))
    if view_class is not None:
        places, view = _of_class(chain, view_class, exempt, guards)
        return describe(view=view, places=places)
    try:
        check_layers(chain[:-1])
        _check_handler(chain)
        place = Place(how=MIDDLEWARE, decides=decides_by_itself(leaf), exempt=exempt, guards=guards, function=leaf)
        return describe(view=_rebuilt(chain, wrap(leaf, NO_OPTIONS)), every=place)
    except LeftOut as reason:
        return describe(view=None, every=Place(how=NONE, why=str(reason), exempt=exempt, guards=guards))


def _of_operation(function: Any) -> Place:
    """The place of an operation of Django Ninja, whose guards are not functions around it."""
    found = list(layers(function))
    policies = tuple(policy for layer in found if isinstance(policy := getattr(layer, POLICY, None), Policy))[:1]
    if policies:
        return Place(how=DECORATOR, policies=policies, function=function)
    why = "it is an operation of Django Ninja, which `django_idempotency.contrib.ninja` protects"
    return Place(how=NONE, why=why, exempt=is_exempt(found))


# --- handlers ---


def _check_handler(chain: list[Any]) -> None:
    """Raise `LeftOut` unless the last of *chain* is a plain function that cannot be a guard around another view."""
    leaf = chain[-1]
    if not isinstance(leaf, FunctionType):
        raise LeftOut("it is no function, so what it does before it answers is not known")
    if inspect.isasyncgenfunction(leaf):
        raise LeftOut("it is an async generator, which answers nothing that can be stored")
    if is_async(leaf) and not is_async(chain[0]):
        raise LeftOut(f"it is async, and the decorator {spelt(chain[0])} around it does not show it")
    defaults = (*(leaf.__defaults__ or ()), *(leaf.__kwdefaults__ or {}).values())
    values = zip(leaf.__code__.co_freevars, map(content_of, leaf.__closure__ or ()), strict=True)
    for name, value in (*values, *(("a default", value) for value in defaults)):
        if name != "__class__" and not is_plain(value):
            raise LeftOut(
                f"it is made by another function, {spelt(leaf)}, of something ({name}) that may be a view: it may"
                " decide who may call that"
            )


# --- classes ---


def _of_class(
    view_chain: list[Any], view_class: type[View], exempt: bool, around: tuple[str, ...]
) -> tuple[dict[str, Place], Any]:
    """The places of the methods of *view_class*, and its view with them protected, if there is one to protect."""
    leaf = view_chain[-1]
    options = getattr(leaf, "initkwargs", None) or getattr(leaf, "view_initkwargs", None) or {}
    own = options.get("idempotency", getattr(view_class, "idempotency", None))
    policies = (own,) if isinstance(own, Policy) else ()
    actions = actions_of(leaf, view_class, options.get("http_method_names", view_class.http_method_names))
    guards = (*around, *_guards_of_class(view_class, options))
    trouble = _trouble_around(view_chain) or _trouble_of_dispatch(view_class)
    if any(map(may_call, options.values())):
        trouble = "its as_view() is given something to call, which may be a view"
    places: dict[str, Place] = {}
    functions: dict[str, tuple[Any, Any]] = {}  # as the class has them, and protected
    for method, name in actions.items():
        if method.upper() in SAFE:
            continue
        raw = next((vars(base)[name] for base in view_class.__mro__ if name in vars(base)), None)
        if raw is None:  # `post = None`, or only the metaclass has it
            continue
        chain = list(chain_of(raw))
        inside = tuple(guard_name(layer) for layer in layers(raw) if is_guard(layer))
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
                raise LeftOut(trouble)
            check_layers(chain[:-1])
            _check_handler(chain)
            if not isinstance(raw, FunctionType):
                raise LeftOut("its handler is no plain method, so how it is called is not known")
            protected = _rebuilt(chain, wrap(chain[-1], NO_OPTIONS))
        except LeftOut as reason:
            places[method.upper()] = describe(how=NONE, why=str(reason))
            continue
        decides = decides_by_itself(chain[-1], view_class, options)
        places[method.upper()] = describe(how=MIDDLEWARE, decides=decides)
        functions[method] = raw, protected
    if not functions:
        return places, None
    return places, _rebuilt(view_chain, _with_cell(leaf, view_class, _factory(view_class, functions)))


def _trouble_around(chain: list[Any]) -> str:
    """Why the view of a class cannot be protected, for what is around its `as_view()`, or ""."""
    try:
        check_layers(chain[:-1])
        _rebuilt(chain, chain[-1])
    except LeftOut as reason:
        return str(reason)
    return ""


def _trouble_of_dispatch(view_class: type[View]) -> str:
    """Why the handlers of *view_class* may not be where Django and DRF have them, or ""."""
    for base in view_class.__mro__:
        own = vars(base).get("dispatch")
        if own is None:
            continue
        if base is View or base.__module__ in DRF_VIEWS:
            return ""
        innermost = list(chain_of(own))[-1]
        if innermost is View.dispatch or module_of(innermost) in DRF_VIEWS:
            return ""
        if not isinstance(innermost, FunctionType) or "dispatch" not in innermost.__code__.co_names:
            return f"the dispatch of {base.__qualname__} does not call that of its base, so its handlers are not known"
    return ""


def _guards_of_class(view_class: type[View], options: Mapping[str, Any]) -> Iterator[str]:
    """Names of what decides, before the handler, who may call a view of *view_class*."""
    for base in view_class.__mro__:
        own = vars(base).get("dispatch")
        if own is None or base.__module__ in DRF_VIEWS:
            continue
        if base.__module__ in GUARDED_DISPATCH:
            yield base.__name__
        elif not all((module_of(layer) or "").startswith(NO_GUARDS) for layer in layers(own)):
            yield f"{base.__name__}.dispatch"  # it may answer by itself
    yield from (guard_name(layer) for layer in dispatch_layers(view_class) if is_guard(layer))
    for kind in ("authentication_classes", "permission_classes", "throttle_classes"):
        for each in classes_of(options.get(kind, getattr(view_class, kind, None))) or ():
            yield getattr(each, "__name__", type(each).__name__)


def _factory(view_class: type[View], functions: Mapping[str, tuple[Any, Any]]) -> Callable[..., View]:
    """
    What makes the objects of *view_class*, with *functions* in the place of their handlers: by HTTP method, that of the
    class and the protected one.
    """
    in_initial = any(base.__module__ in DRF_VIEWS for base in view_class.__mro__)

    def make(*args: Any, **kwargs: Any) -> View:
        view = view_class(*args, **kwargs)
        if in_initial:
            _replace_after_initial(view, functions)
        else:
            for method in functions:
                _replace(view, method, functions)
        return view

    make.__name__ = view_class.__name__  # Django names it in an error
    return make


def _replace_after_initial(view: Any, functions: Mapping[str, tuple[Any, Any]]) -> None:
    """In a DRF view, as `IdempotencyMixin` does: behind negotiation, authentication, permissions and throttles."""
    checks = view.initial

    def initial(request: Any, *args: Any, **kwargs: Any) -> None:
        checks(request, *args, **kwargs)
        _replace(view, request.method.lower(), functions)

    view.initial = initial


def _replace(view: Any, method: str, functions: Mapping[str, tuple[Any, Any]]) -> None:
    """
    Protect the handler of *method*, unless the object has another than its class: what the view's own code put there,
    in its `__init__`, `setup` or `initial`, may decide who may call it.
    """
    if method not in functions:
        return
    of_class, protected = functions[method]
    current = getattr(view, method, None)
    if isinstance(current, MethodType) and current.__self__ is view and current.__func__ is of_class:
        setattr(view, method, MethodType(protected, view))


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
    if not any(content_of(cell) is original for cell in cells):
        raise LeftOut(f"the decorator {spelt(layer)} does not show what it wraps")
    copy = FunctionType(
        layer.__code__,
        layer.__globals__,
        layer.__name__,
        layer.__defaults__,
        tuple(CellType(replacement) if content_of(cell) is original else cell for cell in cells),
    )
    copy.__kwdefaults__ = layer.__kwdefaults__
    update_wrapper(copy, layer)
    vars(copy)["__wrapped__"] = replacement
    return copy
