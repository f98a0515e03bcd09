"""The completion record: how a stored outcome becomes bytes and is read back."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django_idempotency.core.fingerprint import exact_json

CONTENT_LENGTH = "content-length"
TOMBSTONE = 1  # the status of a record whose answer is not kept any more, because an HTTP status is never 1
# Made once, because json.loads and json.dumps examine their arguments at each call.
_decode = json.JSONDecoder().decode
_encode = json.JSONEncoder(check_circular=False).encode

# Headers of one connection (RFC 9110, 7.6.1, and of proxies 11.7), of one moment, and of one client.
_OF_CONNECTION = ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
_OF_PROXY = ("proxy-authenticate", "proxy-authentication-info", "proxy-authorization")
NEVER_STORED = frozenset({*_OF_CONNECTION, *_OF_PROXY, "authorization", "date", "server", "set-cookie"})
# Headers that describe the body (RFC 9110, 8; RFC 9530; RFC 6266): not stored if the body is not.
OF_BODY = frozenset(
    {
        *("content-digest", "content-disposition", "content-encoding", "content-language", "content-location"),
        *("content-md5", "content-range", "content-type", "digest", "repr-digest"),
    }
)
# Headers that whoever renders the body anew sets anew.
OF_RENDERING = OF_BODY | {CONTENT_LENGTH, "etag", "last-modified"}

# What is stored in the place of a body.
LEFT_OUT = "left out"  # nothing
BYTES, JSON = "bytes", "json"  # a reference, which the option `record` returned
_INSTEAD = frozenset({LEFT_OUT, BYTES, JSON})


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRecord:
    """
    The stored outcome of an execution. Immutable until it expires.

    A header whose value is None (Content-Length) is computed for each replay. *body* is the answer's own, unless
    *instead* says what is stored in its place.
    """

    status: int
    reason: str = ""
    headers: tuple[tuple[str, str | None], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    request_id: str = ""  # of the request that was executed
    instead: str = ""  # LEFT_OUT, BYTES or JSON
    trace: str = ""  # of the request that was executed, as a W3C `traceparent`; never sent

    @property
    def is_reference(self) -> bool:
        """Is *body* a reference that the option `record` returned?"""
        return self.instead in (BYTES, JSON)

    @property
    def reference(self) -> Any:
        """What the option `record` returned, if `is_reference`."""
        return self.body if self.instead == BYTES else _decode(self.body.decode(errors="surrogatepass"))

    def head(self) -> bytes:
        """Encode reason and headers as JSON, in bytes: some databases refuse characters that a header may hold."""
        parts = [self.reason, self.headers]
        if self.trace:
            parts += [self.instead, self.trace]
        elif self.instead:
            parts.append(self.instead)
        return _encode(parts).encode()

    @classmethod
    def from_stored(
        cls,
        status: int,
        head: bytes | memoryview,
        body: bytes | memoryview,
        request_id: str,
        *,
        to_send: bool = True,
    ) -> "CompletionRecord":
        """
        Make a record of what `head()` and `body` were stored as.

        Raises `ValueError`, `TypeError` or `RecursionError` if they were changed since. A record *to_send*, not only to
        display, must have an HTTP status, and no line break in its reason or headers.
        """
        text = str(head, "utf-8")
        reason, headers, *more = _decode(text)
        instead = trace = ""
        if more:
            instead, trace = more if len(more) > 1 else (*more, "")
            if instead not in _INSTEAD and (instead or not trace):  # another version's
                raise ValueError(f"{instead!r} is stored in the place of its body")
        # JSON escapes every control character, so only a record with a backslash needs a closer look.
        if to_send and (not 100 <= status <= 599 or ("\\" in text and _ends_a_line(reason, headers))):
            raise ValueError("its status is not an HTTP status, or its reason or headers contain a line break")
        return cls(
            status=status,
            # To add to what is no string raises `TypeError`.
            reason=reason + "",
            headers=tuple([(name + "", None if value is None else value + "") for name, value in headers]),
            body=bytes(body),
            request_id=request_id,
            instead=instead,
            trace=trace,
        )


def _ends_a_line(reason: object, headers: Iterable[tuple[object, object]]) -> bool:
    strings = map(str, [reason, *[part for pair in headers for part in pair]])
    return any("\r" in string or "\n" in string for string in strings)


def encode_reference(value: Any) -> tuple[str, bytes]:
    """Return what a *value* of the option `record` is stored as: BYTES or JSON, and the bytes. Raises `ValueError`."""
    if value is None:
        raise ValueError("it returned None")
    return (BYTES, value) if isinstance(value, bytes) else (JSON, exact_json(value))


def storable_headers(
    headers: Iterable[tuple[str, str]], never: frozenset[str] = NEVER_STORED
) -> tuple[tuple[str, str | None], ...]:
    """
    Leave out those *headers* that belong to one connection, one moment or one client (RFC 9110, 7.6.1). *never* has
    their names, in lower case.
    """
    pairs = [(name, name.lower(), value) for name, value in headers]
    for _, lower, value in pairs:
        if lower == "connection":  # names further hop-by-hop headers
            never = never | {option.strip().lower() for option in value.split(",")}
    return tuple(
        [(name, None if lower == CONTENT_LENGTH else value) for name, lower, value in pairs if lower not in never]
    )
