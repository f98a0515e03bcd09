"""Ready-made values for the option `fingerprint`."""

from collections.abc import Callable, Iterable
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, QueryDict
from django.http.request import RawPostDataException

from django_idempotency.adapters import attempts
from django_idempotency.adapters.body import MULTIPART, body_digest, form_as_json, whole_body
from django_idempotency.core.fingerprint import canonical_json, framed, parse_json, without
from django_idempotency.exceptions import PolicyError

__all__ = ["json"]


def json(exclude: Iterable[str] = (), *, body_only: bool = False) -> Callable[[Any], bytes]:
    """
    Make a fingerprint that compares bodies as JSON: the order of members, white space and the notation of numbers (1,
    1.0, 1e0) make no difference (RFC 8785).

    *exclude* lists dotted paths of members to leave out, like `"sent_at"` or `"meta.attempt"`, which also reach into
    lists. Everything else is compared as by default, and so is a body that is not JSON (NaN and Infinity are not) or
    that has a number which no double holds exactly.

    With *body_only* the body is compared, and the host, and no other part of the request.

    Raises `PolicyError` if *exclude* is not a sequence of strings.
    """
    names = (None,) if isinstance(exclude, str) else tuple(exclude)
    if not all(isinstance(name, str) and all(name.split(".")) for name in names):
        raise PolicyError(f"fingerprints.json(exclude=…) takes a sequence of member names, not {exclude!r}.")
    paths = [tuple(name.split(".")) for name in names if name is not None]

    def fingerprint(request: Any) -> bytes:
        django_request = getattr(request, "_request", request)  # DRF's wraps Django's
        meaning = [attempts.host_name(django_request).encode()] if body_only else attempts.meaning(django_request)
        return framed(*meaning, _members(request, django_request, paths))

    setattr(fingerprint, attempts.COMPARES_URL, not body_only)
    return fingerprint


def _members(seen: Any, request: HttpRequest, paths: list[tuple[str, ...]]) -> bytes:
    if request.content_type != MULTIPART:
        try:
            return b"json" + canonical_json(without(parse_json(whole_body(request)), paths))
        except RawPostDataException:
            data = _data(seen)
            if isinstance(data, (dict, list)) and not isinstance(data, QueryDict):
                return b"json" + canonical_json(without(parse_json(canonical_json(data)), paths))
        except (ValueError, RecursionError, RequestDataTooBig):
            pass  # not JSON, or larger than `request.body` allows
    return b"raw" + body_digest(request, lambda: _parsed(_data(seen)))


def _data(seen: Any) -> Any:
    """What a parser of DRF's has made of a body whose bytes are gone, or None where only its bytes were read."""
    try:
        return getattr(seen, "data", None)
    except RawPostDataException:
        return None


def _parsed(data: Any) -> bytes | None:
    return form_as_json(data) if isinstance(data, QueryDict) else None
