"""The request of a run in phases as it was sent, so that it can be sent again if its client does not come back."""

import json
from base64 import b64encode
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.http.request import RawPostDataException

from django_idempotency.adapters.body import whole_body
from django_idempotency.core.policy import ResolvedPolicy

# What the view may read, and what the fingerprint is made of. Credentials are not stored: the request is sent again as
# the same user.
HEADERS = (
    "ACCEPT",
    "ACCEPT_LANGUAGE",
    "HOST",
    "IF_MATCH",
    "IF_UNMODIFIED_SINCE",
    "PREFER",
    "X_REQUEST_ID",
)


def encode_request(request: Any, policy: ResolvedPolicy) -> bytes:
    """
    Encode method, URL, headers, body and user of *request*, Django's or DRF's, as JSON. Returns b"" if the body is gone
    or larger than the option `max_body`.
    """
    django_request = getattr(request, "_request", request)
    try:
        body = whole_body(django_request)
    except (RawPostDataException, RequestDataTooBig):
        return b""
    if len(body) > policy.max_body:
        return b""
    meta = django_request.META
    names = [f"HTTP_{name}" for name in HEADERS] + ["CONTENT_TYPE", policy.meta_name]
    user: Any = getattr(request, "user", None)
    known = user is not None and user.is_authenticated
    sent = {
        "method": django_request.method,
        "path": django_request.path,
        "query": meta.get("QUERY_STRING", ""),
        "scheme": django_request.scheme,
        "headers": {name: meta[name] for name in names if name in meta},
        "body": b64encode(body).decode(),
        "user": str(user.pk) if known else None,
        "user_model": user._meta.label if known and hasattr(user, "_meta") else None,
    }
    return json.dumps(sent).encode()
