"""
The options of an operation. `ResolvedPolicy` is their table: type, default, allowed values and where each applies.

A new option is one row there, its type in `Options`, its row in the docs, and the code that uses it.
"""

# ruff: noqa: RUF009 `option` makes fields of a dataclass
import difflib
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from types import MappingProxyType
from typing import Any, TypedDict, Unpack

from django_idempotency.core import option_values as values
from django_idempotency.core.keys import Attempt, NoKey, key_format
from django_idempotency.core.moved import Moved
from django_idempotency.core.observation import OBSERVE
from django_idempotency.core.probe import Found, UnsettledOperation, Verdict
from django_idempotency.core.progress import PHASED
from django_idempotency.core.record import NEVER_STORED
from django_idempotency.exceptions import PolicyError

Probe = Callable[[UnsettledOperation], Found | Verdict]


class Options(TypedDict, total=False):
    """Every option, as `Policy`, `@idempotent` and (in capitals) the setting `IDEMPOTENCY` take it."""

    required: bool
    methods: Iterable[str]
    ttl: timedelta
    tombstone_ttl: timedelta
    in_flight: str
    wait_timeout: timedelta
    lease: timedelta
    uncertain: str | Probe
    uncertain_ttl: timedelta
    not_done: Iterable[type[Exception]]
    retries: int
    mode: str
    max_attempts: int
    resume_for: timedelta
    store_request: bool | str | Callable[[Any, dict[str, Any]], dict[str, Any] | None]
    observe_sample: float
    store: str
    using: str | Callable[..., str | Awaitable[str]]
    scope: str | Callable[..., str | Awaitable[str]]
    operation: str | Callable[..., str]
    key: str | Callable[..., str | NoKey | Awaitable[str | NoKey | None] | None]
    key_format: str | re.Pattern[str] | Callable[[str], object]
    form_key: bool
    key_max_age: timedelta
    operation_aliases: Iterable[str]
    moved_from: str | Callable[[Any, str], Moved | None]
    fingerprint: str | Callable[..., bytes | Awaitable[bytes]]
    should_store: str | Callable[[Any], bool]
    replay_guard: str | Callable[[Any, Any], object]
    docs_url: str
    header: str
    replayed_header: str
    expires_header: str
    retry_after: timedelta | str | Callable[[Attempt], timedelta]
    echo: bool
    refuse: str | Callable[[Any, Any], Any]
    max_body: int
    unstored_headers: Iterable[str]
    store_body: bool
    record: str | Callable[[Any, Any], object]
    replay: str | Callable[[Any, Any], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: its default, the values it takes, and how a value is prepared once per view."""

    default: Any
    check: Callable[[Any], Any]  # returns the value's normal form, or raises `PolicyError`
    dotted: bool = False  # a string is the dotted path of a callable, which is imported
    convert: Callable[[Any], Any] | None = None  # from the normal form to what a request needs; not called with None
    for_events: bool = False  # `@once` takes it
    of_requests: bool = False  # its value in the setting is about requests and does not apply to `@once`


def option(default: Any, check: Callable[[Any], Any], **traits: Any) -> Any:
    """A field of `ResolvedPolicy` that holds the value of an `Option`."""
    return field(metadata={"option": Option(default=default, check=check, **traits)})


_seconds = timedelta.total_seconds


def _whole_seconds(value: Any) -> Any:
    return values.whole_seconds(value) if isinstance(value, timedelta) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedPolicy:
    """Every option with its value, made once per view: dotted paths imported, patterns compiled, units fixed."""

    required: bool = option(False, values.boolean)
    methods: frozenset[str] = option(frozenset({"POST", "PATCH"}), values.methods)
    ttl: float = option(timedelta(hours=24), values.duration, convert=_seconds, for_events=True)
    tombstone_ttl: float | None = option(None, values.duration, convert=_seconds, for_events=True)
    in_flight: str = option("reject", values.one_of("reject", "wait"), for_events=True)
    wait_timeout: float = option(timedelta(seconds=10), values.duration, convert=_seconds, for_events=True)
    lease: float = option(timedelta(seconds=30), values.lease, convert=_seconds, for_events=True)
    uncertain: str | Probe = option("refuse", values.uncertain, dotted=True, for_events=True)
    uncertain_ttl: float | None = option(None, values.duration, convert=_seconds, for_events=True)
    not_done: tuple[type[Exception], ...] = option((), values.exceptions, for_events=True)
    retries: int = option(0, values.retries, for_events=True)
    mode: str = option("atomic", values.one_of("atomic", PHASED, OBSERVE), for_events=True)
    max_attempts: int = option(10, values.count, for_events=True)
    resume_for: float | None = option(None, values.duration, convert=_seconds, for_events=True)
    store_request: bool | Callable[[Any, dict[str, Any]], dict[str, Any] | None] = option(
        True, values.flag_or_callable, dotted=True, of_requests=True
    )
    observe_sample: float = option(1.0, values.share, for_events=True)  # of the keys, from 0 to 1
    store: str = option("default", values.string, for_events=True)
    using: str | Callable[..., str] | None = option(None, values.string_or_callable, for_events=True)
    scope: Callable[..., str] | None = option(
        None, values.callable_or_path, dotted=True, for_events=True, of_requests=True
    )
    operation: str | Callable[..., str] | None = option(None, values.string_or_callable, of_requests=True)
    key: Callable[..., str | NoKey | None] | None = option(
        None, values.callable_or_path, dotted=True, for_events=True, of_requests=True
    )
    key_format: Callable[[str], object] | None = option(
        None, values.key_pattern, convert=key_format, for_events=True, of_requests=True
    )
    form_key: bool = option(True, values.boolean)
    key_max_age: float | None = option(None, values.duration, convert=_seconds, for_events=True, of_requests=True)
    operation_aliases: tuple[str, ...] | None = option(None, values.names, for_events=True, of_requests=True)
    moved_from: Callable[[Any, str], Moved | None] | None = option(
        None, values.callable_or_path, dotted=True, of_requests=True
    )
    fingerprint: Callable[..., bytes] | None = option(
        None, values.callable_or_path, dotted=True, for_events=True, of_requests=True
    )
    should_store: Callable[[Any], bool] | None = option(None, values.callable_or_path, dotted=True, of_requests=True)
    replay_guard: Callable[[Any, Any], object] | None = option(
        None, values.callable_or_path, dotted=True, of_requests=True
    )
    docs_url: str | None = option(None, values.url)
    header: str = option("Idempotency-Key", values.field_name)
    replayed_header: str = option("Idempotency-Replayed", values.field_name)
    expires_header: str | None = option(None, values.field_name)
    retry_after: int | Callable[[Attempt], timedelta] = option(
        timedelta(seconds=1), values.pause, dotted=True, convert=_whole_seconds, for_events=True
    )
    echo: bool = option(False, values.boolean)
    refuse: Callable[[Any, Any], Any] | None = option(None, values.callable_or_path, dotted=True, of_requests=True)
    max_body: int = option(1024 * 1024, values.byte_count, for_events=True)  # bytes
    unstored_headers: frozenset[str] | None = option(None, values.field_names, convert=NEVER_STORED.union)
    store_body: bool = option(True, values.boolean)
    record: Callable[[Any, Any], object] | None = option(None, values.callable_or_path, dotted=True, of_requests=True)
    replay: Callable[[Any, Any], object] | None = option(None, values.callable_or_path, dotted=True, of_requests=True)

    meta_name: str = field(init=False)  # of the header, in WSGI's environ

    def __post_init__(self) -> None:
        object.__setattr__(self, "meta_name", "HTTP_" + self.header.upper().replace("-", "_"))

    @property
    def wait(self) -> bool:
        """Does a duplicate wait for the request in flight?"""
        return self.in_flight == "wait"

    def seconds_to_retry(self, attempt: Attempt) -> int:
        """What a 409 for *attempt*, whose first request is in flight, says. Raises `PolicyError` for a bad callable."""
        wait = self.retry_after
        return wait if isinstance(wait, int) else values.whole_seconds(wait(attempt))

    @property
    def take_over(self) -> bool:
        """Is an operation whose outcome is unknown run again?"""
        return self.uncertain == "retry"

    @property
    def probe(self) -> Probe | None:
        """What is asked about an operation whose outcome is unknown."""
        return None if isinstance(self.uncertain, str) else self.uncertain


OPTIONS: Mapping[str, Option] = MappingProxyType(
    {each.name: each.metadata["option"] for each in fields(ResolvedPolicy) if "option" in each.metadata}
)
DEFAULTS: Mapping[str, Any] = MappingProxyType({name: row.default for name, row in OPTIONS.items()})
ONCE_OPTIONS = tuple(name for name, row in OPTIONS.items() if row.for_events)


def check_options(options: Mapping[str, Any], where: str, allowed: Iterable[str] = tuple(OPTIONS)) -> dict[str, Any]:
    """
    Return *options* in their normal form. None is accepted for an option whose default is None.

    Raises `PolicyError` for an unknown option or a bad value; it names the option and *where* it was given.
    """
    result: dict[str, Any] = {}
    names = tuple(allowed)
    for name, value in options.items():
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else f" The options are {', '.join(sorted(names))}."
            raise PolicyError(f"{where} has no option {name!r}.{hint}")
        row = OPTIONS[name]
        try:
            result[name] = None if value is None and row.default is None else row.check(value)
        except PolicyError as error:
            raise PolicyError(f"{where}: option {name!r} {error}, not {value!r}.") from None
    return result


class Policy:
    """
    Some options of an operation. The others come from the next level: decorator, class, setting, default.

    Policies with equal options are equal. Raises `PolicyError` for an unknown option or a bad value.
    """

    __slots__ = ("_hash", "options")

    def __init__(self, **options: Unpack[Options]) -> None:
        self._set(check_options(options, "Policy"))

    @classmethod
    def at(cls, where: str, options: Mapping[str, Any], allowed: Iterable[str] = tuple(OPTIONS)) -> "Policy":
        """Make a policy of *options*, each of which must be *allowed*; errors say *where* they were given."""
        policy = cls.__new__(cls)
        policy._set(check_options(options, where, allowed))
        return policy

    def _set(self, options: dict[str, Any]) -> None:
        self.options: Mapping[str, Any] = MappingProxyType(options)
        # Computed once, and of the values too: each request looks its policy up among those of all views.
        self._hash = hash(frozenset((name, _hash(value)) for name, value in options.items()))

    def __eq__(self, other: object) -> bool:
        return self.options == other.options if isinstance(other, Policy) else NotImplemented

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Policy({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"


def _hash(value: Any) -> int:
    try:
        return hash(value)
    except TypeError:  # a callable object that defines equality alone
        return hash(type(value))


NO_OPTIONS = Policy()
POLICY = "idempotency_policy"  # the attribute of a protected callable that holds the decorator's own policy


def resolve(levels: Iterable[Mapping[str, Any]], load: Callable[[str], Any]) -> ResolvedPolicy:
    """
    Merge the *levels* of options, of which the last one wins; *load* imports a dotted path.

    Raises `PolicyError` if a path does not name a callable, for one of `record` and `replay` without the other, and for
    `operation_aliases` in phased mode.
    """
    merged = dict(DEFAULTS)
    for level in levels:
        merged.update(level)
    for name, row in OPTIONS.items():
        if row.dotted and isinstance(merged[name], str) and "." in merged[name]:
            merged[name] = _load_callable(name, merged[name], load)
        if row.convert is not None and merged[name] is not None:
            merged[name] = row.convert(merged[name])
    result = ResolvedPolicy(**merged)
    if (result.record is None) != (result.replay is None):
        given, missing = ("record", "replay") if result.replay is None else ("replay", "record")
        raise PolicyError(
            f"Option {given!r} needs the option {missing!r}: one stores a reference in the place of the body, the other"
            " renders the answer from it."
        )
    if result.mode == PHASED and result.operation_aliases is not None:
        raise PolicyError(
            "Option 'operation_aliases' does not go with mode=\"phased\": a run that has not ended would begin anew"
            " under its other name. Keep the name of the operation with the option 'operation'."
        )
    return result


def _load_callable(name: str, path: str, load: Callable[[str], Any]) -> Any:
    try:
        found = load(path)
    except ImportError as error:
        raise PolicyError(f"Option {name!r}: {path!r} cannot be imported: {error}") from error
    if not callable(found):
        raise PolicyError(f"Option {name!r}: {path!r} is not callable.")
    return found
