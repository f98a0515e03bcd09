"""A TCP proxy in front of a database that loses a chosen message."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.lab.lines import TIMEOUT
from tests.lab.statements import label

HEADER = 5  # bytes before the text of a statement: PostgreSQL's type and length, MySQL's length, number and command


@dataclass(slots=True)
class Loss:
    """
    The message to lose, counted from 0 since `Proxy.lose`: the client's "request", or the server's "reply" to it, when
    the server has done what was asked. The connection is cut, or held until the client is killed.
    """

    number: int
    what: str
    cut: bool
    happened: threading.Event = field(default_factory=threading.Event)


class Proxy:
    """
    Passes what it gets, one message at a time: a client of these databases sends a message and waits for the reply.

    *seen* are the client's messages since `lose` was called, as a test's output names them.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._closing = False
        self._loss: Loss | None = None
        self.seen: list[str] = []
        self._spawn(self._accept)

    def lose(self, number: int, what: str, *, cut: bool) -> Loss:
        """Lose message *number* from now on. A number below 0 loses nothing and only counts."""
        self.seen = []
        self._loss = Loss(number, what, cut)
        return self._loss

    def close(self) -> None:
        self._closing = True
        for sock in (self._listener, *self._open):
            with suppress(OSError):  # its other end may have closed it already
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(TIMEOUT)
        self._listener.close()

    def _spawn(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            pair = {client, server}
            self._open |= pair
            with suppress(ConnectionError):
                self._pass(client, server)
            self._open -= pair

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            for sock in select.select([client, server], [], [])[0]:
                message = sock.recv(1 << 20)
                if not message:
                    return
                if sock is server:
                    client.sendall(message)
                elif self._is_lost(message, client, server):
                    return
                # else it has been passed on

    def _is_lost(self, message: bytes, client: socket.socket, server: socket.socket) -> bool:
        loss = self._loss
        number = len(self.seen)
        if loss is not None:
            self.seen.append(label(message[HEADER:].decode("latin-1").rstrip("\0")))
        if loss is None or loss.number != number:
            server.sendall(message)
            return False
        if loss.what == "reply":
            server.sendall(message)
            server.recv(1 << 20)  # the work is done; the client never hears of it
        loss.happened.set()
        if not loss.cut:
            with suppress(ConnectionError):
                client.recv(1)  # until the client is killed
        return True


@contextmanager
def proxy_to(host: str, port: int) -> Iterator[Proxy]:
    proxy = Proxy(host, port)
    try:
        yield proxy
    finally:
        proxy.close()
