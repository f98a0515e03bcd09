"""The callers of a protected view: those who log in or out there, and those whose keys belong to no user."""

from collections.abc import Collection, Iterator
from typing import Any

from django.core.checks import CheckMessage, Warning

from django_idempotency.protection.exemptions import logs_in_or_out
from django_idempotency.protection.introspection import module_of
from django_idempotency.protection.routes import SILENCED, View

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
    """W002, W017, for a DRF view without `scope`. Silent if a method of the view's own chooses its permissions."""
    permissions = _classes(view, "permission")
    authenticators = _classes(view, "authentication")
    if permissions is None:
        return
    if all(_is_of(permission, (DRF_PERMISSIONS,), {"AllowAny"}) for permission in permissions):
        yield Warning(
            f"{view} lets anonymous requests in, and all of them share one scope of idempotency keys.",
            hint="Name the caller with the option `scope`, or give the view a permission class.",
            id="django_idempotency.W002",
        )
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


def _classes(view: View, kind: str) -> list[Any] | None:
    """The classes of *kind*, `permission` or `authentication`; None unless DRF's own method makes objects of them."""
    getter = {"permission": "get_permissions", "authentication": "get_authenticators"}[kind]
    if module_of(getattr(view.view_class, getter, None)) != "rest_framework.views":
        return None
    return list(view.attribute(f"{kind}_classes") or ())


def _finds_user(authenticator: Any) -> bool:
    return _is_of(authenticator, USER_AUTHENTICATORS) and authenticator.__name__ != "BaseAuthentication"


def _bases(cls: Any) -> tuple[Any, ...]:
    return cls.__mro__ if isinstance(cls, type) else (cls,)  # DRF's `A | B` is an object


def _is_of(cls: Any, modules: tuple[str, ...], names: Collection[str] = ()) -> bool:
    return getattr(cls, "__module__", "").startswith(modules) and (not names or getattr(cls, "__name__", "") in names)
