"""Ready-made values for the option `fingerprint`."""

import json as _json
from collections.abc import Callable, Iterable
from typing import Any

from django_idempotency.core.fingerprint import canonical_json, framed, without
from django_idempotency.edges import http
from django_idempotency.exceptions import PolicyError

__all__ = ["json"]


def json(exclude: Iterable[str] = ()) -> Callable[[Any], bytes]:
    """
    A fingerprint that reads the body as JSON, so that spelling (order of members, white space) does not matter, and
    leaves out the members named by *exclude*: dotted paths, like `"sent_at"` or `"meta.attempt"`; lists on the way are
    entered.

    Method, host, path, query, media type and preconditions count as always. A body that is not JSON counts byte for
    byte.

    Raises `PolicyError` where *exclude* is not a sequence of texts.
    """
    names = (None,) if isinstance(exclude, str) else tuple(exclude)
    if not all(isinstance(name, str) and all(name.split(".")) for name in names):
        raise PolicyError(f"fingerprints.json(exclude=…) takes a sequence of member names, not {exclude!r}.")
    paths = [tuple(name.split(".")) for name in names if name is not None]

    def fingerprint(request: Any) -> bytes:
        request = getattr(request, "_request", request)  # DRF's wraps Django's
        try:
            body = b"json" + canonical_json(without(_json.loads(request.body), paths))
        except (ValueError, RecursionError):
            body = b"raw" + request.body
        return framed(*http.meaning(request), body)

    return fingerprint
