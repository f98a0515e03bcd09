"""
Ready-made values for the option `moved_from`: what other packages knew a request by.

`manage.py idempotency_import` copies their records. With the option, a retry of a request that such a package has
answered is compared as that package did, by its own digests, and gets the imported answer.
"""

import json
import re
import uuid
from collections.abc import Callable
from functools import wraps
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, urlencode

from django.core.exceptions import RequestDataTooBig
from django.http.request import RawPostDataException

from django_idempotency.adapters.body import URLENCODED, whole_body
from django_idempotency.adapters.scope import default_scope
from django_idempotency.core.fingerprint import canonical_json
from django_idempotency.core.keys import MAX_KEY
from django_idempotency.core.moved import Moved

__all__ = [
    "Moved",
    "django_idempotency_key",
    "djangorestframework_idempotency_key",
    "drf_idempotency",
    "drf_idempotencykey",
    "idemkit",
]

UNSCOPED = "_idemkit_anonymous"  # idemkit's scope of every request if none is configured


def _from_body(recipe: Callable[..., Moved | None]) -> Callable[..., Moved | None]:
    """Give *recipe* Django's own request and its whole body. A body that Django would refuse had no record."""

    @wraps(recipe)
    def moved_from(request: Any, key: str, *args: str, **options: str) -> Moved | None:
        django_request = getattr(request, "_request", request)  # DRF's wraps Django's
        try:
            body = whole_body(django_request)
        except (RawPostDataException, RequestDataTooBig):
            return None
        found = recipe(request, key, django_request, body, *args, **options)
        return found if found is not None and 1 <= len(found.name) <= MAX_KEY else None

    del moved_from.__wrapped__  # its signature is this one's
    return moved_from


@_from_body
def drf_idempotency(seen: Any, key: str, request: Any, body: bytes) -> Moved:
    """drf-idempotency 1.0: the key, and a SHA-256 of method, path and body."""
    parts = (request.method.encode(), request.path.encode(), body)
    return Moved(package="drf-idempotency", name=key, fingerprint=sha256(b"\n".join(parts)).hexdigest().encode())


@_from_body
def drf_idempotencykey(seen: Any, key: str, request: Any, body: bytes) -> Moved | None:
    """drf-idempotencykey 0.2: the user and the key, a UUID; and a SHA-256 of method, path with query, and body."""
    name, user = _uuid(key), getattr(seen, "user", None)
    if name is None or not getattr(user, "is_authenticated", False):
        return None
    compared = sha256(request.method.encode() + request.get_full_path().encode() + body).digest()
    return Moved(package="drf-idempotencykey", name=name, fingerprint=compared, scope=default_scope(seen))


@_from_body
def djangorestframework_idempotency_key(seen: Any, key: str, request: Any, body: bytes) -> Moved | None:
    """djangorestframework-idempotency-key 1.0: the key, a UUID; and a SHA-256 of method, path and body."""
    name = _uuid(key)
    if name is None:
        return None
    compared = sha256(request.method.encode() + request.path_info.encode() + body).digest()
    return Moved(package="djangorestframework-idempotency-key", name=name, fingerprint=compared)


@_from_body
def django_idempotency_key(seen: Any, key: str, request: Any, body: bytes) -> Moved:
    """
    django-idempotency-key 1.3, with its own encoder: one SHA-256 of key, path, method, body and `Authorization`.
    Another body is another key, as it is for that package.
    """
    parts = (key, request.path_info, request.method, request.META.get("HTTP_AUTHORIZATION", ""))
    key_, path, method, authorization = (part.encode() for part in parts)
    return Moved(package="django-idempotency-key", name=sha256(key_ + path + method + body + authorization).hexdigest())


@_from_body
def idemkit(seen: Any, key: str, request: Any, body: bytes, scope: str = UNSCOPED) -> Moved:
    """
    idemkit 1.0: a SHA-256 of key, scope, method and path, and another one of method, path, query and body.

    Without the argument *scope*, for a project that has not set idemkit's own option `scope`. Otherwise call it from
    a callable of your own with what that option returned, like `str(request.user.pk)`.
    """
    method, path = request.method.upper().encode(), _canonical_path(request.path)
    query = urlencode(sorted(parse_qsl(request.META.get("QUERY_STRING", ""), keep_blank_values=True)))
    return Moved(
        package="idemkit",
        name=_framed(_unquoted(key).encode(), scope.encode(), method, path),
        fingerprint=_framed(method, path, query.encode(), _canonical_body(body, request.content_type)).encode(),
    )


def _uuid(key: str) -> str | None:
    try:
        return str(uuid.UUID(key))
    except ValueError:
        return None


def _unquoted(key: str) -> str:
    """The key as idemkit reads the header: a quoted string without its quotes, anything else as it is."""
    stripped = key.strip()
    if len(stripped) < 2 or not (stripped[0] == stripped[-1] == '"'):
        return key
    return re.sub(r"\\(.)", r"\1", stripped[1:-1])


def _framed(*parts: bytes) -> str:
    return sha256(b"".join(len(part).to_bytes(4) + part for part in parts)).hexdigest()


def _canonical_path(path: str) -> bytes:
    path = re.sub("//+", "/", path)
    path = path.removesuffix("/") if len(path) > 1 else path
    return re.sub(rb"%[0-9a-fA-F]{2}", lambda escape: escape[0].upper(), path.encode())


def _canonical_body(body: bytes, content_type: str | None) -> bytes:
    try:
        if content_type == "application/json" and body:
            return canonical_json(json.loads(body))
        if content_type == URLENCODED and body:
            return urlencode(sorted(parse_qsl(body.decode(), keep_blank_values=True))).encode()
    except (RecursionError, ValueError):
        pass  # idemkit takes it as it is, too
    return body
