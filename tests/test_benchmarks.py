"""The benchmarks run; what they find is not asked."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.page import KEYS_IN_REDIS, REPLAY_CACHE, Results, with_redis
from benchmarks.wire import Wire

ROOT = Path(__file__).parent.parent
DELAY = 0.02  # seconds


@pytest.mark.slow
def test_a_page_is_written(vendor, tmp_path):
    """One round of everything that needs no server gives a page with a figure in each cell that has one."""
    if vendor != "sqlite":
        pytest.skip("The benchmarks choose their databases themselves: once is enough.")
    page = tmp_path / "page.md"

    subprocess.run(
        [sys.executable, "-m", "benchmarks", "--database", "SQLite", "--output", page],
        cwd=ROOT,
        env={**os.environ, "ROUNDS": "3", "RUNS": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
    )

    text = page.read_text()
    assert re.search(r"^\| SQLite [0-9.]+ \| [0-9.]+x \([0-9.]+ to [0-9.]+\) \| [0-9.]+x \| waits \|", text, re.M)
    assert re.search(r"^\| SQLite [0-9.]+ \| 5 \| 2 \|  \| 2 \| 2 \|$", text, re.M)  # statements
    assert re.search(
        r"^\| SQLite [0-9.]+ \| [0-9.]+x \| [0-9]+ µs \| -?[0-9.]+ µs \|$", text, re.M
    )  # by the middleware
    assert re.search(r"^\| SQLite [0-9.]+ \| [0-9.]+x \| [0-9.]+x \| [0-9]+ \| [0-9.]+ ms \|$", text, re.M)  # in phases
    assert re.search(r"walks 2,000 routes in [0-9.]+ s", text)
    assert re.search(r"^\| fingerprint \| [0-9]+ \| [0-9]+ \|$", text, re.M)


@pytest.fixture
def server():
    """The URL of a server that answers a line when it has all of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    connection.sendall(line)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"postgres://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join()


@pytest.fixture
def ask(server):
    """Send parts of a line to *server* through a wire, one by one, and read the answer; the wire and its time."""
    wire = Wire(server, delay=DELAY)
    with socket.create_connection(("127.0.0.1", wire.port)) as client, client.makefile("rb") as answers:

        def run(*parts: bytes) -> tuple[int, float]:
            before, begun = wire.trips, time.monotonic()
            for part in parts:
                client.sendall(part)
            assert answers.readline() == b"".join(parts)
            return wire.trips - before, time.monotonic() - begun

        yield run


def test_a_wire_counts_how_often_the_client_waits(ask):
    """However many messages a client sends before it waits for an answer, it waits once, and as long as asked."""
    for parts in [(b"one\n",), (b"two", b" messages\n"), (b"three\n",)]:
        trips, seconds = ask(*parts)

        assert trips == 1
        assert seconds >= DELAY


def test_a_store_in_redis_is_compared_with_both_bare_views():
    """Each figure is a median of ratios within one round."""
    run = {"ratios": {"bare": [0.5, 0.8, 1.0], "first": [1.0, 1.2, 1.3], "replay": [0.5, 0.4, 0.6]}}
    results = Results(rounds=3, runs=1, seconds=0)
    results.ways = {("PostgreSQL", way): [run] for way in (REPLAY_CACHE, KEYS_IN_REDIS)}

    table = with_redis(results)[-1]

    assert "| keys in Redis | first | 1.20x | 1.50x |" in table
    assert "| `REPLAY_CACHE` | replay | 0.50x | 0.60x |" in table
