"""
So many kills on one kind of database, and the checker's word: `python -m benchmarks.faults.kills KIND KILLS`.

Prints a line of JSON for so many kills in atomic mode, and one for as many in phased mode. See `killing.py` for how the
processes die.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.faults.checker import check
from benchmarks.faults.killing import Plan
from benchmarks.faults.run import seen
from benchmarks.faults.stage import ROOT, Database, database

ATOMIC = {"database": {"ATOMIC_REQUESTS": True}}
LANES: dict[str, list[dict[str, Any]]] = {
    "postgresql": [{}, {"fold": False}, {"plain": True}, ATOMIC],
    "mariadb": [{}, {"plain": True}, ATOMIC, {"plain": True, **ATOMIC}],
    "mysql": [{}, {"plain": True}, ATOMIC, {"plain": True, **ATOMIC}],
    "sqlite": [{}, ATOMIC, {}, ATOMIC],
}
READ, REPEAT, SERIAL = ({"isolation": level} for level in ("read committed", "repeatable read", "serializable"))
LANES_IN_PHASES: dict[str, list[dict[str, Any]]] = {
    "postgresql": [{}, REPEAT, {}, SERIAL],
    "mariadb": [{}, READ, REPEAT, SERIAL],
    "mysql": [{}, READ, REPEAT, SERIAL],
    "sqlite": [{}, {}, {}, {}],
}
BUGS = ("record outside the transaction", "early commit")
BUGS_IN_PHASES = ("recovery point outside the transaction",)
PLANTED_KILLS = 150  # for each bug
SEED = 7
RUNS = itertools.count(1)  # each has keys of its own


def kill(
    kind: str, on: Database, kills: int, folder: Path, *, phased: bool = False, bug: str = "", seed: int = SEED,
    lanes: int = 4,
) -> dict[str, Any]:  # fmt: skip
    """Kill, let all be retried, and ask the checker."""
    name = f"kills{next(RUNS)}"
    gateway = folder / f"{name}.gateway"
    gateway.mkdir()
    path = urlsplit(on.url).path
    ways = LANES_IN_PHASES if phased else LANES
    plan = Plan(
        kills=kills, lanes=[{**lane, "bug": bug} for lane in ways[kind][:lanes]],
        database=path if kind == "sqlite" else path.lstrip("/"),
        log=str(folder / f"{name}.log"), prefix=name, token=on.token, seed=seed,
        gateway=str(gateway) if phased else "",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults.killing"],
        cwd=ROOT, check=True, input=json.dumps(asdict(plan)), stdout=subprocess.PIPE, text=True,
        env={**os.environ, "DATABASE_URL": on.url},
    )  # fmt: skip
    tally = json.loads(done.stdout)
    if tally["broken"]:
        raise RuntimeError(f"{tally['broken']} lanes of {kind} broke: see the traceback above")
    return {**tally, **seen(check(on.url, Path(plan.log), gateway=gateway))}


def main(kind: str, kills: int) -> None:
    with tempfile.TemporaryDirectory(prefix="kills-") as folder, database(kind) as on:
        for phased, bugs in ((False, BUGS), (True, BUGS_IN_PHASES)):
            told = kill(kind, on, kills, Path(folder), phased=phased)
            line = {"kind": kind, "version": on.version, "phased": phased, **told}
            if os.environ.get("BUGS") != "0":
                line["planted"] = {
                    bug: kill(kind, on, PLANTED_KILLS, Path(folder), phased=phased, bug=bug) for bug in bugs
                }
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
