"""The options of an operation: what they are, what they may be, and which one wins."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any, TypedDict, Unpack

from django_idempotency.core.keys import key_format
from django_idempotency.exceptions import PolicyError

SHORTEST_LEASE = timedelta(milliseconds=100)
LONGEST = timedelta(days=3660)  # ten years: further away, a database's calendar and a typing slip meet


class Options(TypedDict, total=False):
    """Every option, as `Policy`, `@idempotent` and (in capitals) the setting `IDEMPOTENCY` take it."""

    required: bool
    methods: Iterable[str]
    ttl: timedelta
    in_flight: str
    wait_timeout: timedelta
    lease: timedelta
    uncertain: str
    mode: str
    store: str
    using: str | Callable[..., str]
    scope: str | Callable[..., str]
    operation: str | Callable[..., str]
    key: str | Callable[..., str | None]
    key_format: str | re.Pattern[str] | Callable[[str], object]
    fingerprint: str | Callable[..., bytes]
    should_store: str | Callable[[Any], bool]
    replay_guard: str | Callable[[Any, Any], object]
    docs_url: str
    header: str
    replayed_header: str
    max_body: int


DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "required": False,
        "methods": frozenset({"POST", "PATCH"}),
        "ttl": timedelta(hours=24),
        "in_flight": "reject",
        "wait_timeout": timedelta(seconds=10),
        "lease": timedelta(seconds=30),
        "uncertain": "refuse",
        "mode": "atomic",
        "store": "default",
        "using": None,
        "scope": None,
        "operation": None,
        "key": None,
        "key_format": None,
        "fingerprint": None,
        "should_store": None,
        "replay_guard": None,
        "docs_url": None,
        "header": "Idempotency-Key",
        "replayed_header": "Idempotency-Replayed",
        "max_body": 1024 * 1024,  # bytes
    }
)

# Options whose text is a dotted path to a callable; `conf` imports it. In `using` and `operation` a text is the value.
DOTTED = ("scope", "key", "fingerprint", "should_store", "replay_guard")

_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_DOTTED_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_URL = re.compile(r"(https?://|/)[!#-;=?-~]*")  # what may stand between < and > in a Link header


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise PolicyError("must be True or False")
    return value


def _methods(value: Any) -> frozenset[str]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise PolicyError('must be a sequence of HTTP methods, like ("POST", "PATCH")')
    methods = frozenset(value)
    if not methods or not all(isinstance(method, str) and _FIELD_NAME.fullmatch(method) for method in methods):
        raise PolicyError('must name at least one HTTP method, like ("POST", "PATCH")')
    methods = frozenset(method.upper() for method in methods)
    if safe := methods & {"GET", "HEAD", "OPTIONS", "TRACE"}:
        raise PolicyError(f"names {min(safe)}, which is safe by definition and never needs a key (RFC 9110, 9.2.1)")
    return methods


def _duration(value: Any) -> timedelta:
    if not isinstance(value, timedelta):
        raise PolicyError("must be a datetime.timedelta")
    if not timedelta(0) < value <= LONGEST:
        raise PolicyError("must be longer than zero and at most ten years")
    return value


def _lease(value: Any) -> timedelta:
    lease = _duration(value)
    if lease < SHORTEST_LEASE:
        raise PolicyError("must be a tenth of a second or longer, as it is renewed at a third of its time")
    return lease


def _one_of(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise PolicyError("must be " + " or ".join(f'"{choice}"' for choice in choices))
        return str(value)

    return check


def _mode(value: Any) -> str:
    if value in ("phased", "observe"):
        raise PolicyError(f'must be "atomic": "{value}" is not available in this version')
    return _one_of("atomic")(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise PolicyError("must be a text")
    return value


def _text_or_callable(value: Any) -> Any:
    if not callable(value) and not (isinstance(value, str) and value):
        raise PolicyError("must be a text or a callable")
    return value


def _callable(value: Any) -> Any:
    if not callable(value) and not (isinstance(value, str) and _DOTTED_PATH.fullmatch(value)):
        raise PolicyError("must be a callable, or the dotted path of one")
    return value


def _key_format(value: Any) -> Any:
    if not callable(value) and not isinstance(value, (str, re.Pattern)):
        raise PolicyError('must be "uuid", a regular expression or a callable')
    try:
        key_format(value)
    except re.error as error:
        raise PolicyError(f"is not a regular expression: {error}") from error
    return value


def _docs_url(value: Any) -> str:
    if not isinstance(value, str) or not _URL.fullmatch(value):
        raise PolicyError("must be an http(s) URL or an absolute path, percent-encoded")
    return value


def _field_name(value: Any) -> str:
    if not isinstance(value, str) or not _FIELD_NAME.fullmatch(value):
        raise PolicyError("must be the name of an HTTP header")
    return value


def _bytes(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PolicyError("must be a number of bytes, at least 1")
    return value


_CHECKS: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "required": _boolean,
        "methods": _methods,
        "ttl": _duration,
        "in_flight": _one_of("reject", "wait"),
        "wait_timeout": _duration,
        "lease": _lease,
        "uncertain": _one_of("refuse", "retry"),
        "mode": _mode,
        "store": _text,
        "using": _text_or_callable,
        "scope": _callable,
        "operation": _text_or_callable,
        "key": _callable,
        "key_format": _key_format,
        "fingerprint": _callable,
        "should_store": _callable,
        "replay_guard": _callable,
        "docs_url": _docs_url,
        "header": _field_name,
        "replayed_header": _field_name,
        "max_body": _bytes,
    }
)
NULLABLE = frozenset(name for name, default in DEFAULTS.items() if default is None)


def checked(options: Mapping[str, Any], where: str, allowed: Iterable[str] = tuple(DEFAULTS)) -> dict[str, Any]:
    """
    *options* in their normal form. None stands for the default, where that is None.

    Raises `PolicyError`, which names the option and *where* it was given, for an unknown option and for a bad value.
    """
    result: dict[str, Any] = {}
    names = tuple(allowed)
    for name, value in options.items():
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else f" The options are {', '.join(sorted(names))}."
            raise PolicyError(f"{where} has no option {name!r}.{hint}")
        if value is None and name in NULLABLE:
            result[name] = None
            continue
        try:
            result[name] = _CHECKS[name](value)
        except PolicyError as error:
            raise PolicyError(f"{where}: option {name!r} {error}, not {value!r}.") from None
    return result


class Policy:
    """
    Some options of an operation; those left out come from the next level: decorator, class, setting, default.

    Raises `PolicyError` for an unknown option or a bad value.
    """

    __slots__ = ("options",)

    def __init__(self, **options: Unpack[Options]) -> None:
        self.options: Mapping[str, Any] = MappingProxyType(checked(options, "Policy"))

    @classmethod
    def at(cls, where: str, options: Mapping[str, Any], allowed: Iterable[str] = tuple(DEFAULTS)) -> "Policy":
        """The policy of *options* given at *where*, which errors name, if all of them are *allowed* there."""
        policy = cls()
        policy.options = MappingProxyType(checked(options, where, allowed))
        return policy

    def __eq__(self, other: object) -> bool:
        return self.options == other.options if isinstance(other, Policy) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.options)))  # of the names: a value, like a callable object, need not be hashable

    def __repr__(self) -> str:
        return f"Policy({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"


NO_OPTIONS = Policy()
POLICY = "idempotency_policy"  # the attribute that tells a protected callable: the decorator's own policy


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedPolicy:
    """Every option with its value, made once per view: dotted paths imported, patterns compiled, units fixed."""

    required: bool
    methods: frozenset[str]
    ttl: float  # seconds
    wait: bool
    wait_timeout: float  # seconds
    lease: float  # seconds
    take_over: bool  # a claim whose outcome is uncertain
    store: str
    using: str | Callable[..., str] | None
    scope: Callable[..., str] | None
    operation: str | Callable[..., str] | None
    key: Callable[..., str | None] | None
    key_format: Callable[[str], bool] | None
    fingerprint: Callable[..., bytes] | None
    should_store: Callable[[Any], bool] | None
    replay_guard: Callable[[Any, Any], object] | None
    docs_url: str | None
    header: str
    meta_name: str  # of the header, in WSGI's environ
    replayed_header: str
    max_body: int  # bytes


def resolve(levels: Iterable[Mapping[str, Any]], load: Callable[[str], Any]) -> ResolvedPolicy:
    """
    The *levels* of options merged, the nearest last; *load* imports a dotted path.

    Raises `PolicyError` where a path does not lead to a callable.
    """
    options = dict(DEFAULTS)
    for level in levels:
        options.update(level)
    for name in DOTTED:
        path = options[name]
        if isinstance(path, str):
            try:
                options[name] = load(path)
            except ImportError as error:
                raise PolicyError(f"Option {name!r}: {path!r} cannot be imported: {error}") from error
            if not callable(options[name]):
                raise PolicyError(f"Option {name!r}: {path!r} is not callable.")
    wanted = options.pop("key_format")
    options.pop("mode")
    return ResolvedPolicy(
        **options
        | {
            "ttl": options["ttl"].total_seconds(),
            "wait": options.pop("in_flight") == "wait",
            "wait_timeout": options["wait_timeout"].total_seconds(),
            "lease": options["lease"].total_seconds(),
            "take_over": options.pop("uncertain") == "retry",
            "key_format": None if wanted is None else key_format(wanted),
            "meta_name": "HTTP_" + options["header"].upper().replace("-", "_"),
        }
    )
