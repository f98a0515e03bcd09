"""
Run the suite on each database: `python -m tests [--all] [--database NAME]... [pytest arguments]`.

Each run is a pytest of its own with `DATABASE_URL`, and `REDIS_URL` if there is a Redis. Tests that do not depend on
the database are part of the first run alone. The sample project's tests have settings of their own, so they are a
second pytest beside each run.

Without options, each promise is tested once on SQLite and PostgreSQL, and on MariaDB and MySQL if they run, with a
choice of the heavy tests (kills, races, browser, clusters of Redis). `--all` is every configuration: each test on
SQLite and PostgreSQL, on MariaDB and MySQL each test that asks the server, and everywhere each way through the package.
Paths among the arguments choose the tests, and `--database` chooses the run; both include the heavy tests.

A server that is neither found nor can be started is left out, and the last lines say so; with `REQUIRE_SERVERS=1` it is
an error before the first test. `tests/servers.py` says where servers are looked for.

The tests run on one worker more than there are cores; `-n 0` runs them in one process, which a debugger needs.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
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
    paths: tuple[str, ...] = ()  # the whole suite if empty; paths on the command line choose among them
    short: tuple[str, ...] | None = None  # pytest's arguments in the short suite, which leaves the run out if None
    full: tuple[str, ...] = ()  # and with `--all`

    @property
    def is_variant(self) -> bool:
        """Whether it is another way through the package, on a database that has a run with the sample project."""
        return bool(self.environment or self.paths)


# What the law depends on, and what else transactions, connections and statements are a part of.
RACES = ("tests/proof/test_pooler.py", "tests/proof/test_races.py")
PROOF = ("tests/proof/test_kills.py", *RACES)
CORE = (
    *PROOF,
    "tests/edges/test_decisions.py",
    "tests/edges/test_statements.py",
    "tests/outcomes",
    "tests/proof/test_faults.py",
    "tests/proof/test_wire.py",
    "tests/stores",
)
# What else asks the server.
SERVER = (
    *CORE,
    "tests/asyncs",
    "tests/checks",
    "tests/edges/test_late.py",
    "tests/edges/test_secrets.py",
    "tests/encryption",
    "tests/moving/test_import.py",
    "tests/moving/test_real_moves.py",
    "tests/operations",
    "tests/phased",
    "tests/proof/test_async_kills.py",
    "tests/proof/test_phased.py",
    "tests/sharded",
)
# What the claim's other ways do not change is left to the runs without them.
OF_CLAIMS = tuple(path for path in CORE if path != "tests/outcomes")
# Without the routines of the migrations: each claim is plain statements.
STATEMENTS = {"STATEMENTS": "1"}
BY_STATEMENTS = (
    *PROOF,
    "tests/proof/test_wire.py",
    "tests/stores/test_conformance.py",
    "tests/stores/test_unavailable.py",
    "tests/stores/test_wrappers.py",
)

GALERA = ("tests/proof/test_galera.py",)

# The choices of the short suite. Of the heavy tests it has kills on PostgreSQL, and races on each server. The model is
# of the protocol, not of the code, so it is left out, and so are clusters of Redis.
NOT_HEAVY = (
    "-m",
    "not (browser or kill or race or slow)",
    *(f"--ignore=tests/{path}" for path in ("model", "redis/test_cluster.py", "redis/test_topologies.py")),
)
NO_KILLS = ("-m", "not (kill or slow)")
# Half of the races; of the kills of async views those that commit, because a rollback is the same engine's; of those in
# phases those at the server's own level; none of operators' decisions.
FEWER = (
    "-k",
    "not (test_races and atomic-requests and wait) and not (test_async_kills and (refusal or exception or savepoints))"
    " and not (test_phased and (repeatable or serializable)) and not (test_runs and killed)",
)
# What asks no server, and the pages of the admin: SQLite's run has them.
NO_PAGES = ("--ignore-glob=tests/operations/test_admin_*", "--ignore=tests/checks/test_setting.py")
# What differs between the servers: statements, locks, levels and what ends a transaction.
DIALECTS = (
    "tests/edges/test_decisions.py",
    "tests/edges/test_statements.py",
    "tests/outcomes/test_transactions.py",
    "tests/proof/test_faults.py",
    "tests/proof/test_races.py",
    "tests/stores",
)
OUTCOMES = "tests/outcomes/test_outcomes.py"
RECORDS = tuple(f"tests/operations/test_{each}.py" for each in ("counts", "erase", "purge", "settle", "show"))

RUNS = {
    "sqlite": Run(service="SQLite", short=NOT_HEAVY),
    "postgresql": Run(
        service="PostgreSQL",
        short=("-m", "not (browser or slow)", *FEWER, *NO_PAGES, *SERVER, "tests/protection/test_zoo.py::test_a_race"),
    ),
    # With the store's option FOLD off: see tests/app/apps.py.
    "unfolded": Run(service="PostgreSQL", environment={"FOLD": "0"}, paths=OF_CLAIMS),
    "statements": Run(service="PostgreSQL", environment=STATEMENTS, paths=OF_CLAIMS),
    # Behind a pooler each transaction may be on another of the server's connections.
    "pooled": Run(service="pgbouncer", environment={"POOLED": "1"}, paths=OF_CLAIMS),
    "pooled-plain": Run(service="pgbouncer", environment={"POOLED": "1", "FOLD": "0", **STATEMENTS}, paths=RACES),
    "mariadb": Run(
        service="MariaDB", short=(*NO_KILLS, *FEWER, *DIALECTS, *RECORDS, OUTCOMES), full=(*SERVER, "tests/kit")
    ),
    "mariadb-statements": Run(service="MariaDB", environment=STATEMENTS, paths=BY_STATEMENTS),
    # Three nodes, over which the processes of the proof are spread.
    "galera": Run(service="Galera", paths=GALERA),
    "mysql": Run(service="MySQL", short=(*NO_KILLS, *FEWER, *DIALECTS), full=SERVER),
    "mysql-statements": Run(service="MySQL", environment=STATEMENTS, paths=BY_STATEMENTS),
}

# What needs no particular database, below this folder.
ONCE = (
    "browser",
    "checks/test_documents.py",
    "checks/test_setting.py",
    "client",
    "conformance",
    "docs",
    "encryption/test_sealing.py",
    "forms",
    "kit/test_calls.py",
    "leases",
    "model",
    "moving/test_names.py",
    "openapi",
    "packaging",
    "queues",
    "redis",
    "stores/test_memory.py",
    "stores/test_redis.py",
    "test_benchmarks.py",
    "typing",
    "unit",
)

# pytest's exit codes.
PASSED = 0
FAILED = 1
INTERRUPTED = 2
NO_TESTS = 5

SHORT_MINUTES = 8  # of the short suite, with every server, on two idle cores
CLOSE_TIMEOUT = 30  # seconds for an interrupted pytest to drop its databases


class Terminated(KeyboardInterrupt):
    """A signal came to this process alone. Ctrl-C goes to pytest too."""


def terminate(*args: object) -> None:
    raise Terminated


def main() -> int:
    os.chdir(ROOT)  # paths among the arguments are the repository's
    parser = argparse.ArgumentParser(prog="python -m tests", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--all", action="store_true", help="every configuration")
    parser.add_argument("--database", action="append", choices=RUNS, help="this run only (repeatable)")
    options, arguments = parser.parse_known_args()
    chosen = options.database or [name for name, run in RUNS.items() if options.all or run.short is not None]
    is_short = not (options.database or options.all or paths_among(arguments))
    own = {each for run in RUNS.values() for each in (*run.paths, *(run.short or ())) if each.startswith("tests/")}
    listed = own.union(f"tests/{path}" for path in ONCE)
    if gone := sorted(path for path in listed if not Path(path.partition("::")[0]).exists()):
        parser.error(f"tests/__main__.py names what is not there: {', '.join(gone)}")

    # A terminated run ends like an interrupted one: pytest closes its databases, the servers stop.
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGHUP, terminate)

    started = time.monotonic()
    with ExitStack() as stack:
        found, missing = find_servers(stack, {RUNS[database].service for database in chosen})
        for service, server in found.items():
            print(f"{service}: {server}")
        for service, reason in missing.items():
            print(f"{service}: missing. {reason}")
        if missing and os.environ.get("REQUIRE_SERVERS", "") not in ("", "0"):
            print("REQUIRE_SERVERS is set, so no test was run.")
            return FAILED

        parts = list(plan(stack, chosen, arguments, found, is_short=is_short))
        if is_short:
            print(f"{len(parts)} parts, about {SHORT_MINUTES} minutes on two cores. `make test-all` is everything.")
        results: dict[str, tuple[int, float]] = {}
        for number, part in enumerate(parts, 1):
            began = time.monotonic()
            print(f"\n=== {number} of {len(parts)}, after {began - started:.0f} s: {part.title} ===", flush=True)
            code = run_pytest(part.command, part.environment)
            results[part.title] = (code, time.monotonic() - began)
            if code == INTERRUPTED:
                break

        print()
        for title, (code, seconds) in results.items():
            print(f"{title}: {describe(code)} in {seconds:.0f} s")
        for service, reason in missing.items():
            print(f"left out: {service}: {reason}")
        if is_short and (left_out := [name for name in RUNS if name not in chosen]):
            print(f"left to `make test-all`: {', '.join(left_out)}; heavy tests on the other databases")
        print(f"{time.monotonic() - started:.0f} s in all")
        codes = {code for code, _ in results.values()}
        if codes <= {NO_TESTS}:
            return NO_TESTS
        return next((code for code in codes if code not in (PASSED, NO_TESTS)), PASSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One pytest: a run's tests of the package, or those of the sample project."""

    title: str
    command: list[str]
    environment: dict[str, str]


def plan(
    stack: ExitStack, chosen: list[str], arguments: list[str], found: dict[str, servers.Server], *, is_short: bool
) -> Iterator[Part]:
    """The parts of each chosen run whose server was found. Its databases are dropped when *stack* closes."""
    name = f"idempotency_{os.getpid()}"
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="idempotency-")))
    common = {**os.environ, "OTHER_DATABASE": str(folder / "other.sqlite3")}
    common.pop("REDIS_URL", None)  # unset, or "embedded"
    common.pop("PYTHONDONTWRITEBYTECODE", None)  # else each of some hundred processes compiles the package anew
    if "Redis" in found:
        common["REDIS_URL"] = found["Redis"].url
    is_first = True
    for database in chosen:
        run = RUNS[database]
        if run.service == "SQLite":
            url = f"sqlite:///{folder / name}.sqlite3"
        elif run.service in found:
            url = found[run.service].database_url(name)
            # Beside the pooler, which may be gone by then.
            server = found["PostgreSQL" if run.service == "pgbouncer" else run.service]
            stack.callback(servers.drop_databases, server.url, f"test_{name}")
        else:
            continue
        environment = common | run.environment | {"DATABASE_URL": url}
        if run.service in found and found[run.service].nodes:
            environment["NODES"] = " ".join(found[run.service].nodes)
        chosen_by_default = (run.short or ()) if is_short else () if paths_among(arguments) else run.full
        selection = [*chosen_by_default, *arguments]
        for part, command in suites(selection, run, first=is_first).items():
            title = f"{run.service}{f', {database}' if run.is_variant else ''}: {part}"
            yield Part(title=title, command=command, environment=environment)
        is_first = False


def find_servers(stack: ExitStack, wanted: set[str]) -> tuple[dict[str, servers.Server], dict[str, str]]:
    """The servers that answer, and why each other one does not."""
    services: dict[str, Callable[..., servers.Server]] = {
        "PostgreSQL": servers.postgresql,
        "pgbouncer": servers.pgbouncer,
        "MariaDB": servers.mariadb,
        "MySQL": servers.mysql,
        "Galera": servers.galera,
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
    """The parts of the suite that *arguments* select for *run*, each with its arguments for pytest."""
    paths = paths_among(arguments)
    of_sample = [argument for argument, path in paths.items() if SAMPLE in (path, *path.parents)]
    of_package = [argument for argument in paths if argument not in of_sample]

    chosen = {}
    if of_package or not of_sample:
        selected = {argument: narrow(argument, run) for argument in of_package}
        own = [
            each
            for argument in arguments
            if argument not in of_sample
            for each in selected.get(argument, [argument])  # in order, so that an option precedes its value
        ]
        if any(selected.values()) or not of_package:
            ignored = [f"--ignore={SAMPLE}", *(f"--ignore=tests/{path}" for path in ONCE if not first)]
            chosen[PACKAGE] = [*ignored, *own, *([] if of_package else run.paths)]
    if not run.is_variant and (of_sample or not of_package):
        settings = ["--ds=sample_project.settings", f"--confcutdir={SAMPLE}"]
        default = [] if of_sample else [str(SAMPLE)]
        chosen["sample project"] = [*settings, *default, *(arg for arg in arguments if arg not in of_package)]
    return chosen


def paths_among(arguments: list[str]) -> dict[str, Path]:
    """The *arguments* that are a path, or a test in one, with that path."""
    paths = {argument: Path(argument.partition("::")[0]) for argument in arguments if not argument.startswith("-")}
    return {argument: path for argument, path in paths.items() if path.exists()}


def narrow(argument: str, run: Run) -> list[str]:
    """The paths of *run* in *argument*, which is a path or a test in one."""
    path = Path(argument.partition("::")[0])
    own = [Path(each) for each in run.paths or ["tests"]]
    if any(each in (path, *path.parents) for each in own):
        return [argument]
    return [str(each) for each in own if path in each.parents]


def run_pytest(arguments: list[str], environment: dict[str, str]) -> int:
    """Run pytest and return its exit code."""
    command = [sys.executable, "-m", "pytest"]
    if (cores := os.cpu_count() or 1) > 1:
        # One more than cores, because tests wait. Those of one file share fixtures and sums, so they stay together.
        command += ["-n", str(min(cores + 1, 8)), "--dist", "loadfile", "--no-loadscope-reorder"]
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
