"""
The conformance kit against this package's sample project, and against servers that others wrote: `make conformance`.

Installs each package from PyPI or npm into an environment of its own, below the folder `CONTENDERS`
(.venv-conformance), runs it under the minimal app of its framework in `apps`, examines each as a user would, and writes
`docs/explanation/conformance.md`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.conformance.contenders import CONTENDERS
from benchmarks.conformance.page import PAGE, Entry, page
from benchmarks.conformance.processes import Failed, environment, serving, versions
from sample_project.demo.server import Server
from tests import servers

ROOT = Path(__file__).parents[2]
REQUEST = Path(__file__).with_name("request.json")
DATABASE = f"idempotency_conformance_{os.getpid()}"


def main() -> int:
    """Examine all, write the page. The exit code says whether it was written."""
    with ExitStack() as stack:
        try:
            postgresql = servers.postgresql(stack)
        except servers.Missing as missing:
            sys.exit(str(missing))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="idempotency-conformance-")))
        entries = [sample(postgresql, folder)]
        for contender in CONTENDERS:
            entry = Entry(name=contender.package, setting=contender.setting)
            entries.append(entry)
            try:
                place = environment(contender, ROOT / os.environ.get("CONTENDERS", ".venv-conformance"))
                entry.versions = versions(contender, place)
                with serving(contender, place, folder / "server.log") as url:
                    entry.checks = examine(url, REQUEST, folder)
            except Failed as error:
                entry.error = str(error)
            print(f"{entry.name}: {entry.summary}", flush=True)
    PAGE.write_text(page(entries))
    return 0


def sample(postgresql: servers.Server, folder: Path) -> Entry:
    """The sample project under gunicorn, as a reader starts it."""
    entry = Entry(name="django-idempotency", setting="The sample project of this repository, under gunicorn.")
    with a_database(postgresql) as url:
        server = Server(
            folder, {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "sample_project.settings"}
        )
        server.manage("migrate")
        names = {}
        for prefix, user in (("", "ann"), ("OTHER_", "bob")):
            printed = server.manage("seed", "--username", user)
            names[f"{prefix}TOKEN"] = found(r"TOKEN=(\w+)", printed)
            names[f"{prefix}ACCOUNT"] = found(r"(\d+)  Current", printed)
        with server:
            host, port = server.address
            file = ROOT / "sample_project" / "conformance.json"
            entry.checks = examine(f"http://{host}:{port}", file, folder, names)
    import django

    import django_idempotency

    entry.versions = {entry.name: django_idempotency.__version__, "Django": django.get_version()}
    print(f"{entry.name}: {entry.summary}", flush=True)
    return entry


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"{pattern} is not in what was printed:\n{text}")
    return match[1]


@contextmanager
def a_database(postgresql: servers.Server) -> Iterator[str]:
    import psycopg

    with psycopg.connect(postgresql.url, dbname="postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{DATABASE}"')
    try:
        yield postgresql.database_url(DATABASE)
    finally:
        servers.drop_databases(postgresql.url, DATABASE)


def examine(url: str, file: Path, folder: Path, names: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """The kit's findings, by the command that a user runs. Raises `Failed`."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "django_idempotency.conformance", url, "--request", str(file)]
    done = subprocess.run(
        [*command, "--json", str(report)],
        cwd=ROOT,
        env={**os.environ, **(names or {})},
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, 1):
        raise Failed(f"It could not be examined: {done.stderr.strip()}")
    return json.loads(report.read_text())["checks"]


if __name__ == "__main__":
    sys.exit(main())
