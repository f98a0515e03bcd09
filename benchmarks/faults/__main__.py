"""
Break everything, and see whether the law holds: `make faults`, `make faults KILLS=10000`.

Prints a page and writes it to `docs/explanation/faults.md`, or to `--output`. `KILLS` (200) is the number of kills on
each database, `FAULT` a part of the names of the faults to make, `ROUNDS` how often each is made. Databases are taken
one beside the other for the faults, whose time is mostly waiting, and one after the other for the kills and as
clusters.

The exit code is 1 if there were violations, or planted bugs that the checker missed; with `REQUIRE_SERVERS` also if a
server or a cluster was missing.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.faults.catalogue import ALL
from benchmarks.faults.clusters.catalogue import CLUSTERS
from benchmarks.faults.page import TITLES, Results, lines, page

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "faults.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--database", action="append", choices=[*ALL, *CLUSTERS], help="of all, this one only (repeatable)"
    )
    parser.add_argument("--output", type=Path, default=PAGE, metavar="FILE", help="write the page there")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write what was seen there too, as JSON")
    parser.add_argument("--seen", type=Path, metavar="FILE", help="make the page of what was kept, and break nothing")
    options = parser.parse_args()
    chosen = options.database or [*ALL, *CLUSTERS]
    kinds, clusters = ([kind for kind in chosen if kind in some] for some in (ALL, CLUSTERS))
    if options.seen:
        results = Results(**json.loads(options.seen.read_text()))
    else:
        results = Results()
        with ThreadPoolExecutor(len(ALL)) as pool:
            made = list(pool.map(faults_of, kinds))
        made += map(faults_of, clusters)  # of several servers each
        for kind, (told, reason) in zip([*kinds, *clusters], made, strict=True):
            results.faults += told
            if reason:
                results.left_out[kind] = reason
        for kind in kinds:
            if kind not in results.left_out:
                sys.stderr.write(f"{TITLES[kind]}: kills\n")
                told, _ = run("benchmarks.faults.kills", kind, os.environ.get("KILLS", "200"))
                results.kills += told
    if options.keep:
        options.keep.write_text(json.dumps(asdict(results)))
    text = page(results)
    options.output.write_text(text)
    sys.stdout.write("\n".join([text, *lines(results), ""]))
    required = os.environ.get("REQUIRE_SERVERS", "") not in ("", "0")
    return int(bool(results.violations() or results.missed() or (required and results.left_out)))


def faults_of(kind: str) -> tuple[list[dict[str, Any]], str]:
    return run("benchmarks.faults.run", kind)


def run(module: str, *arguments: str) -> tuple[list[dict[str, Any]], str]:
    """The lines of JSON that *module* prints, and the reason where it ended without all of them."""
    told = []
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        for line in process.stdout:
            told.append(json.loads(line))
            if "fault" in told[-1]:
                violations = told[-1].get("violations", {})
                sys.stderr.write(f"{TITLES[arguments[0]]}: {told[-1]['fault']}: {violations or 'as promised'}\n")
        errors = process.stderr.read().strip()
    return told, errors.split("\n")[-1] if process.returncode else ""


if __name__ == "__main__":
    sys.exit(main())
