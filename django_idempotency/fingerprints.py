"""Ready-made values for the option `fingerprint`."""

import json as _json
from collections.abc import Callable, Iterable
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, QueryDict
from django.http.request import RawPostDataException

from django_idempotency.adapters import plain
from django_idempotency.adapters.body import MULTIPART, body_digest
from django_idempotency.core.fingerprint import canonical_json, framed, without
from django_idempotency.exceptions import PolicyError

__all__ = ["json"]


def json(exclude: Iterable[str] = ()) -> Callable[[Any], bytes]:
    """
    A fingerprint that reads the body as JSON, so that spelling (order of members, white space) does not matter, and
    leaves out the members named by *exclude*: dotted paths, like `"sent_at"` or `"meta.attempt"`; lists on the way are
    entered.

    Method, host, path, query, media type and preconditions count as always. So does a body that is not JSON.

    Raises `PolicyError` where *exclude* is not a sequence of texts.
    """
    names = (None,) if isinstance(exclude, str) else tuple(exclude)
    if not all(isinstance(name, str) and all(name.split(".")) for name in names):
        raise PolicyError(f"fingerprints.json(exclude=…) takes a sequence of member names, not {exclude!r}.")
    paths = [tuple(name.split(".")) for name in names if name is not None]

    def fingerprint(request: Any) -> bytes:
        django_request = getattr(request, "_request", request)  # DRF's wraps Django's
        meaning = plain.meaning(django_request, django_request.get_host().lower())
        return framed(*meaning, _members(request, django_request, paths))

    return fingerprint


def _members(seen: Any, request: HttpRequest, paths: list[tuple[str, ...]]) -> bytes:
    if request.content_type != MULTIPART:
        try:
            return b"json" + canonical_json(without(_json.loads(request.body), paths))
        except RawPostDataException:
            data = getattr(seen, "data", None)  # DRF before 3.17 keeps no bytes of what it has parsed
            if isinstance(data, (dict, list)) and not isinstance(data, QueryDict):
                return b"json" + canonical_json(without(data, paths))
        except (ValueError, RecursionError, RequestDataTooBig):
            pass  # no JSON, or more of it than `request.body` takes
    return b"raw" + body_digest(request, lambda: _parsed(getattr(seen, "data", None)))


def _parsed(data: Any) -> bytes | None:
    return canonical_json(list(data.lists())) if isinstance(data, QueryDict) else None
