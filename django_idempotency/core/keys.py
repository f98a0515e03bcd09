"""The idempotency key: from header values to the identity that names at most one execution."""

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum

from django_idempotency.core.fingerprint import digest
from django_idempotency.exceptions import KeyExpired, KeyInvalid, PolicyError

KEY_FIELD = "_idempotency_key"  # of a form, for `{% idempotency_key %}`; the admin's own fields begin so, too
MAX_KEY = 255  # characters, after unquoting
MAX_STRING = 255  # stored characters of a scope, an operation, a request or its id; the digest stands for all of them
UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # NUL and lone surrogates, which some databases refuse

# A bare token, as Stripe's and most clients send it: visible ASCII without comma, not beginning with a quote.
_TOKEN = re.compile(r"[!#-+\--~][!-+\--~]{0,254}", re.ASCII)
# RFC 9651, 3.3.3: a quoted string of printable ASCII, in which only the quote and the backslash are escaped.
_STRING = r'"(?P<text>(?:[ !#-\[\]-~]|\\["\\])*)"'
# RFC 9651, 3.1.2: parameters, whose values are bare items (3.3).
_ITEM = (
    r'(?:"(?:[ !#-\[\]-~]|\\["\\])*"'  # string
    r"|-?[0-9]{1,12}\.[0-9]{1,3}|@?-?[0-9]{1,15}"  # decimal; integer, date
    r"|[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*"  # token
    r"|:[A-Za-z0-9+/=]*:"  # bytes
    r"|\?[01]"  # boolean
    r'|%"(?:[ !#$&-~]|%[0-9a-f]{2})*")'  # display string
)
_QUOTED = re.compile(rf"{_STRING}(?:; *[a-z*][a-z0-9_\-.*]*(?:={_ITEM})?)*", re.ASCII)
_ESCAPED = re.compile(r'\\(["\\])')
_PRINTABLE = re.compile(r"[ -~]{1,255}", re.ASCII)

CLOCK_TOLERANCE = 60.0  # seconds by which a client's clock may be ahead of ours
# The digits of a ULID (Crockford's), and those that Python takes for the same numbers to base 32.
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TO_BASE_32 = str.maketrans(_CROCKFORD, "0123456789ABCDEFGHIJKLMNOPQRSTUV")


@dataclass(frozen=True, slots=True)
class Identity:
    """
    Scope, operation and key, which together name at most one execution.

    `digest` (32 bytes) is the primary key, because every database compares bytes exactly, whatever its collation.
    """

    scope: str
    operation: str
    key: str = field(repr=False)
    digest: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        value = digest(b"identity", self.scope.encode(), self.operation.encode(), self.key.encode())
        object.__setattr__(self, "digest", value)

    def __str__(self) -> str:
        """The identity as logs show it, which is never the key itself."""
        return self.digest.hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One arrival of an identity, with the request's fingerprint and the lifetime of its record."""

    identity: Identity
    fingerprint: bytes  # 32 bytes
    ttl: float  # seconds
    tombstone_ttl: float = 0.0  # seconds after `ttl` in which a late retry is refused
    uncertain_ttl: float | None = None  # seconds from the claim after which an unknown outcome expires; None for never
    request: str = ""  # for people: method, host and route
    request_id: str = ""
    sent: bytes = field(default=b"", repr=False)  # the whole request, for phased mode to send it again; JSON
    # The same request under the former names of its operation, which are claimed with it; none has names of its own.
    former: "tuple[Attempt, ...]" = ()
    is_former: bool = False
    origin: "Attempt | None" = None  # under the first of all names, if that is not today's
    moved: "tuple[Attempt, ...]" = ()  # the same request as another package knew it, whose records may be imported

    @property
    def names(self) -> "tuple[Attempt, ...]":
        """The attempt under each name of its operation, today's first."""
        return (self, *self.former)

    def derive_key(self, name: str) -> str:
        """The key for the downstream system *name*. With former names it is that of the first name."""
        first = self.origin or self
        return derive_key(first.identity, first.fingerprint, name)

    @property
    def occupied(self) -> float:
        """Seconds for which the identity is not new again."""
        return self.ttl + self.tombstone_ttl


def renamed(attempt: Attempt, operation: str, fingerprint: bytes) -> Attempt:
    """*attempt* under a former name of its *operation*, with the *fingerprint* that it had then."""
    identity = Identity(attempt.identity.scope, operation, attempt.identity.key)
    return replace(attempt, identity=identity, fingerprint=fingerprint, is_former=True)


class NoKey(Enum):
    """What a project's callable returns instead of a key."""

    NEEDED = "no key needed"


def parse_key(value: str) -> str:
    """
    Read the idempotency key from a header's *value* (repeated header lines arrive joined by commas).

    The key is a quoted string (0x20 to 0x7E) or a bare token (0x21 to 0x7E without comma), of 1 to 255 characters
    after unquoting. Parameters after a string are ignored.

    Raises `KeyInvalid` for anything else, and for two keys. Source: RFC 9651, 3.3.3 and 4.2.
    """
    value = value.strip(" \t")
    if _TOKEN.fullmatch(value):
        return value
    quoted = _QUOTED.fullmatch(value)
    key = _ESCAPED.sub(r"\1", quoted["text"]) if quoted else ""
    if not 1 <= len(key) <= MAX_KEY:
        raise KeyInvalid
    return key


def check_key(key: object) -> str:
    """
    Return the *key* that a project's callable returned as a string; an integer or a UUID is converted.

    Raises `KeyInvalid` unless it has 1 to 255 printable ASCII characters.
    """
    if isinstance(key, (int, uuid.UUID)) and not isinstance(key, bool):
        key = str(key)
    if not isinstance(key, str) or not _PRINTABLE.fullmatch(key):
        raise KeyInvalid
    return key


def check_string(option: str, value: object) -> str:
    """
    Return the *value* that a project's callable returned for *option*, if every database can store it as a string.

    Raises `PolicyError` otherwise, without printing the value, because a scope is often made of a credential.
    """
    if isinstance(value, str) and 1 <= len(value) <= MAX_STRING and not UNSTORABLE.search(value):
        return value
    given = f"one of {len(value)}" if isinstance(value, str) else f"a {type(value).__name__}"
    raise PolicyError(
        f"The option {option!r} must return a string of 1 to {MAX_STRING} characters without NUL or surrogates,"
        f" not {given}."
    )


def is_uuid(key: str) -> bool:
    """Is *key* a UUID in its canonical form (RFC 9562, 4), in lower or upper case?"""
    try:
        return len(key) == 36 and str(uuid.UUID(key)) == key.lower()
    except ValueError:
        return False


def time_of(key: str) -> float | None:
    """When *key* was made, in seconds since the epoch, if it is a UUID of version 7 or a ULID; else None."""
    if len(key) == 36:
        # RFC 9562, 5.7: 48 bits of milliseconds, then the version; the variant is 10 in binary
        if key[14] == "7" and key[19] in "89abAB" and is_uuid(key):
            return int(key[:8] + key[9:13], 16) / 1000
    elif len(key) == 26:
        # https://github.com/ulid/spec: ten digits of milliseconds, of 48 bits, in upper or lower case
        digits = key.upper()
        if digits[0] <= "7" and not digits.strip(_CROCKFORD):
            return int(digits[:10].translate(_TO_BASE_32), 32) / 1000
    return None


def check_age(key: str, max_age: float, now: float) -> None:
    """
    Check that *key* was made at most *max_age* seconds before *now* (seconds since the epoch), and not after it; a
    client's clock may be `CLOCK_TOLERANCE` ahead.

    Raises `KeyExpired`, and `KeyInvalid` for a key that does not tell when it was made.
    """
    made = time_of(key)
    if made is None:
        raise KeyInvalid("This action takes keys that tell their age: a UUID of version 7, or a ULID.")
    if now - made > max_age:
        raise KeyExpired(
            "The key was made too long ago. Nothing was done now. Find out what became of the action before you send it"
            " with a new key."
        )
    if made - now > CLOCK_TOLERANCE:
        raise KeyExpired("The key was made in the future: correct the clock that it was made by, and make a new key.")


def key_format(wanted: str | re.Pattern[str] | Callable[[str], object]) -> Callable[[str], object]:
    """Turn the option `key_format` into a predicate over keys. Raises `re.error` for an invalid pattern."""
    if wanted == "uuid":
        return is_uuid
    # The method of a pattern, not a function that calls it: the OpenAPI document shows its pattern.
    return re.compile(wanted).fullmatch if isinstance(wanted, (str, re.Pattern)) else wanted


def derive_key(identity: Identity, fingerprint: bytes, name: str) -> str:
    """
    Derive the key for the downstream system *name*: the same at every retry of a request, another one for every name
    and for a corrected payload. It is a UUID of version 8 (RFC 9562, 5.8).
    """
    return _uuid(int.from_bytes(digest(b"derived", identity.digest, fingerprint, name.encode())[:16]), version=8)


def time_ordered_key(milliseconds: int, random: bytes) -> str:
    """A UUID of version 7 (RFC 9562, 5.7), of the *milliseconds* since 1970 and ten *random* bytes."""
    return _uuid(milliseconds << 80 | int.from_bytes(random), version=7)


def _uuid(number: int, *, version: int) -> str:
    number = number & ~(0xF << 76) | version << 76
    number = number & ~(0x3 << 62) | 2 << 62  # variant
    return str(uuid.UUID(int=number))
