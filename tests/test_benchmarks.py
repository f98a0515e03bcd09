"""The benchmarks run; what they find is not asked."""

import json
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
from benchmarks.rivals.contenders import CONTENDERS, Services
from benchmarks.rivals.entry import Entry, Trips
from benchmarks.rivals.page import faster
from benchmarks.rivals.page import page as page_of_rivals
from benchmarks.rivals.trials import TRIALS
from benchmarks.scale import growing
from benchmarks.scale.large import KEPT
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


# --- rivals ---


def rival(name, *, first, replay, **outcomes):
    """A contender that has come through the run: its ratios, and what each trial said."""
    entry = Entry(
        name=name,
        contender=CONTENDERS[name],
        services=Services(database_url="", redis_url="", namespace="", folder=""),
        log=Path(),
    )
    entry.times = {"bare": [1.0, 1.0], "first": [first, first], "replay": [replay, replay]}
    entry.trips = {case: Trips(database=4, redis=0) for case in entry.times}
    entry.versions = {entry.contender.package: "1.0", "django": "6.1", "python": "3.13"}
    said = dict(zip(TRIALS, ("the same answer: 1 payment", *["201 at once: 1 payment"] * 2), strict=False))
    entry.outcomes = {
        **said,
        "another user, the same key": "201, and 2 payments: one for each",
        "token revoked, then retried": "401: 1 payment",
        "the same key, another body": "422: 1 payment",
        **outcomes,
    }
    return entry


def test_who_is_faster_is_named_with_what_it_keeps():
    """Against the first row of ours, and against the best one, if that is another."""
    ours, cached = rival("ours", first=1.3, replay=0.7), rival("ours-replay-cache", first=1.4, replay=0.5)
    unsafe = rival(
        "drf-idempotency",
        first=1.2,
        replay=0.4,
        **{
            "token revoked, then retried": "still gets the answer: 1 payment",
            "killed between work and answer, then retried": "409 for 30 s, then 201: 2 payments",
        },
    )
    careful = rival("justonce", first=1.9, replay=0.6)

    text = " ".join(faster([ours, cached, unsafe, careful]).split())

    assert "First executions faster than django-idempotency with its keys in PostgreSQL** (1.30x): drf-idempot" in text
    assert "(0.40x; callers not kept, after a crash paid twice); justonce with its keys in PostgreSQL (0.60x; " in text
    assert "Replays faster than django-idempotency with its keys in PostgreSQL, with a replay cache in Redis**" in text
    assert text.count("justonce") == 1  # the cached row is ahead of it


def test_what_was_refused_for_ever_has_paid_once():
    """It is neither kept nor broken."""
    stuck = rival(
        "agent-once",
        first=1.5,
        replay=0.9,
        **{"killed between work and answer, then retried": "still 409 after 60 s, 1 payment"},
    )

    assert stuck.after_crash == "paid once, never answered"
    assert "| kept | paid once, never answered |" in page_of_rivals([rival("ours", first=1, replay=1), stuck], [], 2)


# --- scale ---


LARGE = {
    "server": "PostgreSQL 15.20",
    "date": "2026-11-30",
    "busy": False,
    "size": 30_000_000,
    "sizes": {"rows": 18_000_000_000, "digest": 2_400_000_000, "key": 2_400_000_000, "expires": 600_000_000},
    "slack": 1.1,
    "slack of a fill": 1.0,
    "warm": {"first": 1.3, "replay": 0.7},
    "log": {"bytes": 12_000, "pages": 2.0},
    "indexes": {name: {"levels": 2, "leaves": 200_000, "inner": 1000} for name in growing.INDEXES},
    "look-ups": {name: {"plan": "Index Scan", "pages": 4} for name in ("digest", "key")},
    "purge": {"rows": 200_000, "begun": 10.0, "ended": 12.0},
}


def test_a_billion_is_worked_out_from_what_was_measured():
    """Rows are taken as requests leave them, and an index grows by a level when its pages have no more room."""
    text = " ".join(growing.figures(LARGE).split())

    assert "| rows | 18 GB | 660 GB |" in text  # 600 bytes each, and a tenth of slack
    assert "| index of `digest` | 2.4 GB, 3 levels | 80 GB, 4 levels |" in text
    assert "| **together** | 23.4 GB | 840 GB |" in text
    assert "| memory for the indexes of random values | 4.8 GB | 160 GB |" in text
    assert "one day's at 11,574 first executions per second**, or 11.6 days' at 1,000" in text
    assert "are 12 TB, at that rate 139 MB per second" in text
    assert "100,000 per second on the idle machine. 1,000,000,000 take 2.8 hours" in text


def test_the_page_has_the_figures_that_were_kept():
    """Nobody has typed them."""
    assert growing.figures(json.loads(KEPT.read_text())) in growing.PAGE.read_text()
