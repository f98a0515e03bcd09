"""
So many kills on one kind of database, and the checker's word: `python -m benchmarks.faults.kills KIND KILLS`.

Prints JSON. See `killing.py` for how the processes die.
"""

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
BUGS = ("record outside the transaction", "early commit")
PLANTED_KILLS = 150  # for each bug
SEED = 7


def kill(
    kind: str, on: Database, kills: int, folder: Path, *, bug: str = "", seed: int = SEED, lanes: int = 4
) -> dict[str, Any]:
    """Kill, let all be retried, and ask the checker."""
    name = f"kills{BUGS.index(bug) if bug else ''}"
    path = urlsplit(on.url).path
    plan = Plan(
        kills=kills, lanes=[{**lane, "bug": bug} for lane in LANES[kind][:lanes]],
        database=path if kind == "sqlite" else path.lstrip("/"),
        log=str(folder / f"{name}.log"), prefix=name, token=on.token, seed=seed,
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults.killing"],
        cwd=ROOT, check=True, input=json.dumps(asdict(plan)), stdout=subprocess.PIPE, text=True,
        env={**os.environ, "DATABASE_URL": on.url},
    )  # fmt: skip
    tally = json.loads(done.stdout)
    if tally["broken"]:
        raise RuntimeError(f"{tally['broken']} lanes of {kind} broke: see the traceback above")
    return {**tally, **seen(check(on.url, Path(plan.log)))}


def main(kind: str, kills: int) -> None:
    with tempfile.TemporaryDirectory(prefix="kills-") as folder, database(kind) as on:
        line = {"kind": kind, "version": on.version, **kill(kind, on, kills, Path(folder))}
        if os.environ.get("BUGS") != "0":
            line["planted"] = {bug: kill(kind, on, PLANTED_KILLS, Path(folder), bug=bug) for bug in BUGS}
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
