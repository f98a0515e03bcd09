"""The callers of a protected view: those who log in or out there, and those whose keys belong to no user."""

from collections.abc import Collection, Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning
from django.views import View as DjangoView

from django_idempotency.protection.exemptions import logs_in_or_out
from django_idempotency.protection.handlers import decides_by_itself
from django_idempotency.protection.introspection import DRF_VIEWS, classes_of, is_guard, is_guarded, module_of
from django_idempotency.protection.middleware_place import middleware_of
from django_idempotency.protection.routes import SILENCED, View
from django_idempotency.protection.views import idempotent
from django_idempotency.protection.wrapping import LeftOut, chain_of, check_layers, method_decorators, view_class_of

CSRF = "django.middleware.csrf.CsrfViewMiddleware"
LOGIN = "django.contrib.auth.middleware.LoginRequiredMiddleware"  # by name: to import it, auth must be installed
DRF_PERMISSIONS = "rest_framework.permissions"
# Permissions that need a user; so do their subclasses.
USER_PERMISSIONS = frozenset({"DjangoModelPermissions", "IsAdminUser", "IsAuthenticated", "IsAuthenticatedOrReadOnly"})
# Modules whose authenticators find a user, whose scope outlives a credential.
USER_AUTHENTICATORS = (
    "allauth.headless.contrib",
    "dj_rest_auth.jwt_auth",
    "knox.auth",
    "rest_framework.authentication",
    "rest_framework_simplejwt.authentication",
)
# Modules whose permissions accept a credential without a user.
CREDENTIAL_PERMISSIONS = ("oauth2_provider.contrib.rest_framework", "rest_framework_api_key.permissions")


def check_login(view: View) -> Iterator[CheckMessage]:
    """W003, by the names of the view and of its route, and by the classes that packages give their login views."""
    if logs_in_or_out(view.name.rpartition(".")[2], view.url_name, view.view_class):
        yield Warning(
            f"{view} seems to log a user in or out: a replay would send the stored answer without its session or"
            " cookies.",
            hint=f'Leave login views unprotected. If this is not one, set {SILENCED} = ["W003"] on the view.',
            id="django_idempotency.W003",
        )


def check_scope(view: View) -> Iterator[CheckMessage]:
    """W002, W017, for a view without `scope`. Silent if a method of a DRF view's own chooses its permissions."""
    if not hasattr(view.view_class, "get_permissions"):
        if _is_for_programs(view) and _is_open(view):
            yield _anonymous(view, "put it behind `login_required`")
        return
    permissions = _classes(view, "permission")
    authenticators = _classes(view, "authentication")
    if permissions is None:
        return
    if all(_is_of(permission, (DRF_PERMISSIONS,), {"AllowAny"}) for permission in permissions):
        yield _anonymous(view, "give the view a permission class")
        return
    if any(_is_of(base, (DRF_PERMISSIONS,), USER_PERMISSIONS) for each in permissions for base in _bases(each)):
        return
    renewable = [
        *(each for each in authenticators or () if not any(_finds_user(base) for base in _bases(each))),
        *(each for each in permissions if _is_of(each, CREDENTIAL_PERMISSIONS)),
    ]
    if renewable:
        names = ", ".join(sorted(getattr(each, "__name__", repr(each)) for each in renewable))
        yield Warning(
            f"{view} accepts callers without a user ({names}): their idempotency keys belong to the credential that"
            " they send, and a retry with a renewed one is executed again.",
            hint="Name the holder of the credential with the option `scope`, or add a permission like IsAuthenticated."
            f' If credentials are never renewed, set {SILENCED} = ["W017"] on the view.',
            id="django_idempotency.W017",
        )


def _anonymous(view: View, remedy: str) -> CheckMessage:
    return Warning(
        f"{view} lets anonymous requests in, and all of them share one scope of idempotency keys.",
        hint=f"Name the caller with the option `scope`, or {remedy}.",
        id="django_idempotency.W002",
    )


def _is_for_programs(view: View) -> bool:
    """Whether a plain *view* takes requests without a CSRF token. A form has one, and a key that cannot be guessed."""
    return bool(getattr(view.callback, "csrf_exempt", False)) or not _is_installed(CSRF)


def _is_open(view: View) -> bool:
    """Whether nothing asks who calls a plain *view*: no guard, and nothing that is not known and may be one."""
    if _is_installed(LOGIN) and getattr(view.callback, "login_required", True):
        return False
    view_class = view.view_class
    if view_class is not None and (
        is_guarded(view_class) or module_of(getattr(view_class, "dispatch", None)) != DjangoView.__module__
    ):
        return False
    chains = [
        list(chain_of(each)) for each in (view.callback, *(handler.function for handler in view.handlers)) if each
    ]
    for *around, innermost in chains:
        if any(map(is_guard, around)):
            return False
        try:
            check_layers([layer for layer in around if not _is_ours(layer)])
        except LeftOut:
            return False
        if view_class_of(innermost) is None and decides_by_itself(innermost, view_class, view.options):
            return False
    return True


def _is_ours(layer: Any) -> bool:
    """Whether *layer* is `@idempotent`, or a `method_decorator` of it alone."""
    return all(module_of(each) == idempotent.__module__ for each in method_decorators(layer) or [layer])


def _is_installed(name: str) -> bool:
    """Whether MIDDLEWARE has the class *name*, or one that extends it."""
    return any(
        f"{base.__module__}.{base.__qualname__}" == name
        for each in middleware_of(settings.MIDDLEWARE or ())
        for base in getattr(each, "__mro__", ())
    )


def _classes(view: View, kind: str) -> list[Any] | None:
    """The classes of *kind*, `permission` or `authentication`; None if its code chooses them."""
    getter = {"permission": "get_permissions", "authentication": "get_authenticators"}[kind]
    if module_of(getattr(view.view_class, getter, None)) not in DRF_VIEWS:
        return None
    return classes_of(view.attribute(f"{kind}_classes"))


def _finds_user(authenticator: Any) -> bool:
    return _is_of(authenticator, USER_AUTHENTICATORS) and authenticator.__name__ != "BaseAuthentication"


def _bases(cls: Any) -> tuple[Any, ...]:
    return cls.__mro__ if isinstance(cls, type) else (cls,)  # DRF's `A | B` is an object


def _is_of(cls: Any, modules: tuple[str, ...], names: Collection[str] = ()) -> bool:
    return getattr(cls, "__module__", "").startswith(modules) and (not names or getattr(cls, "__name__", "") in names)
