"""The completion record: the stored outcome, as bytes in and out."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

CONTENT_LENGTH = "content-length"
# Made once: json.loads and json.dumps examine their arguments at each call.
_decode = json.JSONDecoder().decode
_encode = json.JSONEncoder(check_circular=False).encode

# Of one connection (RFC 9110, 7.6.1; proxies' from 11.7), of one moment (Date, Server), of one client (Set-Cookie).
NEVER_STORED = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "set-cookie",
        "date",
        "server",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRecord:
    """
    The stored outcome of an execution. Immutable until it expires.

    A header whose value is None was there, and is computed anew for each replay (Content-Length).
    """

    status: int
    reason: str = ""
    headers: tuple[tuple[str, str | None], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    request_id: str = ""  # of the request that was executed

    def head(self) -> bytes:
        """Reason and headers as JSON in bytes: a header may hold characters that some databases refuse."""
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
        The record whose `head()` and body these are.

        Raises `ValueError`, `TypeError` or `RecursionError` for anything else. A record *to_send*, and not only to
        display, must not have a line break in its reason or headers.
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
    texts = [reason, *[text for pair in headers for text in pair]]
    return any("\r" in text or "\n" in text for text in map(str, texts))


def storable_headers(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str | None], ...]:
    """*headers* less those that belong to one connection, one moment or one client. Source: RFC 9110, 7.6.1."""
    pairs = [(name, name.lower(), value) for name, value in headers]
    never = NEVER_STORED
    for _, lower, value in pairs:
        if lower == "connection":  # names further hop-by-hop headers
            never = never | {option.strip().lower() for option in value.split(",")}
    return tuple(
        [(name, None if lower == CONTENT_LENGTH else value) for name, lower, value in pairs if lower not in never]
    )
