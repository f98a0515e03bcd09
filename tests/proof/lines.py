"""JSON, a line for each message, over a socket: how a test and the processes that it kills talk."""

import json
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

    def close(self) -> None:
        self._file.close()
        self._socket.close()
