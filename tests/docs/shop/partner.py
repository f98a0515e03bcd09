"""Somebody who receives webhooks, for tests of what sends them."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread


class Partner(HTTPServer):
    def __init__(self, fails: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/hooks/"
        self.fails = fails
        self.seen: list[tuple[dict[str, str], bytes]] = []


class Handler(BaseHTTPRequestHandler):
    server: Partner

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((dict(self.headers), body))
        self.send_response(500 if len(self.server.seen) <= self.server.fails else 204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def receiving(*, fails: int = 0) -> Iterator[Partner]:
    """A partner that answers 500 to as many deliveries as it *fails*. `seen` has headers and body of each delivery."""
    with Partner(fails) as partner:
        thread = Thread(target=partner.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield partner
        finally:
            partner.shutdown()
            thread.join()
