"""
What large tables cost, on every database that is there: `make bench-scale`.

Prints a page and writes it to `docs/explanation/scale.md`. With the defaults it takes most of an hour and, for a while,
15 GB of disk; it drops all that it made, after Ctrl-C too.

`SIZES` (10000,1000000,10000000), `ROUNDS` (1000), and the databases' names as arguments make it shorter; `PAGE` names
another file to write. `POSTGRES_URL` and `MARIADB_URL` name servers. `benchmarks.scale.large` is for larger tables.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.scale.page import page
from tests import servers

PAGE = Path(os.environ.get("PAGE") or Path(__file__).parents[2] / "docs" / "explanation" / "scale.md")
NAME = f"idempotency_scale_{os.getpid()}"
SIZES = sorted(int(size) for size in os.environ.get("SIZES", "10000,1000000,10000000").split(","))
MEDIUM = 1_000_000  # records: of the admin's list, of a purge, and of the largest tables but PostgreSQL's
BYTES = 2_000  # of disk that a record may take: with its indexes, the expired ones beside it and the server's log


def main(chosen: list[str]) -> int:
    """Measure, print, write the page. The exit code says whether any database was there."""
    results = []
    with ExitStack() as stack:
        for name in chosen or DATABASES:
            try:
                url, server = DATABASES[name](stack)
            except servers.Missing as missing:
                print(f"left out: {name}: {missing}", file=sys.stderr)
                continue
            medium = [size for size in SIZES if size <= MEDIUM]
            for size in SIZES if name == "PostgreSQL" else medium:
                print(f"{server}, {size:,} records", file=sys.stderr, flush=True)
                results.append({"server": server, **table(url, size, whole=size == max(medium, default=0))})
    if not results:
        return 1
    text = page(results)
    PAGE.write_text(text)
    print(text)
    return 0


def table(url: str, size: int, *, whole: bool) -> dict[str, Any]:
    """The figures of one table; *whole*, with the admin's list and the purges."""
    with empty(url):
        result = run(url, "table", size)
        if whole:
            if url.startswith("postgres"):
                result["listing"] = run(url, "listing")
            result["purge"] = run(url, "purging", min(size, MEDIUM))
    return result


def run(url: str, module: str, *arguments: object) -> dict[str, Any]:
    """The result of a module of this package, from a process of its own."""
    result = subprocess.run(
        [sys.executable, "-m", f"benchmarks.scale.{module}", *map(str, arguments)],
        env={**os.environ, "DATABASE_URL": url},
        check=True,
        stdout=subprocess.PIPE,
    )
    return dict(json.loads(result.stdout))


@contextmanager
def empty(url: str) -> Iterator[None]:
    """Inside, the database of *url* is there and empty; afterwards it is gone."""
    name = urlsplit(url).path
    if url.startswith("sqlite"):
        try:
            yield
        finally:
            for path in Path(name).parent.glob(f"{Path(name).name}*"):
                path.unlink()
        return
    try:
        if url.startswith("mysql"):
            with servers.mariadb_cursor(url) as cursor:
                cursor.execute(f"CREATE DATABASE {NAME} CHARACTER SET utf8mb4")
        else:
            import psycopg

            with psycopg.connect(url, dbname="postgres", autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {NAME}")
        yield
    finally:
        servers.drop_databases(url, NAME)


def postgresql(stack: ExitStack, records: int | None = None) -> tuple[str, str]:
    import psycopg

    server = servers.postgresql(stack)
    with psycopg.connect(server.url, dbname="postgres") as connection:
        (folder,) = connection.execute("SHOW data_directory").fetchone()
    need_room(folder, max(SIZES) if records is None else records)
    return server.database_url(NAME), server.version


def mariadb(stack: ExitStack) -> tuple[str, str]:
    server = servers.mariadb(stack)
    with servers.mariadb_cursor(server.url) as cursor:
        cursor.execute("SELECT @@datadir")
        (folder,) = cursor.fetchone()
    need_room(folder, min(max(SIZES), MEDIUM))
    return server.database_url(NAME), server.version


def sqlite(stack: ExitStack) -> tuple[str, str]:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="idempotency-scale-"))
    need_room(folder, min(max(SIZES), MEDIUM))
    return f"sqlite:///{folder}/scale.sqlite3", f"SQLite {sqlite3.sqlite_version}"


def need_room(folder: str, records: int) -> None:
    """Raises `Missing` if that many records may fill the disk of *folder*."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # of another machine, or not for us to see
        return
    if free < records * BYTES:
        raise servers.Missing(
            f"{folder} has {free / 1e9:.0f} GB left; {records:,} records may take {records * BYTES / 1e9:.0f}"
        )


DATABASES: dict[str, Callable[[ExitStack], tuple[str, str]]] = {
    "PostgreSQL": postgresql,
    "MariaDB": mariadb,
    "SQLite": sqlite,
}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *args: sys.exit(1))  # what was made is dropped then, too
    sys.exit(main(sys.argv[1:]))
