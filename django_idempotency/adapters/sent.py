"""The request of a run in phases as it was sent, so that it can be sent again if its client does not come back."""

import json
import sys
from base64 import b64decode, b64encode
from collections.abc import Mapping
from io import BytesIO
from types import ModuleType
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.core.handlers.wsgi import WSGIRequest
from django.http.request import RawPostDataException
from django.utils import timezone, translation

from django_idempotency.adapters.body import whole_body
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.exceptions import PolicyError
from django_idempotency.stores.schemas import schema_of, tenant_database

# What the view may read, and what the fingerprint is made of. Credentials are not stored: the request is sent again as
# the same user.
HEADERS = (
    "ACCEPT",
    "ACCEPT_LANGUAGE",
    "IF_MATCH",
    "IF_UNMODIFIED_SINCE",
    "PREFER",
    "X_REQUEST_ID",
)


def encode_request(request: Any, policy: ResolvedPolicy) -> bytes:
    """
    Encode method, URL, headers, body and user of *request*, Django's or DRF's, as JSON, after the option
    `store_request` has changed them. Returns b"" if it returns None, and if the body is gone or larger than the option
    `max_body`, because such a request cannot be sent again.

    Raises `PolicyError` if the option returns anything else than a dict that is JSON.
    """
    django_request = getattr(request, "_request", request)
    try:
        body = whole_body(django_request)
    except (RawPostDataException, RequestDataTooBig):
        return b""
    urlconf = getattr(django_request, "urlconf", None)
    if isinstance(urlconf, ModuleType):
        urlconf = urlconf.__name__
    if len(body) > policy.max_body or not isinstance(urlconf, str | None):
        return b""
    meta = django_request.META
    names = [f"HTTP_{name}" for name in HEADERS] + ["CONTENT_TYPE", policy.meta_name]
    headers = {name: meta[name] for name in names if name in meta}
    user: Any = getattr(request, "user", None)
    known = getattr(user, "is_authenticated", False)
    sent = {
        "method": django_request.method,
        "script": meta.get("SCRIPT_NAME", ""),
        "path": django_request.path_info,
        "query": meta.get("QUERY_STRING", ""),
        "scheme": django_request.scheme,
        "headers": headers | {"HTTP_HOST": django_request.get_host()},
        "body": b64encode(body).decode(),
        "user": str(getattr(user, "pk", "")) if known else None,
        "user_model": user._meta.label if known and hasattr(user, "_meta") else None,
        # What the project's middleware has chosen for this request, because the view is called without it.
        "urlconf": urlconf,
        "schema": schema_of(tenant_database()),
        "language": translation.get_language(),
        "time_zone": timezone.get_current_timezone_name(),
    }
    kept = policy.store_request(request, sent) if callable(policy.store_request) else sent
    if kept is None:
        return b""
    try:
        if not isinstance(kept, dict):
            raise TypeError(f"it is a {type(kept).__name__}")
        return json.dumps(kept, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise PolicyError(
            f"The option 'store_request' must return a dict that is JSON, or None for a request that is not to be"
            f" stored: {error}."
        ) from error


def decode_request(stored: bytes) -> dict[str, Any]:
    """What `encode_request` has stored. Raises `ValueError` if it was changed since."""
    sent = json.loads(stored)
    if not isinstance(sent, dict):
        raise ValueError("it is no object")
    return sent


def request_again(sent: Mapping[str, Any]) -> WSGIRequest:
    """
    The request that was *sent*, without user, session and credentials. Raises `LookupError`, `TypeError` or
    `ValueError` if it is not complete.
    """
    body = b64decode(sent["body"], validate=True)
    host = str(sent["headers"].get("HTTP_HOST", ""))
    secure = sent["scheme"] == "https"
    name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    is_name_alone = not name or not port.isdecimal()
    environ = {
        "REQUEST_METHOD": str(sent["method"]),
        "SCRIPT_NAME": _as_wsgi(sent["script"]),
        "PATH_INFO": _as_wsgi(sent["path"]),
        "QUERY_STRING": str(sent["query"]),
        "CONTENT_LENGTH": str(len(body)),
        "SERVER_NAME": host if is_name_alone else name,
        "SERVER_PORT": ("443" if secure else "80") if is_name_alone else port,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": str(sent["scheme"]),
        "wsgi.input": BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        **sent["headers"],
    }
    request = WSGIRequest(environ)
    if sent["urlconf"] is not None:
        request.urlconf = sent["urlconf"]
    return request


def _as_wsgi(path: str) -> str:
    """*path* as WSGI has it: the bytes of its UTF-8, each as a character (PEP 3333)."""
    return path.encode().decode("latin-1")
