"""
Run the suite once on each database: `python -m tests [--database NAME]... [pytest arguments]`.

Each run is a pytest of its own with `DATABASE_URL`, and `REDIS_URL` where there is a Redis. What does not depend on the
database is part of the first run alone, and the sample project's tests, which have its settings, are a run beside it.
Paths among the arguments choose what is run. A server that is neither found nor to be started is left out, and the last
lines say so; with `REQUIRE_SERVERS=1` it is an error before the first test. See `tests/servers.py` for where servers
are found.

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
from contextlib import ExitStack
from pathlib import Path

from tests import servers

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = Path("tests/sample")
PACKAGE = "package"  # the part of the suite that is not the sample project's
DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "unfolded": "PostgreSQL", "mariadb": "MariaDB"}
# PostgreSQL once more, with the store's option FOLD off: see tests/app/apps.py.
UNFOLDED = "unfolded"

# What needs no particular database, below this folder.
ONCE = ["docs", "packaging", "test_docs.py", "test_layers.py", "test_public_api.py", "typing", "unit"]

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
    parser.add_argument("--database", action="append", choices=DATABASES, help="run on this one only (repeatable)")
    options, arguments = parser.parse_known_args()
    chosen = options.database or list(DATABASES)

    # A terminated run ends like an interrupted one: pytest closes its databases, the servers stop.
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGHUP, terminate)

    with ExitStack() as stack:
        name = f"idempotency_{os.getpid()}"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="idempotency-")))
        found, missing = find_servers(stack, chosen)
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
        for database in chosen:
            service = DATABASES[database]
            if service in missing:
                continue
            settings = {"FOLD": "0"} if database == UNFOLDED else {}
            if database == "sqlite":
                url = f"sqlite:///{folder / name}.sqlite3"
            else:
                url = found[service].database_url(name)
                stack.callback(servers.drop_databases, found[service].url, f"test_{name}")
            for part, command in suites(arguments, first=not results).items():
                if settings and part != PACKAGE:
                    continue
                run = f"{service}{f', {database}' if settings else ''}: {part}"
                print(f"\n=== {run} ===", flush=True)
                started = time.monotonic()
                code = run_pytest(command, environment | settings | {"DATABASE_URL": url})
                results[run] = (code, time.monotonic() - started)
                if code == INTERRUPTED:
                    break
            if code == INTERRUPTED:
                break

        print()
        for run, (code, seconds) in results.items():
            print(f"{run}: {describe(code)} in {seconds:.0f} s")
        for service, reason in missing.items():
            print(f"left out: {service}: {reason}")
        codes = {code for code, _ in results.values()}
        if codes <= {NO_TESTS}:
            return NO_TESTS
        return next((code for code in codes if code not in (PASSED, NO_TESTS)), PASSED)


def find_servers(stack: ExitStack, chosen: list[str]) -> tuple[dict[str, servers.Server], dict[str, str]]:
    """The servers that answer, and for each other one the reason why it does not."""
    services = {"PostgreSQL": servers.postgresql, "MariaDB": servers.mariadb}
    wanted = {service: services[service] for service in map(DATABASES.get, chosen) if service in services}
    found, missing = {}, {}
    for service, find in {**wanted, "Redis": servers.redis}.items():
        try:
            found[service] = find(stack)
        except servers.Missing as error:
            missing[service] = str(error)
    return found, missing


def suites(arguments: list[str], *, first: bool) -> dict[str, list[str]]:
    """The parts of the suite that *arguments* select, each with what pytest is told for it."""
    paths = {argument: Path(argument.partition("::")[0]) for argument in arguments if not argument.startswith("-")}
    of_sample = [argument for argument, path in paths.items() if path.exists() and SAMPLE in (path, *path.parents)]
    of_package = [argument for argument, path in paths.items() if path.exists() and argument not in of_sample]

    chosen = {}
    if of_package or not of_sample:
        ignored = [f"--ignore={SAMPLE}", *(f"--ignore=tests/{path}" for path in ONCE if not first)]
        chosen[PACKAGE] = [*ignored, *(argument for argument in arguments if argument not in of_sample)]
    if of_sample or not of_package:
        settings = ["--ds=sample_project.settings", f"--confcutdir={SAMPLE}"]
        default = [] if of_sample else [str(SAMPLE)]
        chosen["sample project"] = [*settings, *default, *(arg for arg in arguments if arg not in of_package)]
    return chosen


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
