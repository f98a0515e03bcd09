"""
A proxy in front of a server, that counts round trips or makes them longer: `python -m benchmarks.wire URL SECONDS`.

A round trip begins with what the client sends after the server has last answered: however many messages, it waits once.
"""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

USUAL_PORTS = {"postgres": 5432, "postgresql": 5432, "mysql": 3306, "redis": 6379}
TIMER_SLACK = 29  # prctl's PR_SET_TIMERSLACK, of the calling thread


class Wire:
    """Listens on `port`, passes all on to the server of *url*, and counts in `trips`; holds each back for *delay* s."""

    def __init__(self, url: str, delay: float = 0.0) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or "127.0.0.1", parts.port or USUAL_PORTS[parts.scheme])
        self._delay = delay
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.trips = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(self._server)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answered = threading.Event()
            answered.set()
            for source, target, of_client in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass, args=(source, target, of_client, answered), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, of_client: bool, answered: threading.Event) -> None:
        exact_sleep()
        try:
            while data := source.recv(1 << 16):
                if not of_client:
                    answered.set()
                elif answered.is_set():
                    answered.clear()
                    self.trips += 1
                    if self._delay:
                        time.sleep(self._delay)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one side is gone, and the other one gets to know by itself


def exact_sleep() -> None:
    """Let this thread sleep no longer than it asks for, where the kernel is Linux; elsewhere it is what it is."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(TIMER_SLACK, 1, 0, 0, 0)  # nanoseconds; 50,000 by default


@contextmanager
def wire_to(url: str, delay: float) -> Iterator[int]:
    """The port of a `Wire` in a process of its own, so that it takes no time of the client's interpreter."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.wire", url, str(delay)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:  # closes its input, at which it ends, and waits
        assert process.stdout is not None  # noqa: S101 for the type checker: it is a pipe
        yield int(process.stdout.readline())


if __name__ == "__main__":
    print(Wire(sys.argv[1], float(sys.argv[2])).port, flush=True)
    sys.stdin.read()
