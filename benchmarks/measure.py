"""
One database's figures: whole DRF views with token authentication, called through Django's WSGI handler in one process.

Each round calls every case once, in a shuffled order, and gives one ratio per case against the same round's view in
`atomic`. The median of the ratios is the figure: the machine's speed drops out of it.

`DATABASE_URL` names the database, `REDIS_URL` a Redis, if one is to be used. `WIRE_PORT`, if set, is that of a proxy to
the database's server, which is used as soon as the tables are there.
"""

import gc
import json
import os
import random
import re
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any
from urllib.parse import urlsplit

from benchmarks.calls import Caller, database
from benchmarks.project import redis
from benchmarks.wire import Wire

WARM_UP = 40  # rounds
REFUSED_EVERY = 3  # one round in so many is one with the refused duplicate
COUNTED = 3  # calls of a case whose statements are counted: the first finds out, and some write the hour's counts
PINGS = 200  # of the server, for what a round trip takes
# Not counted. One that travels with a statement of ours is that statement.
OF_A_TRANSACTION = re.compile(r"(BEGIN( IMMEDIATE)?|COMMIT|ROLLBACK|(RELEASE )?SAVEPOINT [^;]*)")

Case = Callable[[], float]


def main(rounds: int, names: Iterable[str]) -> dict[str, Any]:
    """Measure the cases *names* for that many *rounds*; the result is JSON."""
    with database():
        from django.db import connection
        from django.test.utils import override_settings

        caller = Caller()
        cases: dict[str, Case] = {name: getattr(caller, name) for name in names}
        if "phased_replay" in cases:
            caller.expect("201", "phased", "replayed", "the first")
        refused = cases.pop("refused", None)
        if port := os.environ.get("WIRE_PORT"):
            go_through(int(port))
        times = timed(cases, rounds)
        if refused and connection.vendor != "sqlite":  # its one writer hides claims in flight
            with caller.held():
                held = timed({"atomic": caller.atomic, "refused": refused}, rounds // REFUSED_EVERY)
        else:
            held = {}
        result: dict[str, Any] = {
            "server": server(),
            "milliseconds": {case: statistics.median(spent) * 1000 for case, spent in times.items()},
            "ratios": ratios(times) | ratios(held),
            "ping": ping(),
        }
        if "get" in times:
            pairs = zip(times["get_by_middleware"], times["get"], strict=True)
            result["added"] = statistics.median(through - without for through, without in pairs) * 1_000_000
        if held:
            cases["refused"] = refused  # type: ignore[assignment]  # or nothing would be held
        result["statements"] = {case: statements(caller, case, run) for case, run in cases.items()}
        if connection.vendor != "sqlite" and not port:
            wire = Wire(os.environ["DATABASE_URL"])
            go_through(wire.port)
            result["trips"] = trips(caller, cases, wire)
        if url := os.environ.get("REDIS_URL"):
            wire = Wire(url)
            parts = urlsplit(url)
            user, at, _ = parts.netloc.rpartition("@")
            with override_settings(**redis(parts._replace(netloc=f"{user}{at}127.0.0.1:{wire.port}").geturl())):
                result["redis_trips"] = trips(caller, cases, wire)
        return result


def timed(cases: dict[str, Case], rounds: int) -> dict[str, list[float]]:
    """The seconds of each case in each of the rounds after `WARM_UP`."""
    times: dict[str, list[float]] = {case: [] for case in cases}
    order = list(cases)
    gc.collect()
    gc.disable()
    for number in range(WARM_UP + rounds):
        random.shuffle(order)
        for case in order:
            spent = cases[case]()
            if number >= WARM_UP:
                times[case].append(spent)
        if number % 50 == 0:
            gc.collect()
    gc.enable()
    return times


def ratios(times: dict[str, list[float]]) -> dict[str, list[float]]:
    """Each case's ratios against the view in `atomic` of the same round."""
    return {
        case: [ours / bare for ours, bare in zip(spent, times["atomic"], strict=True)]
        for case, spent in times.items()
        if case != "atomic"
    }


def statements(caller: Caller, case: str, run: Case) -> int:
    """How many statements *run* sends, less those that only begin or end a transaction."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    def count() -> int:
        with CaptureQueriesContext(connection) as captured:
            run()
        return sum(not OF_A_TRANSACTION.fullmatch(query["sql"].strip()) for query in captured)

    with caller.held() if case == "refused" else nullcontext():
        return min(count() for _ in range(COUNTED))


def trips(caller: Caller, cases: dict[str, Case], wire: Wire) -> dict[str, int]:
    """How often each case waits for the server behind *wire*."""
    counted = {}
    for case, run in cases.items():

        def count(run: Case = run) -> int:
            before = wire.trips
            run()
            return wire.trips - before

        with caller.held() if case == "refused" else nullcontext():
            counted[case] = min(count() for _ in range(COUNTED))
    return counted


def go_through(port: int) -> None:
    """Let this process's connections lead through the proxy on *port*."""
    from django.db import connection

    connection.close()
    connection.settings_dict.update(HOST="127.0.0.1", PORT=str(port))


def ping() -> float:
    """Milliseconds of the smallest round trip."""
    from django.db import connection

    spent = []
    with connection.cursor() as cursor:
        for _ in range(PINGS):
            begun = time.perf_counter()
            cursor.execute("SELECT 1")
            spent.append(time.perf_counter() - begun)
    return statistics.median(spent) * 1000


def server() -> str:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT sqlite_version()" if connection.vendor == "sqlite" else "SELECT version()")
        version = cursor.fetchone()[0]
    match connection.vendor:
        case "postgresql":
            return " ".join(version.split()[:2])
        case "mysql":
            return f"MariaDB {version.split('-')[0]}" if "MariaDB" in version else f"MySQL {version}"
        case _:
            return f"SQLite {version}"


if __name__ == "__main__":
    print(json.dumps(main(int(os.environ["ROUNDS"]), os.environ["CASES"].split())))
