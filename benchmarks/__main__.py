"""
What protection costs, on every database that is there: `make bench`.

Prints one page and writes it to `docs/explanation/benchmarks.md`, or to `--output`. `ROUNDS` (600) in `RUNS` (3) and,
for each cell of the table of many clients, `SECONDS` (5) set the length. A timing of one machine says nothing about
another; ratios against the same view in `atomic`, in the same run, do.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.page import DIRECT, FAR, KEYS_IN_REDIS, NEW_CONNECTIONS, REPLAY_CACHE, Results, page
from benchmarks.wire import wire_to
from tests import servers

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "benchmarks.md"
NAME = f"idempotency_bench_{os.getpid()}"
IMPORTS = 3  # pairs of processes for each run, with and without the app
CASES = "bare atomic floor without_key first replay canned refused"
# On the usual way to each database.
USUAL_CASES = "by_middleware get get_by_middleware twice phased phased_replay insert first_insert"
WITH_REDIS_CASES = "bare atomic without_key first replay canned refused"
FAR_CASES = "atomic first replay"

Find = Callable[[ExitStack, str], str]
DATABASES: dict[str, Find] = {
    "SQLite": lambda stack, folder: f"sqlite:///{folder}/bench.sqlite3",
    "PostgreSQL": lambda stack, folder: servers.postgresql(stack).database_url(NAME),
    "MariaDB": lambda stack, folder: servers.mariadb(stack).database_url(NAME),
    "MySQL": lambda stack, folder: servers.mysql(stack).database_url(NAME),
}
# Ways to a database by its name: what is said of them, and the environment that asks for them. Those of `WITH_REDIS`
# need a Redis, too.
WAYS: dict[str, dict[str, dict[str, str]]] = {
    "SQLite": {"": {}},
    "PostgreSQL": {
        "": {},
        ", `FOLD` off": {"FOLD": "0"},
        ", no functions": {"ROUTINES": "0"},
        NEW_CONNECTIONS: {"CONN_MAX_AGE": "0"},
    },
    "MariaDB": {"": {}, ", `FOLD` off": {"FOLD": "0"}, ", no procedures": {"ROUTINES": "0"}},
    "MySQL": {"": {}, ", `FOLD` off": {"FOLD": "0"}, ", no procedures": {"ROUTINES": "0"}},
}
WITH_REDIS: dict[str, dict[str, dict[str, str]]] = {
    "PostgreSQL": {REPLAY_CACHE: {"REPLAY_CACHE": "1"}, KEYS_IN_REDIS: {"KEYS": "redis"}},
}

# What an installed app adds to the start of a process that uses Django, DRF's views and the admin's apps anyway.
START = """
import time, sys
from django.conf import settings
import django
apps = ["django.contrib.contenttypes", "django.contrib.auth", "rest_framework", *sys.argv[1:]]
settings.configure(INSTALLED_APPS=apps, SECRET_KEY="x",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
begun = time.perf_counter()
django.setup()
print(time.perf_counter() - begun)
"""


def main() -> int:
    """Measure, print, write the page. The exit code says whether any database was there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--database", action="append", choices=DATABASES, help="of all, this one only")
    parser.add_argument("--output", type=Path, default=PAGE, metavar="FILE", help="write the page there")
    options = parser.parse_args()
    results = Results(
        rounds=int(os.environ.get("ROUNDS", "600")),
        runs=int(os.environ.get("RUNS", "3")),  # a ratio differs more from one process to the next than inside one
        seconds=float(os.environ.get("SECONDS", "5")),
    )
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="idempotency-bench-"))
        urls = {}
        for name in options.database or DATABASES:
            try:
                urls[name] = DATABASES[name](stack, folder)
                if name != "SQLite":
                    stack.callback(servers.drop_databases, urls[name], f"test_{NAME}")  # a run that failed leaves it
            except servers.Missing as missing:
                print(f"left out: {name}: {missing}")
        try:
            redis = servers.redis(stack)
            results.redis = redis.version
        except servers.Missing as missing:
            redis = None
            print(f"left out: Redis: {missing}")
        results.start = added_start_time(results.runs * IMPORTS)
        results.audit = run("benchmarks.audit", "")
        measure_all(results, urls, redis and redis.url)
        if url := urls.get("PostgreSQL"):
            results.load = run("benchmarks.load", url, SECONDS=str(results.seconds), ROUNDS=str(results.rounds))
    text = page(results)
    options.output.write_text(text)
    print(text)
    return 0 if urls else 1


def measure_all(results: Results, urls: dict[str, str], redis: str | None) -> None:
    """Fill *results*, run by run, so that what else the machine does in a minute is not one way's alone."""
    each = str(max(results.rounds // results.runs, 1))
    for number in range(results.runs):
        for name, url in urls.items():
            for way, environment in WAYS[name].items():
                print(f"run {number + 1} of {results.runs}: {name}{way}", file=sys.stderr)
                cases = CASES if way else f"{CASES} {USUAL_CASES}"
                result = run("benchmarks.measure", url, **environment, ROUNDS=each, CASES=cases)
                results.ways.setdefault((name, way), []).append(result)
            for way, environment in WITH_REDIS.get(name, {}).items() if redis else ():
                print(f"run {number + 1} of {results.runs}: {name}{way}", file=sys.stderr)
                settings = environment | {"REDIS_URL": redis, "ROUNDS": each, "CASES": WITH_REDIS_CASES}
                results.ways.setdefault((name, way), []).append(run("benchmarks.measure", url, **settings))
            for delay in FAR.get(name, ()):
                print(f"run {number + 1} of {results.runs}: {name}, {delay:.0f} ms away", file=sys.stderr)
                with wire_to(url, delay / 1000) as port:
                    far = run("benchmarks.measure", url, WIRE_PORT=str(port), CASES=FAR_CASES, ROUNDS=each)
                    results.far.setdefault((name, delay), []).append(far)
        if "PostgreSQL" in urls:
            print(f"run {number + 1} of {results.runs}: async views", file=sys.stderr)
            results.async_views.append(run("benchmarks.async_views", urls["PostgreSQL"], ROUNDS=each))
            print(f"run {number + 1} of {results.runs}: observers", file=sys.stderr)
            results.observers.append(run("benchmarks.observers", urls["PostgreSQL"], ROUNDS=each))
    for name in DIRECT:
        if name in urls:
            print(f"Python's share: {name}", file=sys.stderr)
            results.profile[name] = run("benchmarks.profile", urls[name], ROUNDS=str(results.rounds))


def run(module: str, url: str, **environment: str) -> Any:
    """What *module* prints as JSON, of the database at *url*, from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", module],
        env={**os.environ, "REDIS_URL": "", **environment, "DATABASE_URL": url},
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(done.stdout)


def added_start_time(pairs: int) -> float:
    """Milliseconds that the app adds to `django.setup()`, as the median of pairs of processes."""

    def start(*apps: str) -> float:
        done = subprocess.run([sys.executable, "-c", START, *apps], check=True, stdout=subprocess.PIPE)
        return float(done.stdout) * 1000

    return statistics.median(start("django_idempotency") - start() for _ in range(pairs))


if __name__ == "__main__":
    sys.exit(main())
