"""Proxies that lose, at random, some of what clients send under load, or the replies to it; and a line to cut."""

import random
import socket
import threading
from contextlib import suppress

from tests.lab.proxy import HEADER, Proxy

PATIENCE = 10  # seconds that the server has for a reply that is to be lost


class Wire:
    """
    A line to *host* at *port*, at a `port` of its own, that can be cut: then nothing passes, and nobody is told.

    Who connects to a cut line waits, as for a host that is away.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._whole = threading.Event()
        self._whole.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def lead(self, port: int) -> None:
        """To another port, from the next connection on."""
        self._server = (self._server[0], port)

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._whole.wait()
        with suppress(OSError), client, socket.create_connection(self._server) as server:
            other = threading.Thread(target=self._pass, args=(server, client), daemon=True)
            other.start()
            self._pass(client, server)
            other.join()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while message := source.recv(1 << 16):
                self._whole.wait()
                target.sendall(message)
        self._whole.wait()  # an end is a message, too
        for sock in (source, target):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class Losing(Proxy):
    """
    Loses a *share* of the messages that `is_wanted`: the "request", some of its "body", or the "reply" to it.

    The connection is cut, so that the client knows that it knows nothing.
    """

    def __init__(self, host: str, port: int, what: str, share: float) -> None:
        self.what = what
        self.share = share
        self.lost = 0
        self._draw = random.Random(what)
        super().__init__(host, port)

    def is_wanted(self, message: bytes) -> bool:
        return True

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):  # the server is away, or one side has hung up
            super()._serve(client)

    def _is_lost(self, message: bytes, client: socket.socket, server: socket.socket) -> bool:
        if not self.is_wanted(message) or self._draw.random() >= self.share:
            server.sendall(message)
            return False
        self.lost += 1
        if self.what == "body":
            begin = message.index(b"\r\n\r\n") + 4
            server.sendall(message[: self._draw.randrange(begin, len(message))])
            server.shutdown(socket.SHUT_WR)  # as of a client that is gone; the server may still answer
            server.settimeout(PATIENCE)
            with suppress(OSError):
                server.recv(1 << 20)
        elif self.what == "reply":
            server.sendall(message)
            server.settimeout(PATIENCE)
            with suppress(OSError):
                server.recv(1 << 20)  # the work is done; the client never hears of it
        return True


class LosingCommits(Losing):
    """Loses COMMIT, or the database's reply to it: alone, or in one message or one procedure with the record."""

    def is_wanted(self, message: bytes) -> bool:
        return message[HEADER:].rstrip(b"\0").endswith(b"COMMIT") or b"CALL django_idempotency_commit_v" in message
