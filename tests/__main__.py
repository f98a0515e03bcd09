"""
Run the suite once on each database: `python -m tests [--database NAME]... [pytest arguments]`.

Each run is a pytest of its own with `DATABASE_URL`, and `REDIS_URL` where there is a Redis. What does not depend on the
database is part of the first run alone, and the sample project's tests, which have its settings, are a run beside it.
PostgreSQL has more runs than one: for each way through the package, and behind a pooler. Paths among the arguments
choose what is run. A server that is neither found nor to be started is left out, and the last lines say so; with
`REQUIRE_SERVERS=1` it is an error before the first test. See `tests/servers.py` for where servers are found.

The tests run on as many workers as there are cores; `-n 0` runs them in one process, which a debugger needs.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests import servers

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = Path("tests/sample")
PACKAGE = "package"  # the part of the suite that is not the sample project's


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The suite on one service, with settings of its own."""

    service: str
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()  # for pytest
    paths: tuple[str, ...] = ()  # all that there is, where empty; paths on the command line choose among them

    @property
    def is_variant(self) -> bool:
        """Is it another way through the package, on a database that has a run already, with the sample project?"""
        return bool(self.environment or self.arguments or self.paths)


# What the law hangs on; and what else transactions, connections and statements are a part of.
PROOF = ("tests/proof/test_kills.py", "tests/proof/test_pooler.py", "tests/proof/test_races.py")
CORE = (
    *PROOF,
    "tests/edges/test_decisions.py",
    "tests/edges/test_statements.py",
    "tests/outcomes",
    "tests/proof/test_faults.py",
    "tests/proof/test_wire.py",
    "tests/stores",
)
# Without migrations there are no routines: each claim is a plain statement.
STATEMENTS = ("--nomigrations",)

RUNS = {
    "sqlite": Run(service="SQLite"),
    "postgresql": Run(service="PostgreSQL"),
    # With the store's option FOLD off: see tests/app/apps.py.
    "unfolded": Run(
        service="PostgreSQL",
        environment={"FOLD": "0"},
        paths=("tests/edges", "tests/outcomes", "tests/proof", "tests/stores"),
    ),
    "statements": Run(service="PostgreSQL", arguments=STATEMENTS, paths=CORE),
    # Behind a pooler each transaction may be on another of the server's connections.
    "pooled": Run(service="pgbouncer", environment={"POOLED": "1"}, paths=CORE),
    "pooled-plain": Run(
        service="pgbouncer", environment={"POOLED": "1", "FOLD": "0"}, arguments=STATEMENTS, paths=PROOF
    ),
    "mariadb": Run(service="MariaDB"),
    "mariadb-statements": Run(
        service="MariaDB", arguments=STATEMENTS, paths=(*PROOF, "tests/proof/test_wire.py", "tests/stores")
    ),
}

# What needs no particular database, below this folder.
ONCE = [
    "browser",
    "docs",
    "kit/test_calls.py",
    "kit/test_plugin.py",
    "leases",
    "model",
    "packaging",
    "redis",
    "stores/test_memory.py",
    "stores/test_redis.py",
    "test_benchmarks.py",
    "typing",
    "unit",
]

# pytest's own exit codes.
PASSED = 0
FAILED = 1
INTERRUPTED = 2
NO_TESTS = 5

CLOSE_TIMEOUT = 30  # seconds that pytest has to close its databases after it was interrupted


class Terminated(KeyboardInterrupt):
    """Somebody sent a signal to us alone. Ctrl-C goes to pytest too."""


def terminate(*args: object) -> None:
    raise Terminated


def main() -> int:
    os.chdir(ROOT)  # paths among the arguments are the repository's
    parser = argparse.ArgumentParser(prog="python -m tests", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--database", action="append", choices=RUNS, help="run on this one only (repeatable)")
    options, arguments = parser.parse_known_args()
    chosen = options.database or list(RUNS)

    # A terminated run ends like an interrupted one: pytest closes its databases, the servers stop.
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGHUP, terminate)

    with ExitStack() as stack:
        name = f"idempotency_{os.getpid()}"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="idempotency-")))
        found, missing = find_servers(stack, {RUNS[database].service for database in chosen})
        for service, server in found.items():
            print(f"{service}: {server}")
        for service, reason in missing.items():
            print(f"{service}: missing. {reason}")
        if missing and os.environ.get("REQUIRE_SERVERS", "") not in ("", "0"):
            print("REQUIRE_SERVERS is set, so no test was run.")
            return FAILED

        environment = {**os.environ, "OTHER_DATABASE": str(folder / "other.sqlite3")}
        environment.pop("REDIS_URL", None)  # unset, or "embedded"
        if "Redis" in found:
            environment["REDIS_URL"] = found["Redis"].url
        results: dict[str, tuple[int, float]] = {}
        code = NO_TESTS
        for database in chosen:
            run = RUNS[database]
            if run.service in missing:
                continue
            if database == "sqlite":
                url = f"sqlite:///{folder / name}.sqlite3"
            else:
                url = found[run.service].database_url(name)
                # Beside the pooler, which may be gone by then.
                server = found["PostgreSQL" if run.service == "pgbouncer" else run.service]
                stack.callback(servers.drop_databases, server.url, f"test_{name}")
            settings = environment | run.environment | {"DATABASE_URL": url}
            for part, command in suites(arguments, run, first=not results).items():
                title = f"{run.service}{f', {database}' if run.is_variant else ''}: {part}"
                print(f"\n=== {title} ===", flush=True)
                started = time.monotonic()
                code = run_pytest(command, settings)
                results[title] = (code, time.monotonic() - started)
                if code == INTERRUPTED:
                    break
            if code == INTERRUPTED:
                break

        print()
        for title, (code, seconds) in results.items():
            print(f"{title}: {describe(code)} in {seconds:.0f} s")
        for service, reason in missing.items():
            print(f"left out: {service}: {reason}")
        codes = {code for code, _ in results.values()}
        if codes <= {NO_TESTS}:
            return NO_TESTS
        return next((code for code in codes if code not in (PASSED, NO_TESTS)), PASSED)


def find_servers(stack: ExitStack, wanted: set[str]) -> tuple[dict[str, servers.Server], dict[str, str]]:
    """The servers that answer, and for each other one the reason why it does not."""
    services: dict[str, Callable[..., servers.Server]] = {
        "PostgreSQL": servers.postgresql,
        "pgbouncer": servers.pgbouncer,
        "MariaDB": servers.mariadb,
        "Redis": servers.redis,
    }
    if "pgbouncer" in wanted:
        wanted = wanted | {"PostgreSQL"}
    found: dict[str, servers.Server] = {}
    missing: dict[str, str] = {}
    for service, find in services.items():
        if service not in wanted | {"Redis"}:
            continue
        try:
            if service != "pgbouncer":
                found[service] = find(stack)
            elif "PostgreSQL" in found:
                found[service] = find(stack, found["PostgreSQL"])
            else:
                raise servers.Missing("there is no PostgreSQL to stand in front of")
        except servers.Missing as error:
            missing[service] = str(error)
    return found, missing


def suites(arguments: list[str], run: Run, *, first: bool) -> dict[str, list[str]]:
    """The parts of the suite that *arguments* select for *run*, each with what pytest is told for it."""
    paths = {argument: Path(argument.partition("::")[0]) for argument in arguments if not argument.startswith("-")}
    of_sample = [argument for argument, path in paths.items() if path.exists() and SAMPLE in (path, *path.parents)]
    of_package = [argument for argument, path in paths.items() if path.exists() and argument not in of_sample]

    chosen = {}
    if of_package or not of_sample:
        selected = {argument: narrowed(argument, run) for argument in of_package}
        told = [
            each
            for argument in arguments
            if argument not in of_sample
            for each in selected.get(argument, [argument])  # an option stays in front of its value
        ]
        if any(selected.values()) or not of_package:
            ignored = [f"--ignore={SAMPLE}", *(f"--ignore=tests/{path}" for path in ONCE if not first)]
            chosen[PACKAGE] = [*ignored, *run.arguments, *told, *([] if of_package else run.paths)]
    if not run.is_variant and (of_sample or not of_package):
        settings = ["--ds=sample_project.settings", f"--confcutdir={SAMPLE}"]
        default = [] if of_sample else [str(SAMPLE)]
        chosen["sample project"] = [*settings, *default, *(arg for arg in arguments if arg not in of_package)]
    return chosen


def narrowed(argument: str, run: Run) -> list[str]:
    """What *run* has of *argument*, a path or a test in one."""
    path = Path(argument.partition("::")[0])
    own = [Path(each) for each in run.paths or ["tests"]]
    if any(each in (path, *path.parents) for each in own):
        return [argument]
    return [str(each) for each in own if path in each.parents]


def run_pytest(arguments: list[str], environment: dict[str, str]) -> int:
    """Run pytest and return its exit code."""
    command = [sys.executable, "-m", "pytest"]
    if (cores := os.cpu_count() or 1) > 1:
        # A file's tests stay together, with what they share and sum up.
        command += ["-n", str(min(cores, 8)), "--dist", "loadfile"]
    process = subprocess.Popen([*command, *arguments], env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt as interrupt:
        try:
            if isinstance(interrupt, Terminated):
                process.send_signal(signal.SIGINT)
            process.wait(CLOSE_TIMEOUT)
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
        return INTERRUPTED


def describe(code: int) -> str:
    words = {PASSED: "passed", FAILED: "FAILED", INTERRUPTED: "interrupted", NO_TESTS: "no test selected"}
    return words.get(code, f"FAILED (pytest ended with {code})")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
