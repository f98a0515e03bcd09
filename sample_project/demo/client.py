"""The API's client: plain HTTP over TCP, a retry loop, and two ways to lose an answer."""

import hashlib
import http.client
import json
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from email.message import Message
from types import TracebackType
from typing import Any, Self

TIMEOUT = 25  # seconds; for one answer, and for all attempts at one
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # linger on, for no time


def sha(body: bytes) -> str:
    """A short SHA-256, enough to distinguish two bodies."""
    return hashlib.sha256(body).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: Message
    body: bytes
    refusals: int = 0  # how often the client was told to retry before it got this

    @property
    def sha(self) -> str:
        return sha(self.body)

    @property
    def replayed(self) -> str:
        return self.headers.get("Idempotency-Replayed", "absent")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The `code` of a refusal, from its problem details."""
        return str(self.json.get("code", "none"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A POST, ready to be sent again exactly as it was."""

    path: str
    payload: dict[str, Any]
    token: str = ""
    key: str = ""
    headers: dict[str, str] = field(init=False)
    body: bytes = field(init=False)

    def __post_init__(self) -> None:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Token {self.token}"
        if self.key:
            headers["Idempotency-Key"] = f'"{self.key}"'
        object.__setattr__(self, "headers", headers)
        object.__setattr__(self, "body", json.dumps(self.payload).encode())


def send(
    address: tuple[str, int],
    request: Request,
    *,
    via: tuple[str, int] | None = None,
    together: threading.Barrier | None = None,
) -> Answer:
    """
    One attempt, for which *via* may be the way. With *together*, all connect first and then send at once.

    Raises `OSError` when no answer came.
    """
    connection = http.client.HTTPConnection(*(via or address), timeout=TIMEOUT)
    host, port = address
    try:
        connection.connect()
        if together:
            together.wait(TIMEOUT)
        headers = {**request.headers, "Host": f"{host}:{port}"}
        connection.request("POST", request.path, request.body, headers)
        response = connection.getresponse()
        return Answer(status=response.status, headers=response.headers, body=response.read())
    except http.client.HTTPException as error:  # a partial answer is none
        raise ConnectionError(str(error)) from error
    finally:
        connection.close()


def send_until_answered(
    address: tuple[str, int], request: Request, *, together: threading.Barrier | None = None
) -> Answer:
    """What a good client does: repeat the request, after `Retry-After`, until there is an answer."""
    deadline = time.monotonic() + TIMEOUT
    refusals = 0
    while True:
        answer = send(address, request, together=together)
        together = None
        wait = answer.headers.get("Retry-After")
        if wait is None or time.monotonic() + int(wait) > deadline:
            return Answer(status=answer.status, headers=answer.headers, body=answer.body, refusals=refusals)
        refusals += 1
        time.sleep(int(wait))


def reset(connection: http.client.HTTPConnection) -> None:
    """Reset the connection: the other side's next packet gets an error."""
    assert connection.sock is not None  # noqa: S101 - only called on a connection that has been used
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    connection.close()


class LossyProxy:
    """
    Carries one request to the server and loses the answer: it takes every byte of it, then resets.

    `lost` is the body that never arrived.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self.server = server
        self.lost = b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(TIMEOUT)
        self.address: tuple[str, int] = self.listener.getsockname()
        self.thread = threading.Thread(target=self.carry, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.thread.join(TIMEOUT)
        self.listener.close()

    def carry(self) -> None:
        client, _ = self.listener.accept()
        with client, socket.create_connection(self.server, timeout=TIMEOUT) as server:
            # Both in one thread: closing a socket sends a reset only if no other thread reads it.
            while server not in (ready := select.select([client, server], [], [], TIMEOUT)[0]):
                if not ready or not (chunk := client.recv(65536)):
                    return
                server.sendall(chunk)
            response = http.client.HTTPResponse(server)
            response.begin()
            self.lost = response.read()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
