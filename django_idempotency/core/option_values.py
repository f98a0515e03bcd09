"""The values that an option takes: each function returns a value in its normal form, or raises `PolicyError`."""

import inspect
import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from math import ceil
from typing import Any

from django_idempotency.core.keys import MAX_STRING, key_format
from django_idempotency.exceptions import PolicyError

SHORTEST_LEASE = timedelta(milliseconds=100)
LONGEST = timedelta(days=3660)  # ten years; a longer one is a typing error, and may overflow a calendar

_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_DOTTED_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_URL = re.compile(r"(https?://|/)[!#-;=?-~]*")  # the characters that may stand between < and > in a Link header


def _check(expected: str, accepts: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """Make a check that returns a value which it *accepts*, and otherwise says what was *expected*."""

    def check(value: Any) -> Any:
        if not accepts(value):
            raise PolicyError(f"must be {expected}")
        return value

    return check


def _matches(value: Any, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def one_of(*choices: str) -> Callable[[Any], Any]:
    return _check(" or ".join(f'"{choice}"' for choice in choices), lambda value: value in choices)


boolean = _check("True or False", lambda value: isinstance(value, bool))
string = _check("a non-empty string", lambda value: isinstance(value, str) and value != "")
string_or_callable = _check(
    "a non-empty string or a callable", lambda value: callable(value) or (isinstance(value, str) and value != "")
)
callable_or_path = _check(
    "a callable, or the dotted path of one", lambda value: callable(value) or _matches(value, _DOTTED_PATH)
)
flag_or_callable = _check(
    "True, False, a callable, or the dotted path of one",
    lambda value: isinstance(value, bool) or callable(value) or _matches(value, _DOTTED_PATH),
)
url = _check("an http(s) URL or an absolute path, percent-encoded", lambda value: _matches(value, _URL))
field_name = _check("the name of an HTTP header", lambda value: _matches(value, _FIELD_NAME))
byte_count = _check(
    "a number of bytes, at least 1", lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0
)

count = _check(
    "a whole number, at least 1", lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0
)

retries = _check(
    "a whole number from 0 to 100",
    lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 100,
)

share = _check(
    "a number from 0 to 1",
    lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1,
)


def names(value: Any) -> tuple[str, ...]:
    given = () if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    if not given or not all(isinstance(name, str) and 1 <= len(name) <= MAX_STRING for name in given):
        raise PolicyError(f"must be a sequence of strings of 1 to {MAX_STRING} characters")
    return given


def field_names(value: Any) -> frozenset[str]:
    given = () if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    if not given or not all(_matches(name, _FIELD_NAME) for name in given):
        raise PolicyError('must be a sequence of at least one header name, like ("X-Card-Token",)')
    return frozenset(name.lower() for name in given)


def methods(value: Any) -> frozenset[str]:
    given = () if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    if not given or not all(_matches(name, _FIELD_NAME) for name in given):
        raise PolicyError('must be a sequence of at least one HTTP method, like ("POST", "PATCH")')
    names = frozenset(name.upper() for name in given)
    if safe := names & {"GET", "HEAD", "OPTIONS", "TRACE"}:
        raise PolicyError(f"names {min(safe)}, which is safe by definition and never needs a key (RFC 9110, 9.2.1)")
    return names


def exceptions(value: Any) -> tuple[type[Exception], ...]:
    given = tuple(value) if isinstance(value, Iterable) else (None,)
    if not all(isinstance(each, type) and issubclass(each, Exception) for each in given):
        raise PolicyError("must be a sequence of exception classes, like (ConnectionRefusedError,)")
    return given


def uncertain(value: Any) -> Any:
    if inspect.iscoroutinefunction(value):
        raise PolicyError("must be a plain function, because the probe is asked on the request's thread")
    if value not in ("refuse", "retry"):
        try:
            callable_or_path(value)
        except PolicyError:
            raise PolicyError('must be "refuse", "retry", or a probe: a callable, or the dotted path of one') from None
    return value


def duration(value: Any) -> timedelta:
    if not isinstance(value, timedelta):
        raise PolicyError("must be a datetime.timedelta")
    if not timedelta(0) < value <= LONGEST:
        raise PolicyError("must be longer than zero and at most ten years")
    return value


def pause(value: Any) -> Any:
    return duration(value) if isinstance(value, timedelta) else callable_or_path(value)


def whole_seconds(value: object) -> int:
    """*value*, a duration, in whole seconds, at least 1. Raises `PolicyError` unless it is one."""
    return max(1, ceil(duration(value).total_seconds()))


def lease(value: Any) -> timedelta:
    length = duration(value)
    if length < SHORTEST_LEASE:
        raise PolicyError("must be at least a tenth of a second, because a lease is renewed after a third of its time")
    return length


def key_pattern(value: Any) -> Any:
    if not callable(value) and not isinstance(value, (str, re.Pattern)):
        raise PolicyError('must be "uuid", a regular expression or a callable')
    if inspect.iscoroutinefunction(value):
        raise PolicyError("must be a plain function, because it has only to look at the key")
    try:
        key_format(value)
    except re.error as error:
        raise PolicyError(f"is not a regular expression: {error}") from error
    return value
