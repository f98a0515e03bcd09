"""Faults of the database server. Each function makes one of them on a stage, in the stage's number of rounds."""

import random
import time
from contextlib import ExitStack, suppress
from typing import Any

from benchmarks.faults.checker import cursor_of
from benchmarks.faults.on_the_way import SLOW
from benchmarks.faults.stage import WAIT, Stage

FEW = 12  # connections that the server has when they are to run out
ALL = 60
REFUSALS = 10  # attempts that must meet the fault, before it is over
NOTE = 4000  # bytes
MET = 5.0  # seconds in which they must


def restarted(stage: Stage) -> None:
    """The server is stopped as an operator stops it, without waiting for clients, and started again."""
    stopped_by("stop", stage)


def killed(stage: Stage) -> None:
    """The server's processes get SIGKILL, and it is started again."""
    stopped_by("kill", stage)


def stopped_by(word: str, stage: Stage) -> None:
    def stop() -> None:
        stage.database.do(word)
        time.sleep(stage.draw.uniform(0, 0.2))  # clients find it away
        stage.database.do("start")

    with stage.application() as app, stage.load(app.address, seconds=SLOW) as load:
        stage.repeat(load, stop)


def frozen(stage: Stage) -> None:
    """SIGSTOP to all of the server's processes, and SIGCONT a while later."""

    def freeze() -> None:
        stage.database.do("freeze")
        time.sleep(stage.draw.uniform(0.1, 0.8))  # how long is what is tried here
        stage.database.do("thaw")

    with stage.application() as app, stage.load(app.address, seconds=SLOW, duplicates=0.8) as load:
        stage.repeat(load, freeze)


def deadlocks(stage: Stage) -> None:
    """Handlers that change two rows in one order or the other. A fault is a 503: a transaction that was the victim."""

    def payload(draw: random.Random) -> dict[str, Any]:
        return {"rows": draw.sample([1, 2], 2)}

    with stage.application(workers=4) as app, stage.load(app.address, payload=payload, seconds=SLOW) as load:
        for _ in range(stage.rounds):
            load.wait_for_answers(4, WAIT)
    stage.faults = stage.verdict().statuses[503]


def full(stage: Stage) -> None:
    """Nothing is left of the server's disk while clients go on; then it is given back."""

    def payload(draw: random.Random) -> dict[str, Any]:
        return {"note": draw.randbytes(NOTE).hex()}  # records that need room, and cannot be packed

    def fill() -> None:
        stage.database.do("fill")
        wait_for_attempts(stage, 4 * REFUSALS)
        stage.database.do("empty")

    with stage.application() as app, stage.load(app.address, payload=payload) as load:
        stage.repeat(load, fill)


def exhausted(stage: Stage) -> None:
    """Take all of the server's connections, and give them back a while later."""

    def take() -> None:
        with ExitStack() as stack:
            for _ in range(2 * FEW):
                with suppress(Exception):  # each driver has its own
                    stack.enter_context(cursor_of(stage.database.url))
            wait_for_attempts(stage, REFUSALS)

    stage.database.do("stop")
    stage.database.do(f"allow {FEW}")
    stage.database.do("start")
    try:
        # A connection for each request: those that a worker kept would be its own.
        with (
            stage.application(database={"CONN_MAX_AGE": 0}) as app,
            stage.load(app.address, seconds=SLOW) as load,
        ):
            stage.repeat(load, take)
    finally:
        stage.database.do("stop")
        stage.database.do(f"allow {ALL}")
        stage.database.do("start")


def wait_for_attempts(stage: Stage, count: int) -> None:
    """Until clients have made *count* more attempts, or have had the time to."""

    def made() -> int:
        return stage.log.read_bytes().count(b"\n")

    begun = made()
    deadline = time.monotonic() + MET
    while made() < begun + count and time.monotonic() < deadline:
        time.sleep(0.02)
