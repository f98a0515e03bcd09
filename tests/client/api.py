"""A server whose answers a test chooses, one for each request, and which keeps what it got."""

import gzip
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from django_idempotency.exceptions import Refusal

PATIENCE = 30  # seconds that an answer is held back at most


@dataclass(frozen=True, slots=True)
class Received:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def key(self) -> str | None:
        return self.headers.get("idempotency-key")


class Api:
    """A context in which the server answers at `url`: the first request as the first of `acts` does, and so on."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.acts: list[Callable[[Handler], None]] = []
        self.ended = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"api": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()

    def will(self, *acts: Callable[["Handler"], None]) -> None:
        self.acts += acts

    @property
    def keys(self) -> list[str | None]:
        return [each.key for each in self.received]


class Handler(BaseHTTPRequestHandler):
    """Keeps each request, and answers it as the test said."""

    api: Api
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True  # the client has hung up

    def do_any(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.api.received.append(Received(self.command, self.path, headers, self._body()))
        self.api.acts.pop(0)(self)

    do_GET = do_POST = do_PATCH = do_PUT = do_any

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests look at `received`."""


def answers(status: int, body: Any = b"", **headers: str) -> Callable[[Handler], None]:
    """This answer; names of headers have `_` for `-`, and a body that is not bytes is JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.answer(status, named, content)


def refuses(refusal: type[Refusal], *, compressed: bool = False) -> Callable[[Handler], None]:
    """The package's answer, with its problem details, as Django's GZipMiddleware would send it if *compressed*."""
    headers = {"Content-Type": "application/problem+json"}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    body = json.dumps(refusal().problem()).encode()
    if compressed:
        headers["Content-Encoding"], body = "gzip", gzip.compress(body)
    return lambda handler: handler.answer(refusal.status, headers, body)


def cuts(handler: Handler) -> None:
    """Nothing: the connection ends."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def answers_half(handler: Handler) -> None:
    """Some of an answer, then the connection ends."""
    handler.answer(201, {"Content-Length": "100"}, b'{"id": ')
    cuts(handler)


def holds(handler: Handler) -> None:
    """Nothing, until the test ends."""
    handler.api.ended.wait(PATIENCE)
    handler.close_connection = True
