"""Faults of the application and of the wires around it. Each makes one of them, in the stage's number of rounds."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.faults import bodies
from benchmarks.faults.application import Application
from benchmarks.faults.clients import Load
from benchmarks.faults.keeper import program
from benchmarks.faults.network import Losing, LosingCommits
from benchmarks.faults.stage import WAIT, Stage
from tests import servers

SHARE = 0.15  # of the messages that a proxy loses, if it does not choose among them
ANSWERS = 8  # answers for each loss that is wanted: some need several attempts
SLOW = 0.02  # seconds in a handler, so that most of a request's time is there
FROZEN = (0.4, 1.6)  # seconds
DAYS = 86_400  # seconds

FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


class LeftOut(Exception):
    """A fault that cannot be made here; the message says why."""


# --- between client and server ---


def lost_by_clients(what: str, stage: Stage) -> None:
    """Lose requests, some of their bodies, or answers."""
    with stage.application() as app:
        proxy = Losing(*app.address, what, SHARE)
        try:
            with stage.load(("127.0.0.1", proxy.port), spellings=bodies.ALL) as load:
                until_lost(stage, load, proxy)
        finally:
            proxy.close()


def without_a_length(stage: Stage) -> None:
    """Bodies that are sent in chunks, of which each payment is a fault. Django takes such a body for an empty one."""
    spellings = (bodies.as_json, bodies.as_csv)  # a form without a length is an empty one for every view of Django's
    with stage.application() as app, stage.load(app.address, spellings=spellings, chunked=True, repeats=0) as load:
        for _ in range(stage.rounds):
            load.wait_for_answers(1, WAIT)
    stage.faults = load.answered


def until_lost(stage: Stage, load: Load, proxy: Losing) -> None:
    for _ in range(ANSWERS * stage.rounds):
        if proxy.lost >= stage.rounds:
            break
        load.wait_for_answers(1, WAIT)
    stage.faults = proxy.lost


# --- between server and database ---


def lost_by_servers(proxy_class: Callable[..., Losing], what: str, share: float, stage: Stage) -> None:
    """Lose what the application sends to its database, or the replies."""
    proxy = proxy_class(*stage.database.address, what, share)
    options = {"ssl_disabled": True} if stage.kind == "mysql" else {}  # the proxy reads what passes
    url = urlsplit(stage.database.url)
    through = url._replace(netloc=f"{url.username}@127.0.0.1:{proxy.port}").geturl()
    try:
        with stage.application(through, options=options) as app, stage.load(app.address) as load:
            until_lost(stage, load, proxy)
    finally:
        proxy.close()


# --- of the application's processes ---


def kill_a_worker(stage: Stage, app: Application) -> bool:
    workers = app.workers()
    return bool(workers) and app.send(stage.draw.choice(workers), signal.SIGKILL)


def workers_killed(stage: Stage) -> None:
    with stage.application() as app, stage.load(app.address, seconds=SLOW) as load:
        stage.repeat(load, partial(kill_a_worker, stage, app))


def workers_killed_in_phases(stage: Stage) -> None:
    """Whose handlers are in one of three phases; a killed one's key waits for the end of its lease."""
    with (
        stage.application() as app,
        stage.load(app.address, path="/phased/", seconds=SLOW, duplicates=0.8) as load,
    ):
        stage.repeat(load, partial(kill_a_worker, stage, app))


def workers_timed_out(stage: Stage) -> None:
    """Handlers that take longer than gunicorn's timeout."""
    with (
        stage.application(timeout=1, workers=4) as app,
        stage.load(app.address, slow=0.3, slow_seconds=4) as load,
    ):
        for _ in range(ANSWERS * stage.rounds):
            if load.slowed >= stage.rounds:
                break
            load.wait_for_answers(1, WAIT)
    stage.faults = load.slowed


def terminated(stage: Stage) -> None:
    """SIGTERM to gunicorn, again and again, while some handlers take longer than it lets them; then a start anew."""
    with stage.application() as app, stage.load(lambda: app.address, slow=0.3, slow_seconds=3) as load:
        stage.repeat(load, app.restart)


def frozen(stage: Stage) -> None:
    """SIGSTOP, and SIGCONT when others have gone on, some later than the database waits for an idle transaction."""
    options: dict[str, Any] = {
        "postgresql": {"options": "-c idle_in_transaction_session_timeout=700"},
        "mariadb": {"init_command": "SET idle_transaction_timeout = 1"},
        "mysql": {"init_command": "SET wait_timeout = 1"},
        "sqlite": {"timeout": 0.3},
    }[stage.kind]
    # A lease is planted that is shorter than the database's own patience, which would undo the frozen one's work.
    options = {} if stage.bug and stage.kind != "sqlite" else options

    def freeze() -> bool:
        workers = app.workers()
        worker = stage.draw.choice(workers)
        if not app.send(worker, signal.SIGSTOP):
            return False
        time.sleep(stage.draw.uniform(*FROZEN))  # how long is what is tried here
        return app.send(worker, signal.SIGCONT)

    # A client that gets no answer in this time asks again, and another worker takes it.
    with (
        stage.application(workers=4, options=options) as app,
        stage.load(app.address, seconds=SLOW * 3, timeout=FROZEN[0] / 2) as load,
    ):
        stage.repeat(load, freeze)


def behind_a_pooler(stage: Stage) -> None:
    """More workers than connections, pgbouncer in transaction mode between them; workers are killed."""
    url = stage.database.url
    try:
        pgbouncer = program("pgbouncer")
    except servers.Missing as missing:
        raise LeftOut(str(missing)) from missing
    with (
        servers.keeper("pgbouncer", PROGRAM=str(pgbouncer), POSTGRES_URL=url) as pooled,
        stage.application(pooled, workers=servers.POOL_SIZE + 3, environment={"POOLED": "1"}) as app,
        stage.load(app.address, clients=10, seconds=SLOW, duplicates=0.8) as load,
    ):
        stage.repeat(load, partial(kill_a_worker, stage, app))


def old_and_new(stage: Stage) -> None:
    """
    Two applications for the same keys: one with the server's routines and the newest ways, one with statements alone.

    The old one is restarted again and again, as in a rolling deploy. A planted bug is the old one's.
    """
    with (
        Application(stage.database.url) as new,
        stage.application(plain=True, fold=False) as old,
        stage.load(new.address, lambda: old.address, seconds=SLOW, duplicates=0.8) as load,
    ):
        stage.repeat(load, old.restart, answers=40)
        load.wait_for_answers(40, WAIT)


def clock_jumps(stage: Stage) -> None:
    """The clock of the application alone jumps back and forth by days."""
    if not FAKETIME:
        raise LeftOut("libfaketime is not installed")
    # SQLite has no clock of its own: it is not promised that a record outlives a jump over its whole life.
    days = 3.0 if stage.bug or stage.kind != "sqlite" else 0.25
    jumps = [f"+{days * DAYS:.0f}s", f"-{days * DAYS:.0f}s", "+0s"]
    clock = stage.folder / f"{stage.name}.clock"
    clock.write_text(f"{jumps[-1]}\n")
    environment = {
        "LD_PRELOAD": str(FAKETIME[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }

    def jump() -> None:
        other = clock.with_suffix(".next")
        other.write_text(f"{jumps[stage.faults % len(jumps)]}\n")
        os.replace(other, clock)

    with stage.application(environment=environment) as app, stage.load(app.address, repeats=0.6) as load:
        stage.repeat(load, jump, answers=25)
        load.wait_for_answers(25, WAIT)


def commits_lost(what: str, stage: Stage) -> None:
    lost_by_servers(LosingCommits, what, SHARE, stage)


def statements_lost(what: str, stage: Stage) -> None:
    lost_by_servers(Losing, what, SHARE / 3, stage)
