"""What the value of an option may be: each function returns it in its normal form, or raises `PolicyError`."""

import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from django_idempotency.core.keys import key_format
from django_idempotency.exceptions import PolicyError

SHORTEST_LEASE = timedelta(milliseconds=100)
LONGEST = timedelta(days=3660)  # ten years: beyond that, a duration is a typing error and may overflow a calendar

_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_DOTTED_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_URL = re.compile(r"(https?://|/)[!#-;=?-~]*")  # what may stand between < and > in a Link header


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise PolicyError("must be True or False")
    return value


def one_of(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise PolicyError("must be " + " or ".join(f'"{choice}"' for choice in choices))
        return str(value)

    return check


def mode(value: Any) -> str:
    if value in ("phased", "observe"):
        raise PolicyError(f'must be "atomic": "{value}" is not available in this version')
    return one_of("atomic")(value)


def methods(value: Any) -> frozenset[str]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise PolicyError('must be a sequence of HTTP methods, like ("POST", "PATCH")')
    names = frozenset(value)
    if not names or not all(isinstance(name, str) and _FIELD_NAME.fullmatch(name) for name in names):
        raise PolicyError('must name at least one HTTP method, like ("POST", "PATCH")')
    names = frozenset(name.upper() for name in names)
    if safe := names & {"GET", "HEAD", "OPTIONS", "TRACE"}:
        raise PolicyError(f"names {min(safe)}, which is safe by definition and never needs a key (RFC 9110, 9.2.1)")
    return names


def duration(value: Any) -> timedelta:
    if not isinstance(value, timedelta):
        raise PolicyError("must be a datetime.timedelta")
    if not timedelta(0) < value <= LONGEST:
        raise PolicyError("must be longer than zero and at most ten years")
    return value


def lease(value: Any) -> timedelta:
    if duration(value) < SHORTEST_LEASE:
        raise PolicyError("must be at least a tenth of a second, because a lease is renewed after a third of its time")
    return duration(value)


def string(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise PolicyError("must be a non-empty string")
    return value


def string_or_callable(value: Any) -> Any:
    if not callable(value) and not (isinstance(value, str) and value):
        raise PolicyError("must be a non-empty string or a callable")
    return value


def callable_or_path(value: Any) -> Any:
    if not callable(value) and not (isinstance(value, str) and _DOTTED_PATH.fullmatch(value)):
        raise PolicyError("must be a callable, or the dotted path of one")
    return value


def key_pattern(value: Any) -> Any:
    if not callable(value) and not isinstance(value, (str, re.Pattern)):
        raise PolicyError('must be "uuid", a regular expression or a callable')
    try:
        key_format(value)
    except re.error as error:
        raise PolicyError(f"is not a regular expression: {error}") from error
    return value


def url(value: Any) -> str:
    if not isinstance(value, str) or not _URL.fullmatch(value):
        raise PolicyError("must be an http(s) URL or an absolute path, percent-encoded")
    return value


def field_name(value: Any) -> str:
    if not isinstance(value, str) or not _FIELD_NAME.fullmatch(value):
        raise PolicyError("must be the name of an HTTP header")
    return value


def byte_count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PolicyError("must be a number of bytes, at least 1")
    return value
