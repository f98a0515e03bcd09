"""
Does a handler itself decide who may call it? A replay does not run the handler, and would not ask it.

Read are the names and constants in the compiled code of the handler, and of what it calls: the methods of its class,
and the functions and classes of its own package, whatever way it gets at them. Read too are the decorators of those.
Not read is what is further away: other packages, and what serializers, models and managers do on their own.
"""

import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from dis import get_instructions, opmap
from functools import cached_property, lru_cache, partial, partialmethod
from importlib import import_module
from importlib.util import resolve_name
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http.response import HttpResponseBase
from django.utils.functional import LazyObject
from django.utils.functional import cached_property as django_cached_property
from django.views import View

from django_idempotency.protection.introspection import (
    DRF_VIEWS,
    GUARDED_DISPATCH,
    GUARDS,
    classes_of,
    is_guard,
    module_of,
)
from django_idempotency.protection.wrapping import (
    LeftOut,
    chain_of,
    check_layers,
    content_of,
    guard_name,
    method_decorators,
    spelt,
    view_class_of,
)

# Names that code uses to find out who is calling, or to refuse them.
DECIDING = frozenset(
    {
        "AuthenticationFailed",
        "BadSignature",
        "FORBIDDEN",
        "HTTP_401_UNAUTHORIZED",
        "HTTP_403_FORBIDDEN",
        "HTTP_429_TOO_MANY_REQUESTS",
        "HttpResponseForbidden",
        "NotAuthenticated",
        "PermissionDenied",
        "TOO_MANY_REQUESTS",
        "Throttled",
        "UNAUTHORIZED",
        "aauthenticate",
        "acheck_password",
        "ahas_module_perms",
        "ahas_perm",
        "ahas_perms",
        "authenticate",
        "check_async_object_permissions",
        "check_async_permissions",
        "check_async_throttles",
        "check_password",
        "check_permissions",
        "check_throttles",
        "compare_digest",
        "constant_time_compare",
        "handle_no_permission",
        "has_module_perms",
        "has_object_permission",
        "has_perm",
        "has_permission",
        "has_perms",
        "is_active",
        "is_anonymous",
        "is_authenticated",
        "is_staff",
        "is_superuser",
        "limited",
        "login_required",
        "permission_denied",
        "permission_required",
        "redirect_to_login",
        "staff_member_required",
        "test_func",
        "unsign",
        "user_passes_test",
    }
)
DECIDING_STATUSES = frozenset({401, 403, 429})
IMPORT = opmap["IMPORT_NAME"]
OBJECT_PERMISSIONS = "check_object_permissions"
# What their own code names, it does not decide in a handler: the guards among it are asked before.
FRAMEWORKS = frozenset({"adrf", "django", "rest_framework"}) | {
    module.partition(".")[0] for module in GUARDS | GUARDED_DISPATCH
}


def decides_by_itself(handler: Any, view_class: type | None = None, options: Mapping[str, Any] | None = None) -> str:
    """What of *handler*, a method of *view_class* or a function, decides who may call it; "" if nothing is seen."""
    try:
        return _Reading(handler, view_class, options or {}).result()
    except Exception as error:  # of a module that the handler imports, or of an object that nobody may look at
        return f"what it calls cannot be read: {error}"


@dataclass
class _Reading:
    """The handler of a view, and what it calls, as they are read one after the other."""

    handler: Any
    view_class: type | None
    options: Mapping[str, Any]
    waiting: list[Any] = field(default_factory=list)
    seen: set[Any] = field(default_factory=set)

    @property
    def bases(self) -> tuple[type, ...]:
        """All of them are asked for a method, because `super()` may lead to any."""
        return getattr(self.view_class, "__mro__", ())

    def result(self) -> str:
        """What decides, of all that is reached from the handler; "" if nothing is seen."""
        self.waiting.append(self.handler)
        while self.waiting:
            chain = list(chain_of(_bare(self.waiting.pop())))
            around = map(_decision_around, chain[:-1], chain[1:])
            if found := next(filter(None, around), ""):
                return found
            if chain and (found := self._of_innermost(chain[-1])):
                return found
        return ""

    def _of_innermost(self, function: Any) -> str:
        """What decides in *function*; what it calls waits to be read."""
        if not isinstance(function, FunctionType):
            function = next(
                (vars(base)["__call__"] for base in type(function).__mro__ if "__call__" in vars(base)), None
            )
        if not isinstance(function, FunctionType) or function in self.seen:
            return ""
        self.seen.add(function)
        if (called := view_class_of(function)) is not None:
            return f"it calls the view {called.__name__}"
        names, constants = _names_and_constants(function.__code__)
        if OBJECT_PERMISSIONS in names and _has_object_permissions(self.view_class, self.options):
            return "object permissions"
        members = [vars(base)[name] for name in sorted(names) for base in self.bases if name in vars(base)]
        if _package(function) in FRAMEWORKS:
            self.waiting += [member for member in members if not isinstance(member, type)]
            return ""
        if found := sorted(names & DECIDING) or sorted(map(str, constants & DECIDING_STATUSES)):
            return f"{found[0]} in {function.__qualname__}"
        homes = {_package(function), _package(self.handler), *(_top(base.__module__) for base in self.bases[:1])}
        homes -= FRAMEWORKS
        for value in _flat([*members, *_values(function, names, homes)]):
            if isinstance(value, type):
                if found_class := self._of_class(value, names, homes):
                    return found_class
            elif any(value is member for member in members) or _is_followed(value, homes):
                self.waiting.append(value)
        return ""

    def _of_class(self, cls: type, names: Collection[str], homes: Collection[str]) -> str:
        """What the name of *cls* says; of a class of the project, what is called of it waits to be read."""
        if issubclass(cls, View):
            return "" if cls in self.bases else f"it calls the view {cls.__name__}"
        if issubclass(cls, PermissionDenied) or (
            issubclass(cls, (Exception, HttpResponseBase)) and getattr(cls, "status_code", None) in DECIDING_STATUSES
        ):
            return cls.__name__
        for base in cls.__mro__:
            if _top(base.__module__) in homes:
                called = names if _is_of_data(cls) else ("__init__", "__call__", *names)
                self.waiting += [vars(base)[name] for name in called if name in vars(base)]
        return ""


def _decision_around(layer: Any, inner: Any) -> str:
    """What decides in *layer*, a decorator of something that is called; in doubt, that it is not known."""
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    if guard := next(filter(is_guard, [layer, *method_decorators(layer)]), None):
        return f"{guard_name(guard) if guard is layer else spelt(guard)} around {name}"
    try:
        check_layers([layer])
    except LeftOut:
        return f"{spelt(layer)}, which is not known, around {name}"
    return ""


def _is_of_data(cls: type) -> bool:
    """Is *cls* a serializer, a form or a model? Its `__init__` chooses fields by the caller, and refuses nobody."""
    return any(hasattr(cls, name) for name in ("_declared_fields", "base_fields", "_meta"))


def _bare(value: Any) -> Any:
    """The function of a property, a bound method or the like."""
    if isinstance(value, property):
        return value.fget
    if isinstance(value, (staticmethod, classmethod, MethodType)):
        return value.__func__
    if isinstance(value, (cached_property, django_cached_property, partialmethod)):
        return value.func
    if type(value).__module__ == "functools" and not isinstance(value, partial):  # lru_cache
        return getattr(value, "__wrapped__", value)
    return value


def _is_followed(value: Any, homes: Collection[str]) -> bool:
    """Is *value*, which the code names, or a decorator of it, of the project's own package; or is it behind a guard?"""
    return any(
        _package(layer) in homes or is_guard(layer) or view_class_of(layer) is not None
        for layer in chain_of(_bare(value))
    )


# --- what a name in the code means ---


def _values(function: Any, names: Collection[str], homes: Collection[str]) -> Iterator[Any]:
    """What *names* may mean in *function*: variables that it encloses, globals, and what modules of *homes* have."""
    yield from map(content_of, function.__closure__ or ())
    waiting = [function.__globals__[name] for name in sorted(names) if name in function.__globals__]
    waiting += _imported(function, homes)
    read: list[ModuleType] = []
    while waiting:
        value = waiting.pop()
        if not issubclass(type(value), ModuleType):  # to ask a lazy object for its class would make it
            yield value
        elif _top(value.__name__) in homes and value not in read:
            read.append(value)
            waiting += [vars(value)[name] for name in sorted(names) if name in vars(value)]


def _imported(function: Any, homes: Collection[str]) -> Iterator[ModuleType]:
    """The modules of *homes* that *function* imports when it runs."""
    package = function.__globals__.get("__package__") or ""
    for code in _codes(function.__code__):
        if IMPORT not in code.co_code[::2]:  # most code has none, and to take it apart is slow
            continue
        instructions = list(get_instructions(code))
        for position, instruction in enumerate(instructions):
            if instruction.opname != "IMPORT_NAME":
                continue
            level, members = (each.argval for each in instructions[position - 2 : position])
            name = resolve_name("." * level + instruction.argval, package) if level else instruction.argval
            if _top(name) not in homes:
                continue
            yield import_module(name)
            for member in members or ():
                if member != "*" and not hasattr(sys.modules[name], member):
                    yield import_module(f"{name}.{member}")


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


def _flat(values: Collection[Any]) -> Iterator[Any]:
    """*values*, and what collections among them hold."""
    waiting, seen = list(values), set()
    while waiting:
        value = waiting.pop()
        if issubclass(type(value), LazyObject) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += value
        else:
            yield value


def _package(function: Any) -> str:
    return _top(module_of(function) or type(function).__module__)


def _top(module: str) -> str:
    return module.partition(".")[0]


@lru_cache(maxsize=10_000)  # many views call the same functions
def _names_and_constants(code: CodeType) -> tuple[set[str], set[Any]]:
    names = {*code.co_names, *code.co_freevars}
    constants = {each for each in code.co_consts if isinstance(each, int)}
    for each in code.co_consts:
        if isinstance(each, CodeType):
            inner_names, inner_constants = _names_and_constants(each)
            names = names | inner_names
            constants = constants | inner_constants
    return names, constants


# --- permissions of DRF ---


def _has_object_permissions(view_class: type | None, options: Mapping[str, Any]) -> bool:
    """Does a permission class of *view_class* look at objects? A method that picks them is not asked: it may."""
    for name in ("get_permissions", OBJECT_PERMISSIONS):
        if module_of(getattr(view_class, name, None)) not in DRF_VIEWS:
            return True
    if any(map(_names_permissions, getattr(view_class, "__mro__", ()))):
        return True
    classes = classes_of(options.get("permission_classes", getattr(view_class, "permission_classes", None)))
    return classes is None or any(_looks_at_objects(each) for each in classes)


def _names_permissions(base: type) -> bool:
    """Does a method of *base* name `permission_classes`, which it may set on the object?"""
    innermost = (list(chain_of(_bare(member)))[-1:] for member in tuple(vars(base).values()))
    return _top(base.__module__) not in FRAMEWORKS and any(
        isinstance(function, FunctionType) and "permission_classes" in _names_and_constants(function.__code__)[0]
        for [function] in filter(None, innermost)
    )


def _looks_at_objects(permission: Any) -> bool:
    operands = [getattr(permission, name, None) for name in ("op1_class", "op2_class")]  # of DRF's `A & B`
    if any(operands):
        return any(_looks_at_objects(operand) for operand in operands if operand is not None)
    if module_of(getattr(permission, "has_object_permission", None)) != "rest_framework.permissions":
        return True
    return any(base.__name__ == "DjangoObjectPermissions" for base in getattr(permission, "__mro__", ()))
