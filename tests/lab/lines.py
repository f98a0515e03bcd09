"""JSON lines over a socket, between a test and the processes that it kills."""

import json
import select
import socket
from typing import Any

TIMEOUT = 90  # seconds after which the other side is taken for hung


class Lines:
    """One end of a connection. A process that was killed ends the other end's lines."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._file = sock.makefile("rb")

    def send(self, message: Any) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> Any:
        """The next message, or None when the other side is gone."""
        try:
            line = self._file.readline()
        except ConnectionError:
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    def is_waiting(self, seconds: float) -> bool:
        """Does a message, or the end, arrive within so many *seconds*?"""
        return bool(select.select([self._socket], [], [], seconds)[0])

    @property
    def is_closed(self) -> bool:
        return self._socket.fileno() == -1

    def close(self) -> None:
        self._file.close()
        self._socket.close()
