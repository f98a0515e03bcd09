import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.app.serving import TIMEOUT, background, browser, client, edge, gate, protect, serve

__all__ = ["background", "browser", "client", "edge", "gate", "protect", "serve"]


@pytest.fixture
def send(live_server: Any) -> Callable[[bytes], bytes]:
    """Send the bytes of a whole request to a real server, and get the bytes of its answer."""
    address = urlsplit(live_server.url)

    def send(request: bytes) -> bytes:
        with socket.create_connection((address.hostname, address.port), timeout=TIMEOUT) as connection:
            connection.sendall(request)
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
        return b"".join(parts)

    return send
