"""The completion record: how a stored outcome becomes bytes and is read back."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

CONTENT_LENGTH = "content-length"
TOMBSTONE = 1  # the status of a record whose answer is not kept any more, because an HTTP status is never 1
# Made once, because json.loads and json.dumps examine their arguments at each call.
_decode = json.JSONDecoder().decode
_encode = json.JSONEncoder(check_circular=False).encode

# Headers of one connection (RFC 9110, 7.6.1, and of proxies 11.7), of one moment, and of one client.
_OF_CONNECTION = ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
_OF_PROXY = ("proxy-authenticate", "proxy-authentication-info", "proxy-authorization")
NEVER_STORED = frozenset({*_OF_CONNECTION, *_OF_PROXY, "date", "server", "set-cookie"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRecord:
    """
    The stored outcome of an execution. Immutable until it expires.

    A header whose value is None (Content-Length) is computed for each replay.
    """

    status: int
    reason: str = ""
    headers: tuple[tuple[str, str | None], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    request_id: str = ""  # of the request that was executed

    def head(self) -> bytes:
        """Encode reason and headers as JSON, in bytes: some databases refuse characters that a header may hold."""
        return _encode([self.reason, self.headers]).encode()

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
        reason, headers = _decode(text)
        # JSON escapes every control character, so only a record with a backslash needs a closer look.
        if to_send and (not 100 <= status <= 599 or ("\\" in text and _ends_a_line(reason, headers))):
            raise ValueError("its status is not an HTTP status, or its reason or headers contain a line break")
        return cls(
            status=status,
            reason=reason,
            headers=tuple([(name, value) for name, value in headers]),
            body=bytes(body),
            request_id=request_id,
        )


def _ends_a_line(reason: object, headers: Iterable[tuple[object, object]]) -> bool:
    strings = map(str, [reason, *[part for pair in headers for part in pair]])
    return any("\r" in string or "\n" in string for string in strings)


def storable_headers(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str | None], ...]:
    """Leave out those *headers* that belong to one connection, one moment or one client (RFC 9110, 7.6.1)."""
    pairs = [(name, name.lower(), value) for name, value in headers]
    never = NEVER_STORED
    for _, lower, value in pairs:
        if lower == "connection":  # names further hop-by-hop headers
            never = never | {option.strip().lower() for option in value.split(",")}
    return tuple(
        [(name, None if lower == CONTENT_LENGTH else value) for name, lower, value in pairs if lower not in never]
    )
