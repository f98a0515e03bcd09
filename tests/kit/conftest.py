"""The gallery of views, served in a database that a test may commit to, and in a `TestCase`'s."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.core.cache import cache

from tests.app.serving import browser  # noqa: F401 a fixture


@pytest.fixture
def gallery(settings):
    """Serve the gallery."""
    settings.ROOT_URLCONF = "tests.kit.gallery"
    cache.clear()


@pytest.fixture
def gateway(settings) -> Iterator[list[str]]:
    """A server of somebody else's; the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        settings.GATEWAY_PORT = server.server_address[1]
        yield asked
        server.shutdown()
        thread.join()
