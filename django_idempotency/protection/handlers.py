"""
Does a handler itself decide who may call it? A replay does not run the handler, and would not ask it.

Read are the names and constants in the compiled code of the handler, of the methods of its class that it calls, and of
the functions of its own package that it calls: not what is further away (services, serializers, managers).
"""

import inspect
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

from django_idempotency.protection.introspection import module_of

# Names that code uses to find out who is calling, or to refuse them.
DECIDING = frozenset(
    {
        "AuthenticationFailed",
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
        "check_permissions",
        "check_throttles",
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
        "permission_denied",
        "redirect_to_login",
        "test_func",
        "user_passes_test",
    }
)
DECIDING_STATUSES = frozenset({401, 403, 429})
OBJECT_PERMISSIONS = "check_object_permissions"
FRAMEWORKS = frozenset({"django", "rest_framework"})  # what their own code names, it does not decide in a handler


def decides_by_itself(handler: Any, view_class: type | None = None, options: Mapping[str, Any] | None = None) -> str:
    """What of *handler*, a method of *view_class* or a function, decides who may call it; "" if nothing is seen."""
    for function in _reached(handler, view_class):
        names, constants = _names_and_constants(function.__code__)
        if OBJECT_PERMISSIONS in names and _has_object_permissions(view_class, options or {}):
            return "object permissions"
        if (module_of(function) or "").partition(".")[0] in FRAMEWORKS:
            continue
        if found := sorted(names & DECIDING) or sorted(map(str, constants & DECIDING_STATUSES)):
            return f"{found[0]} in {function.__qualname__}"
    return ""


def _reached(handler: Any, view_class: type | None) -> Iterator[Any]:
    """*handler* and what it calls: methods of *view_class*, and functions of the same package."""
    waiting, seen = [handler], set()
    while waiting:
        function = inspect.unwrap(waiting.pop())
        if not isinstance(function, FunctionType) or function in seen:
            continue
        seen.add(function)
        yield function
        package = (module_of(function) or "").partition(".")[0]
        for name in sorted(_names_and_constants(function.__code__)[0]):
            called = function.__globals__.get(name)
            if isinstance(called, FunctionType) and (module_of(called) or "").partition(".")[0] == package:
                waiting.append(called)
            if view_class is None:
                continue
            for base in view_class.__mro__:  # all of them, because `super()` may lead to any
                member = vars(base).get(name)
                member = getattr(member, "fget", None) or getattr(member, "__func__", member)
                waiting.append(member)


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


def _has_object_permissions(view_class: type | None, options: Mapping[str, Any]) -> bool:
    """Does a permission class of *view_class* look at objects? A method that picks them is not asked: it may."""
    for name in ("get_permissions", OBJECT_PERMISSIONS):
        if module_of(getattr(view_class, name, None)) != "rest_framework.views":
            return True
    classes = options.get("permission_classes", getattr(view_class, "permission_classes", None)) or ()
    return any(_looks_at_objects(each) for each in classes)


def _looks_at_objects(permission: Any) -> bool:
    operands = [getattr(permission, name, None) for name in ("op1_class", "op2_class")]  # of DRF's `A & B`
    if any(operands):
        return any(_looks_at_objects(operand) for operand in operands if operand is not None)
    if module_of(getattr(permission, "has_object_permission", None)) != "rest_framework.permissions":
        return True
    return any(base.__name__ == "DjangoObjectPermissions" for base in getattr(permission, "__mro__", ()))
