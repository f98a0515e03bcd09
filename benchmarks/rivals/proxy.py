"""A proxy that counts round trips: how often a client has to wait for a server's answer."""

from __future__ import annotations

import socket
import threading
from typing import Self
from urllib.parse import urlsplit


class CountingProxy:
    """
    Listens on a port of this machine and passes all on to the server that a URL names.

    `url` is that URL through the proxy, `trips` the count. What a client sends before an answer comes is one trip.
    """

    def __init__(self, url: str, usual_port: int) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or "127.0.0.1", parts.port or usual_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        credentials, at, _ = parts.netloc.rpartition("@")
        self.url = parts._replace(netloc=f"{credentials}{at}{host}").geturl()
        self.trips = 0
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for end in self._sockets:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # its other side has closed it
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # the block has ended
            server = socket.create_connection(self._server)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets.append(end)
            answered = threading.Event()
            answered.set()
            for source, target, is_client in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, target, is_client, answered), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_client: bool, answered: threading.Event) -> None:
        try:
            while data := source.recv(65536):
                if not is_client:
                    answered.set()
                elif answered.is_set():
                    answered.clear()
                    self.trips += 1
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one side is gone, and the other one gets to know by itself
