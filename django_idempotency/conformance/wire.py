"""HTTP as the checks need it: any header, half a body, a closed connection; with a timeout, and a limit of requests."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

KEY_HEADER = "Idempotency-Key"
NOTICE = 2.0  # seconds


class NoAnswer(Exception):
    """The server did not answer; the message says what happened instead."""


class LimitReached(Exception):
    """More requests were about to be sent than had been announced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request without its key."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response with all its bytes."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        return 400 <= self.status < 500

    def values(self, name: str) -> tuple[str, ...]:
        """The values of the header *name*, one for each of its lines."""
        return tuple(value for found, value in self.headers if found.lower() == name.lower())

    def same_as(self, other: Answer) -> bool:
        """Whether status and body are those of *other*."""
        return (self.status, self.body) == (other.status, other.body)

    def __str__(self) -> str:
        """The status and the beginning of the body, for people."""
        text = " ".join(self.body.decode(errors="replace").split())
        return f"{self.status} {text[:100]}{'…' if len(text) > 100 else ''}".rstrip()


class Wire:
    """
    The way to the server at *url*.

    *timeout* is in seconds, for each connection and each read. Raises `ValueError` for a URL that is none.
    """

    def __init__(self, url: str, *, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not the URL of a server: write http://HOST:PORT or https://HOST.")
        self.url = url.rstrip("/")
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.prefix = parts.path.rstrip("/")
        self._host, self._port = parts.hostname, parts.port
        self._secure = parts.scheme == "https"
        self._timeout = timeout
        self._lock = threading.Lock()
        self.sent = 0
        self.limit = 0

    def allow(self, requests: int) -> None:
        """Let so many *requests* more be sent."""
        self.limit = self.sent + requests

    def send(self, request: Request, keys: Iterable[str] = ()) -> Answer:
        """Send the whole *request*, with a header line for each of the *keys*. Raises `NoAnswer`."""
        with Exchange(self, request, keys) as exchange:
            exchange.send_head()
            exchange.send_body(request.body)
            return exchange.answer()

    def connection(self) -> http.client.HTTPConnection:
        """A new connection, which counts as a request."""
        with self._lock:
            if self.sent >= self.limit:
                raise LimitReached(f"More than the {self.limit} requests that were announced.")
            self.sent += 1
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=self._timeout)


class Exchange:
    """
    One request on a connection of its own, which a check can send in pieces.

    The connection is open from the beginning of the block until its end. What fails raises `NoAnswer`.
    """

    def __init__(self, wire: Wire, request: Request, keys: Iterable[str] = ()) -> None:
        self._request = request
        self._path = wire.prefix + request.path
        self._keys = tuple(keys)
        self._connection = wire.connection()
        try:
            self._connection.connect()
        except OSError as error:
            self._connection.close()
            raise NoAnswer(f"No connection: {error}") from error

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, whatever is on its way."""
        self._connection.close()

    def send_head(self) -> None:
        """Send the request line and the headers, which announce the whole body."""
        request, connection = self._request, self._connection
        connection.putrequest(request.method, self._path, skip_accept_encoding=True)
        for name, value in request.headers.items():
            connection.putheader(name, value.encode())
        for key in self._keys:
            connection.putheader(KEY_HEADER, key.encode("latin-1"))
        if request.body:
            connection.putheader("Content-Length", str(len(request.body)))
        connection.putheader("Connection", "close")
        self._try(connection.endheaders)

    def send_body(self, part: bytes) -> None:
        """Send *part* of the body."""
        if part:
            self._try(self._connection.send, part)

    def end_early(self) -> None:
        """Send no more, and wait until the server has noticed: it answers, or hangs up. At most `NOTICE` seconds."""
        try:
            self._connection.sock.settimeout(NOTICE)
            self._connection.sock.shutdown(socket.SHUT_WR)
            self._connection.sock.recv(1)
        except OSError:
            pass  # whatever the server makes of it

    def answer(self) -> Answer:
        """Read the answer to its end."""
        try:
            response = self._connection.getresponse()
            body = response.read()
        except TimeoutError as error:
            raise NoAnswer(f"No answer within {self._connection.timeout} s.") from error
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"No answer: {error or type(error).__name__}") from error
        return Answer(status=response.status, headers=tuple(response.getheaders()), body=body)

    def _try(self, send: Callable[..., object], *arguments: bytes) -> None:
        try:
            send(*arguments)
        except (BrokenPipeError, ConnectionResetError):
            pass  # a server may answer, and hang up, before it has read everything: the answer is read all the same
        except OSError as error:
            raise NoAnswer(f"It could not be sent: {error}") from error
