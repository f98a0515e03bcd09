"""
Make every fault on one kind of database or cluster: `python -m benchmarks.faults.run KIND`.

Prints a line of JSON for each.

`FAULT` names those to make, by a part of their names; `ROUNDS` replaces how often each is made; `BUGS=0` plants none.
"""

import itertools
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.faults.catalogue import FAULTS, Fault
from benchmarks.faults.checker import Verdict
from benchmarks.faults.clusters.catalogue import CLUSTER_FAULTS
from benchmarks.faults.on_the_way import LeftOut
from benchmarks.faults.stage import Database, Stage, database
from tests import servers

TRIES = 3
RUNS = itertools.count(1)  # each has keys of its own


def seen(verdict: Verdict) -> dict[str, Any]:
    """What a table tells of a run."""
    return {
        "keys": verdict.keys,
        "attempts": verdict.attempts,
        "lost": verdict.lost,
        "lost whole": verdict.lost_whole,
        "statuses": dict(verdict.statuses),
        "violations": {kind: len(each) for kind, each in verdict.violations.items()},
        "as": [each[0] for each in verdict.violations.values()],
    }


def make(fault: Fault, kind: str, shared: Database, folder: Path, *, rounds: int = 0, bug: str = "") -> dict[str, Any]:
    """Make *fault*, with a *bug* planted if one is named. Raises `LeftOut` where it cannot be made."""
    begun = time.monotonic()
    with ExitStack() as stack:
        own = shared
        if fault.megabytes:
            try:
                own = stack.enter_context(database(kind, fault.megabytes))
            except servers.Missing as missing:
                raise LeftOut(str(missing)) from missing
        stage = Stage(
            kind=kind, database=own, folder=folder, name=f"f{next(RUNS)}", rounds=rounds or fault.rounds, bug=bug,
        )  # fmt: skip
        fault.make(stage)
        verdict = stage.verdict()
    return {"faults": stage.faults, "seconds": time.monotonic() - begun, **seen(verdict)}


def plant(fault: Fault, kind: str, shared: Database, folder: Path, rounds: int) -> dict[str, Any]:
    """Make *fault* with its bug planted. A bug shows by chance, so there are a few tries."""
    for _ in range(TRIES):
        seen = make(fault, kind, shared, folder, rounds=rounds, bug=fault.bug_on(kind))
        if set(seen["violations"]) & set(fault.caught):
            break
    return seen


def main(kind: str) -> None:
    wanted = os.environ.get("FAULT", "")
    rounds = int(os.environ.get("ROUNDS", "0"))
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, database(kind) as shared:
        for fault in (*FAULTS, *CLUSTER_FAULTS):
            if kind not in fault.kinds or wanted not in fault.name:
                continue
            line: dict[str, Any] = {"fault": fault.name, "kind": kind, "version": shared.version}
            try:
                line |= make(fault, kind, shared, Path(folder), rounds=rounds)
                if os.environ.get("BUGS") != "0":
                    line["planted"] = plant(fault, kind, shared, Path(folder), rounds)
            except LeftOut as reason:
                line["left out"] = str(reason)
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
