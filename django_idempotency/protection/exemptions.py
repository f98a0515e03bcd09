"""What the middleware leaves out: what a project marks, and logins, passwords and the admin unless they are named."""

import re
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import Any, TypeVar

from django.contrib.admindocs.utils import (
    remove_non_capturing_groups,
    replace_metacharacters,
    replace_named_groups,
    replace_unnamed_groups,
)

from django_idempotency.protection.introspection import enclosed, module_of

View = TypeVar("View", bound=Callable[..., Any])

EXEMPT = "idempotency_exempt"  # the attribute of a view that was left out by the decorator

# By the package that they are from, the views that change the session, set cookies or hand out tokens: registrations
# that log in are among them, views that send an e-mail or edit an account are not.
LOGIN_VIEWS = {
    "allauth": r"\w*(Login|Logout|Signup)\w*|Session\w*|Confirm(Email|Reauth)\w*|(Reauth|Authenticate(?!d))\w*"
    r"|Password(Change|Set|ResetFromKey)View|(Verify(Email|Phone)|(Change|Reset)Password|ProviderToken)View",
    "dj_rest_auth": r"(Login|Logout|Register|SocialLogin|PasswordChange)View",
    "django": r"(Login|Logout|PasswordChange|PasswordResetConfirm)View",
    "djoser": r"Token(Create|Destroy)View",
    "knox": r"Log(in|out|outAll)View",
    "oauth2_provider": r"(Token|RevokeToken|Authorization|RPInitiatedLogout)View",
    "rest_framework": r"ObtainAuthToken",
    "rest_framework_simplejwt": r"Token(Obtain|Refresh|Blacklist)\w*View",
    "two_factor": r"LoginView",
}
LOGIN_NAME = re.compile(r"(?<![a-z])(log_?in|log_?out|sign_?in|sign_?out|obtain_\w*token)(?![a-z])")
PASSWORD_NAME = re.compile(r"password")
ADMIN = "django.contrib.admin"
ADMIN_DECORATORS = "django.contrib.admin.views.decorators"  # for views outside of the admin
LANGUAGE = "django.views.i18n"  # whose view for POST keeps the language in a cookie


def idempotency_exempt(view: View) -> View:
    """
    Leave *view* out of what `IdempotencyMiddleware` protects: a function, a method or a whole class.

    It may stand anywhere among the decorators of a view. Another decorator that does not use `functools.wraps` hides
    it, and what was decorated with `@idempotent` itself stays protected.
    """
    setattr(view, EXEMPT, True)
    return view


def is_exempt(layers: Iterable[Any]) -> bool:
    """Is one of *layers*, functions or classes, marked with `@idempotency_exempt`?"""
    return any(getattr(layer, EXEMPT, False) is True for layer in layers)


def logs_in_or_out(name: str, url_name: str, view_class: type | None) -> bool:
    """By the *name* of a view, that of its route, and the classes that packages give their login views."""
    return bool(LOGIN_NAME.search(_words(name, url_name))) or any(
        _is_login_view(base) for base in getattr(view_class, "__mro__", ())
    )


def sensitive(name: str, url_name: str, view_class: type | None, layers: Iterable[Any]) -> str:
    """Why a view is left out unless `PROTECT` names its route; "" if it is not."""
    # Closures too: `admin_view` hides its own layers behind the name of what it wraps.
    modules = [module_of(function) or "" for function in _enclosing(layers)]
    if any(module.startswith(ADMIN) and module != ADMIN_DECORATORS for module in modules) or getattr(
        view_class, "__module__", ""
    ).startswith(ADMIN):
        return "it belongs to the admin"
    if logs_in_or_out(name, url_name, view_class):
        return "it seems to log somebody in or out"
    if PASSWORD_NAME.search(_words(name, url_name)):
        return "it seems to set or reset a password"
    if LANGUAGE in modules:
        return "it sets a cookie"
    return ""


def _enclosing(layers: Iterable[Any]) -> Iterator[Any]:
    """*layers*, and the functions in their closures."""
    waiting, seen = list(layers), set()
    while waiting:
        layer = waiting.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        yield layer
        if isinstance(layer, FunctionType):
            names = layer.__code__.co_freevars
            waiting += [value for name in names if isinstance(value := enclosed(layer, name), FunctionType)]


def _words(*names: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", " ".join(names)).lower().replace("-", "_")


def _is_login_view(base: type) -> bool:
    names = LOGIN_VIEWS.get(base.__module__.partition(".")[0])
    return names is not None and re.fullmatch(names, base.__name__) is not None


# --- route patterns ---


def readable(route: str) -> str:
    """*route* as a person writes it: `api/^payments/(?P<pk>[^/.]+)/$` is `api/payments/<pk>/`."""
    for simplify in (
        remove_non_capturing_groups,
        replace_named_groups,
        replace_unnamed_groups,
        replace_metacharacters,
    ):
        if "(" not in route and not set("^$?") & set(route) and "\\" not in route:
            break
        route = simplify(route)
    return route.lstrip("/")


def matches(pattern: str, route: str) -> bool:
    """
    Does *pattern* mean *route*? `*` stands for any characters, slashes included; all else is compared as the URLconf
    spells it, or as `readable` does.
    """
    expression = ".*".join(map(re.escape, _joined(pattern).split("*")))
    return any(re.fullmatch(expression, spelling, re.DOTALL) for spelling in (_joined(route), readable(route)))


def _joined(route: str) -> str:
    """*route* without the marks of beginnings inside it, which Django leaves out of the route of a request."""
    return re.sub(r"(^|/)\^", r"\1", route.lstrip("/"))


def names(pattern: str, route: str) -> bool:
    """Does *pattern* mean *route* and no other?"""
    return "*" not in pattern and matches(pattern, route)
