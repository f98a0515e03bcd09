"""
The same payment view under other packages, side by side: `make bench-rivals`.

Installs each package from PyPI into an environment of its own, below the folder `RIVALS` (.venv-rivals), tries what
each does in a crash, a race and a mix-up, measures all of them in turns, and writes `docs/explanation/rivals.md`.
`ROUNDS` (600) sets the length. With `BUSY=1` the page says that the machine does other things meanwhile.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.rivals.contenders import CONTENDERS, Services
from benchmarks.rivals.entry import CASES, TURN, Entry, Trips
from benchmarks.rivals.page import PAGE, page
from benchmarks.rivals.processes import ROOT, Failed, WorkerProcess, environment
from benchmarks.rivals.proxy import CountingProxy
from benchmarks.rivals.trials import TRIALS
from tests import servers

NAME = f"idempotency_rivals_{os.getpid()}"
AT_ONCE = 6  # contenders whose trials run: more would make refusals as slow as waits
COLD = 5  # rounds before each turn, which do not count: other processes have taken the caches of the machine
SETTLED = 0.3  # seconds after which nothing is on its way to a cache any more
COUNTED = 5  # requests of each case whose round trips are counted


def main() -> int:
    """Try, measure, write the page. The exit code says whether it was written."""
    turns = -(-int(os.environ.get("ROUNDS", "600")) // TURN)
    with ExitStack() as stack:
        try:
            postgresql = servers.postgresql(stack)
        except servers.Missing as missing:
            sys.exit(str(missing))
        redis, no_redis = None, None
        try:
            redis = servers.redis(stack)
        except servers.Missing as missing:
            no_redis = str(missing)
        stack.callback(clean_up, postgresql, redis)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{NAME}-")))
        entries = [
            Entry(
                name=name,
                contender=contender,
                services=Services(
                    database_url=postgresql.database_url(f"{NAME}_{number}"),
                    redis_url=redis.url if redis else "",
                    namespace=f"{NAME}_{number}",
                    folder=str(folder),
                ),
                log=folder / f"{name}.log",
                error=no_redis if contender.needs_redis else None,
            )
            for number, (name, contender) in enumerate(CONTENDERS.items())
        ]
        for entry in entries:
            attempt(prepare, entry, postgresql)
        # Several at the same time: locks that outlive their owners are waited for.
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda entry: attempt(run_trials, entry), entries))
        for entry in entries:
            attempt(count_trips, entry)
        measure([entry for entry in entries if entry.error is None], turns)
    if entries[0].error is not None:
        return 1  # the page is a comparison with us
    text = page(entries, [server.version for server in (postgresql, redis) if server], turns * TURN)
    PAGE.write_text(text)
    print(text)
    return 0


def attempt(step: Callable[..., None], entry: Entry, *arguments: Any, **options: Any) -> None:
    """Do *step* for an *entry* that has come so far."""
    if entry.error is not None:
        return
    try:
        step(entry, *arguments, **options)
    except Failed as error:
        entry.error = str(error)
        print(f"{entry.name}: {error}", flush=True)


def prepare(entry: Entry, postgresql: servers.Server) -> None:
    """The environment and the database."""
    import psycopg

    entry.python = environment(entry.contender, ROOT / os.environ.get("RIVALS", ".venv-rivals"))
    with psycopg.connect(postgresql.url, dbname="postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{entry.services.namespace}"')
    with WorkerProcess(entry.python, entry.name, entry.services, entry.log) as worker:
        entry.versions = worker.ask("prepare")


def run_trials(entry: Entry) -> None:
    for name, trial in TRIALS.items():
        entry.outcomes[name] = trial(entry.start)
        print(f"{entry.name}: {name}: {entry.outcomes[name]}", flush=True)


def count_trips(entry: Entry) -> None:
    """The round trips of each case, counted by proxies to the servers."""
    with ExitStack() as stack:
        database = stack.enter_context(CountingProxy(entry.services.database_url, 5432))
        redis = None
        services = replace(entry.services, database_url=database.url)
        if entry.contender.needs_redis:
            redis = stack.enter_context(CountingProxy(entry.services.redis_url, 6379))
            services = replace(services, redis_url=redis.url)
        worker = stack.enter_context(entry.start(services))
        for case in CASES:
            worker.ask("case", case=case)  # what is sent only once: prepared statements, scripts
            time.sleep(SETTLED)
            counts = []
            for _ in range(COUNTED):
                before = database.trips, redis.trips if redis else 0
                worker.ask("case", case=case)
                counts.append((database.trips - before[0], (redis.trips if redis else 0) - before[1]))
            entry.trips[case] = Trips(
                database=statistics.mode(count for count, _ in counts),
                redis=statistics.mode(count for _, count in counts),
            )


def measure(entries: list[Entry], turns: int) -> None:
    """Time the cases of all *entries*, in turns: each worker serves as one that is busy, and all see the same hours."""
    with ExitStack() as stack:
        workers = [(entry, stack.enter_context(entry.start())) for entry in entries]
        for _ in range(turns):
            random.shuffle(workers)
            for entry, worker in workers:
                for number in range(COLD + TURN):
                    attempt(measure_round, entry, worker, is_warm=number >= COLD)


def measure_round(entry: Entry, worker: WorkerProcess, *, is_warm: bool) -> None:
    seconds = worker.ask("round", order=random.sample(CASES, len(CASES)))
    if is_warm:
        for case in CASES:
            entry.times[case].append(seconds[case])


def clean_up(postgresql: servers.Server, redis: servers.Server | None) -> None:
    """Drop the databases, and the keys that expire tomorrow."""
    servers.drop_databases(postgresql.url, NAME)
    if redis is not None:
        from redis import Redis

        with Redis.from_url(redis.url) as client:
            for key in client.scan_iter(f"{NAME}_*", count=1000):
                client.delete(key)


if __name__ == "__main__":
    sys.exit(main())
