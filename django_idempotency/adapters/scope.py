"""The scope of a request if the option `scope` is not set."""

from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from typing import Any

from django.db.models import Model

from django_idempotency.core.fingerprint import digest
from django_idempotency.core.keys import MAX_STRING, UNSTORABLE
from django_idempotency.exceptions import PolicyError

ANONYMOUS = "anonymous"  # the scope of every request without a credential
CREDENTIALS = ("HTTP_AUTHORIZATION", "HTTP_X_API_KEY")
REMEDY = " Set the option `scope` to a callable that names the caller."


def default_scope(request: Any) -> str:
    """
    Name the caller: the authenticated user as `<app.model>:<pk>`; else the credential that was sent (`request.auth`,
    `Authorization`, `X-Api-Key`), a model instance by its primary key, anything else as a digest; else `ANONYMOUS`.

    Raises `PolicyError` for a user without a primary key, and for a credential that may look like another one.
    """
    user = getattr(request, "user", None)
    if user is not None:
        is_authenticated = getattr(user, "is_authenticated", None)
        if is_authenticated is None or (is_authenticated and getattr(user, "pk", None) is None):
            lacks = "`is_authenticated`" if is_authenticated is None else "primary key"
            raise PolicyError(
                f"The user of this request, a {user.__class__.__name__}, has no {lacks}, so its idempotency keys cannot"
                f" be told from others'.{REMEDY}"
            )
        if is_authenticated:
            return default_scope_of(user)
    auth = getattr(request, "auth", None)
    if isinstance(auth, Model) and auth.pk is not None:
        return f"credential:{default_scope_of(auth)}"
    sent = [request.META.get(name, "") for name in CREDENTIALS]
    if auth is not None and not any(sent) and not isinstance(auth, (str, bytes, Mapping)):
        # Its string need not be unique: two keys may have one name, or the string is an address in memory.
        raise PolicyError(
            f"This request's credential, a {type(auth).__name__}, cannot be told from others by its string.{REMEDY}"
        )
    if auth is None and not any(sent):
        return ANONYMOUS
    parts = (_format_credential(auth), *sent)
    return f"credential:{digest(b'credential', *(part.encode(errors='surrogatepass') for part in parts)).hex()}"


def default_scope_of(owner: Any) -> str:
    """The scope of *owner*, a user or a credential with a primary key."""
    # `__class__`, because the user of Django's middleware is a lazy object around the real one.
    kind = _kind(owner.__class__)
    scope = f"{kind}:{owner.pk}"
    if len(scope) > MAX_STRING or UNSTORABLE.search(scope):
        return f"{kind[:100]}:sha256:{sha256(scope.encode(errors='surrogatepass')).hexdigest()}"
    return scope


@cache
def _kind(owner: type) -> str:
    """The name of the table's model, even if the row was loaded as a proxy or as a child that shares its key."""
    if not issubclass(owner, Model):
        return f"{owner.__module__}.{owner.__qualname__}".lower()
    model: Any = owner._meta.concrete_model
    while getattr(model._meta.pk.remote_field, "parent_link", False):
        model = model._meta.pk.remote_field.model._meta.concrete_model
    return str(model._meta.label_lower)


def _format_credential(auth: object) -> str:
    """Return *auth* as a string; "" if it has only `object`'s, which contains another address at each retry."""
    if auth is None or (type(auth).__str__ is object.__str__ and type(auth).__repr__ is object.__repr__):
        return ""
    return str(auth)
