"""A proxy in front of an HTTP server that loses requests and answers, whole or in part."""

import random
import socket
import threading
from collections import Counter
from contextlib import suppress

from tests.lab.proxy import Proxy

PATIENCE = 30  # seconds for the server's answer to what the proxy passed on
WAYS = ("request", "half of a request", "answer", "half of an answer", "answer, held")


class LossyProxy(Proxy):
    """
    Loses a *share* of what passes, in one of `WAYS`, which `lost` counts.

    A held answer leaves its client waiting, until the client gives up or dies; `holding` says that one waits.
    `next_way` chooses what becomes of the next exchange.
    """

    def __init__(self, host: str, port: int, share: float = 0.0) -> None:
        self.share = share
        self.lost: Counter[str] = Counter()
        self.holding = threading.Event()
        self.next_way: str | None = None
        self._draw = random.Random(17)
        self._lock = threading.Lock()
        super().__init__(host, port)

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):  # one side has hung up
            super()._serve(client)

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        server.settimeout(PATIENCE)
        while request := read_message(client):
            way = self._way()
            if way == "request":
                return
            if way == "half of a request":
                server.sendall(request[: len(request) // 2 + len(request.partition(b"\r\n\r\n")[0]) // 2])
                return
            server.sendall(request)
            answer = read_message(server)
            if way == "answer":
                return
            if way == "half of an answer":
                client.sendall(answer[:-5])
                return
            if way == "answer, held":
                self.holding.set()
                client.recv(1)  # the end
                return
            client.sendall(answer)
            if b"\r\nconnection: close" in answer.partition(b"\r\n\r\n")[0].lower():
                return

    def _way(self) -> str | None:
        with self._lock:
            way, self.next_way = self.next_way, None
            if way is None and self._draw.random() < self.share:
                way = self._draw.choice(WAYS)
            if way is not None:
                self.lost[way] += 1
        return way


def read_message(sock: socket.socket) -> bytes:
    """One message with a `Content-Length`; nothing if the other side has closed."""
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0:
        if not (chunk := sock.recv(65536)):
            return b""
        received += chunk
    lines = received[:end].decode("latin-1").split("\r\n")[1:]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    whole = end + 4 + int(headers.get("content-length", "0"))
    while len(received) < whole:
        if not (chunk := sock.recv(65536)):
            break
        received += chunk
    return received
