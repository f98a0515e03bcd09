"""
A few of the faults, and a few dozen kills, on the database of this run: `make faults` makes all of them, at length.

The server is the suite's own, so that it can be killed.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import kills
from benchmarks.faults.catalogue import FAULTS, Fault
from benchmarks.faults.clusters import postgresql
from benchmarks.faults.run import make
from benchmarks.faults.stage import Database, database
from tests.app.serving import VENDOR
from tests.servers import Missing

pytestmark = [pytest.mark.kill, pytest.mark.slow]

# What matters most on each, and how often it is made.
CHOSEN = {
    "postgresql": {"the reply to COMMIT is lost": 6, "the database is killed with -9 under load": 2},
    "mariadb": {"COMMIT is lost on the way to the database": 6, "the database is killed with -9 under load": 2},
    "sqlite": {"a gunicorn worker is killed with -9": 8, "an answer is lost on the way to the client": 10},
}
PLANTED = {
    "postgresql": {"COMMIT is lost on the way to the database": 8},
    "mariadb": {"COMMIT is lost on the way to the database": 8},
    "sqlite": {"an answer is lost on the way to the client": 8},
}
KILLS = 60


@pytest.fixture(scope="module")
def server() -> Iterator[Database]:
    yield from started(VENDOR)


def started(kind: str) -> Iterator[Database]:
    try:
        with database(kind) as server:
            yield server
    except Missing as missing:
        if os.environ.get("REQUIRE_SERVERS", "") not in ("", "0"):
            raise
        pytest.skip(f"no {kind} of our own: {missing}")


def chosen(table: dict[str, dict[str, int]]) -> list[Any]:
    """The faults of *table* for this run's database, with their numbers."""
    names = table.get(VENDOR, {})
    return [pytest.param(fault, names[fault.name], id=fault.name) for fault in FAULTS if fault.name in names]


@pytest.mark.parametrize(("fault", "rounds"), chosen(CHOSEN))
def test_the_law_holds_under(server, tmp_path, fault: Fault, rounds: int):
    """While clients pay and the fault is made: one effect and one answer per key, and every key is answered."""
    seen = make(fault, VENDOR, server, tmp_path, rounds=rounds)

    assert seen["violations"] == {}, seen["as"]
    assert seen["faults"] > 0
    assert seen["statuses"][201] >= seen["keys"] > 0


@pytest.mark.parametrize(("fault", "rounds"), chosen(PLANTED))
def test_a_planted_bug_is_caught_by(server, tmp_path, fault: Fault, rounds: int):
    """The same fault and the same checker, and a mistake that this fault brings to light: it is reported."""
    seen = make(fault, VENDOR, server, tmp_path, rounds=rounds, bug=fault.bug_on(VENDOR))

    assert set(seen["violations"]) & set(fault.caught), seen


@pytest.fixture(scope="module")
def primary_and_standby() -> Iterator[Database]:
    yield from started(postgresql.KIND)


@pytest.mark.skipif(VENDOR != "postgresql", reason="the failover is PostgreSQL's")
@pytest.mark.parametrize("commit", ["on", postgresql.LOCAL])
def test_a_standby_takes_over(primary_and_standby, tmp_path, commit: str):
    """
    The primary is killed under load: what has an answer is on a synchronous standby, and the retry there gets it.

    On an asynchronous one that lags, some answers are lost, effect and record alike.
    """
    fault = next(each for each in postgresql.FAULTS if each.make.args == ("kill", commit, postgresql.both))

    seen = make(fault, postgresql.KIND, primary_and_standby, tmp_path, rounds=1)

    assert seen["violations"] == {}, seen["as"]
    assert seen["faults"] == 1
    assert bool(seen["lost whole"]) == (commit == postgresql.LOCAL)


def test_kills_at_any_point_and_instant(server, tmp_path: Path, count):
    """Processes that die by SIGKILL at a statement or an instant, and their retries: one effect, one answer per key."""
    seen = kills.kill(VENDOR, server, KILLS, tmp_path)
    count(f"{VENDOR}, at random", kills=seen["kills"], violations=sum(seen["violations"].values()))

    assert seen["violations"] == {}, seen["as"]
    assert seen["kills"] >= KILLS
    assert 0 < seen["instants"] < seen["kills"]


def test_kills_in_phases(server, tmp_path: Path, count):
    """One order, one charge at the gateway, one shipment, and one answer that names them."""
    seen = kills.kill(VENDOR, server, KILLS // 3, tmp_path, phased=True)
    count(f"{VENDOR}, in phases, at random", kills=seen["kills"], violations=sum(seen["violations"].values()))

    assert seen["violations"] == {}, seen["as"]
    assert 0 < seen["instants"] < seen["kills"]


@pytest.mark.parametrize(
    ("bug", "phased", "violation"),
    [
        # Committed before its work, a claim is left behind; after its phase, a recovery point is missing.
        pytest.param("early commit", False, "a claim left behind", id="a claim"),
        pytest.param(kills.BUGS_IN_PHASES[0], True, "more than one effect", id="a recovery point"),
    ],
)
def test_kills_catch_a_commit_at_the_wrong_time(server, tmp_path: Path, bug: str, phased: bool, violation: str):
    """A kill falls between the two commits by chance, so they are made until the checker has seen one that did."""
    for seed in range(20):
        seen = kills.kill(VENDOR, server, KILLS // 2, tmp_path, phased=phased, lanes=2, bug=bug, seed=seed)
        if violation in seen["violations"]:
            return
    pytest.fail(f"{20 * KILLS // 2} kills, and the planted bug was not seen")
