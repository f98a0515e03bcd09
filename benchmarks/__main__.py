"""
What protection costs, on every database that is there: `make bench`.

Prints one table and writes it to `docs/benchmarks.md`. `ROUNDS` (600) sets the length. Figures are ratios against the
same view in `atomic`, in one run; a timing of one machine says nothing about another, the ratios do.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import django
import rest_framework

from tests import servers

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
NAME = f"idempotency_bench_{os.getpid()}"
IMPORTS = 9  # processes, each with and without the app
HEADINGS = "| database | first | replay | without a key | bare in `atomic` | statements of first, replay, bare |"

# What an installed app adds to the start of a process that uses Django, DRF's views and the admin's apps anyway.
START = """
import time, sys
from django.conf import settings
import django
apps = ["django.contrib.contenttypes", "django.contrib.auth", "rest_framework", *sys.argv[1:]]
settings.configure(INSTALLED_APPS=apps, SECRET_KEY="x",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
begun = time.perf_counter()
django.setup()
print(time.perf_counter() - begun)
"""


def main() -> int:
    """Measure, print, write the page. The exit code says whether any database was there."""
    rows = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="idempotency-bench-"))
        for name, find in DATABASES.items():
            try:
                url = find(stack, folder)
            except servers.Missing as missing:
                print(f"left out: {name}: {missing}")
                continue
            for settings in ({}, {"FOLD": "0"}) if name == "PostgreSQL" else ({},):
                rows.append(row(measure(url, settings)))
                print(rows[-1], flush=True)
    text = page(rows, added_start_time())
    PAGE.write_text(text)
    print(text)
    return 0 if rows else 1


DATABASES: dict[str, Callable[[ExitStack, str], str]] = {
    "SQLite": lambda stack, folder: f"sqlite:///{folder}/bench.sqlite3",
    "PostgreSQL": lambda stack, folder: servers.postgresql(stack).database_url(NAME),
    "MariaDB": lambda stack, folder: servers.mariadb(stack).database_url(NAME),
}


def measure(url: str, settings: dict[str, str]) -> dict[str, Any]:
    """The figures of one database, from a process of its own."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure"],
        env={**os.environ, **settings, "DATABASE_URL": url},
        check=True,
        stdout=subprocess.PIPE,
    )
    return dict(json.loads(result.stdout))


def row(result: dict[str, Any]) -> str:
    ratios, statements = result["ratios"], result["statements"]
    cells = [
        result["database"],
        f"{ratios['first']:.2f}x",
        f"{ratios['replay']:.2f}x",
        f"{ratios['no key']:.2f}x",
        f"{result['milliseconds']['atomic']:.2f} ms",
        f"{statements['first']}, {statements['replay']}, {statements['atomic']}",
    ]
    return f"| {' | '.join(cells)} |"


def added_start_time() -> float:
    """Milliseconds that the app adds to `django.setup()`, as the median of pairs of processes."""

    def start(*apps: str) -> float:
        run = subprocess.run([sys.executable, "-c", START, *apps], check=True, stdout=subprocess.PIPE)
        return float(run.stdout) * 1000

    return statistics.median(start("django_idempotency") - start() for _ in range(IMPORTS))


def page(rows: list[str], start: float) -> str:
    versions = (
        f"Python {platform.python_version()}, Django {django.__version__},"
        f" Django REST framework {rest_framework.__version__}"
    )
    table = "\n".join([HEADINGS, "|---|---|---|---|---|---|", *rows])
    return f"""# What it costs

<!-- written by `make bench` -->

Whole DRF views with token authentication, a model serializer and one INSERT, called through Django's WSGI handler in
one process against a server on the same machine. Each figure is a median of ratios: every round calls each case once,
in shuffled order, and compares it with the same round's bare view in `atomic` (the one without a key: with the bare
view in autocommit). Statements are the view's own and ours; BEGIN, COMMIT, SAVEPOINT and RELEASE are not counted.
On PostgreSQL BEGIN and COMMIT travel with our statements, unless the store's option `FOLD` is off.

{table}

{versions}. Installing the app adds {start:.0f} ms to
`django.setup()`. `make bench` makes this page anew.
"""


if __name__ == "__main__":
    sys.exit(main())
