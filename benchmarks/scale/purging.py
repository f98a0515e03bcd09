"""Purges of one table, in a process of its own: alone, under a load, and two at once."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from benchmarks.project import configure
from benchmarks.scale import disk, table

RATE = 100  # first executions per second of the load
QUIET = 15  # seconds of the load before the purge
FIRST_NUMBER = 1_000_000_000  # of rows that no other part of the benchmark asks for
AGE = timedelta(hours=48)


def main(count: int) -> dict[str, Any]:
    """Purge *count* expired records, in each of the ways that the database has."""
    configure()
    from django.db import connection

    result: dict[str, Any] = {"count": count}
    _expire(count)
    result["alone"] = purge()
    if connection.vendor != "postgresql":
        return result
    result["vacuum"] = _vacuum()
    _expire(count)
    with _load() as seen:
        time.sleep(QUIET)
        begun = time.monotonic()
        result["under load"] = _finish(_start())
        ended = time.monotonic()
    result["load"] = _compare(seen, begun, ended)
    _expire(count)
    result["two at once"] = [_finish(process) for process in [_start(), _start()]]
    return result


def purge() -> dict[str, float]:
    """Purge in this process: how many rows, in which time, and when (by the monotonic clock)."""
    from django_idempotency.operations import purging

    begun = time.monotonic()
    purged = purging.purge()
    ended = time.monotonic()
    return {"rows": purged.count, "seconds": ended - begun, "begun": begun, "ended": ended}


def _expire(count: int) -> None:
    """Leave that many expired records in the table, older than all others."""
    print(f"  {count:,} expired rows", file=sys.stderr, flush=True)
    table.fill(table.make_template(), range(FIRST_NUMBER, FIRST_NUMBER + count), age=AGE)
    disk.settle()


def _start() -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-m", __spec__.name, "one"], stdout=subprocess.PIPE, text=True)


def _finish(process: "subprocess.Popen[str]") -> dict[str, float]:
    output, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return dict(json.loads(output))


def _vacuum() -> float:
    """Seconds that PostgreSQL needs to clean up after a purge."""
    begun = time.monotonic()
    disk.settle()
    return time.monotonic() - begun


@contextmanager
def _load() -> Iterator[list[list[float]]]:
    """Inside, requests run; afterwards the list holds what they took."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scale.load", str(RATE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    seen: list[list[float]] = []
    try:
        if process.stdout.readline() != "started\n":
            raise RuntimeError("the load did not start")
        yield seen
        output, _ = process.communicate()
        seen.extend(json.loads(output))
    finally:
        process.kill()
        process.wait()


def _compare(seen: list[list[float]], begun: float, ended: float) -> dict[str, float]:
    """Medians and the slowest 1 % of claims and of whole requests, before and during the purge."""
    result: dict[str, float] = {"rate": RATE}
    phases = {
        "before": [measured for measured in seen if measured[0] < begun],
        "during": [measured for measured in seen if begun <= measured[0] < ended],
    }
    for phase, measured in phases.items():
        result[f"requests {phase}"] = len(measured)
        for place, name in ((1, "request"), (2, "claim")):
            times = sorted(request[place] for request in measured)
            result[f"{name} {phase}"] = statistics.median(times)
            result[f"{name} {phase}, p99"] = times[len(times) * 99 // 100]
    return result


if __name__ == "__main__":
    if sys.argv[1] == "one":
        configure()
        print(json.dumps(purge()))
    else:
        print(json.dumps(main(int(sys.argv[1]))))
