"""One table, in a process of its own: filled, then measured with whole requests."""

import json
import os
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from benchmarks.project import configure
from benchmarks.scale import disk, requests, rows

SETTINGS = ("shared_buffers", "full_page_writes", "checkpoint_timeout", "max_wal_size", "fsync")
CHUNK = 250_000  # rows per transaction of a fill
GROWN = 1_000_000  # rows up to which indexes grow row by row, as they do in use; above, they are built at the end
# per cent: how full random values leave the pages of an index that grew. What is built at the end is built like that.
FULL = 68
SEARCHES = 300


def main(size: int, rounds: int) -> dict[str, Any]:
    """Make the tables in the database that `DATABASE_URL` names, and measure."""
    configure()
    from django.core.management import call_command

    call_command("migrate", run_syncdb=True, verbosity=0)
    requests.create_users()
    return measure(size, rounds)


def measure(size: int, rounds: int) -> dict[str, Any]:
    """Fill the empty table with *size* records and measure on them, *rounds* times; the result is JSON."""
    from django.db import connection

    template = make_template()
    begun = time.monotonic()
    with _indexes_built_last() if connection.vendor == "postgresql" and size > GROWN else _as_they_are():
        fill(template, range(1, size + 1))
    filled = time.monotonic() - begun
    disk.settle()
    result: dict[str, Any] = {"size": size, "fill_seconds": filled, "sizes": disk.sizes()}
    cases = {"bare": requests.bare, "first": requests.first, "replay": lambda: requests.replay(size)}
    result["cold"] = _figures(requests.in_rounds(cases, rounds))
    result["warm"] = _figures(requests.in_rounds(cases, rounds))
    result["search"] = search(size)
    if connection.vendor == "postgresql":
        result |= _of_postgresql(rounds)
    return result


def make_template() -> Any:
    """The record that a request of these benchmarks makes."""
    from django_idempotency.models import IdempotencyRecord

    key = str(uuid.uuid4())
    requests.post("protected", 1, key)
    return IdempotencyRecord.objects.for_key(key).get()


def fill(template: Any, numbers: range, *, age: timedelta = timedelta()) -> None:
    """Insert the rows of these *numbers*; the last was executed *age* ago, by the database's clock."""
    newest, step = now() - age, rows.SPAN / len(numbers)
    for start in range(0, len(numbers), CHUNK):
        part = numbers[start : start + CHUNK]
        last = newest - step * (len(numbers) - start - len(part))
        rows.insert(rows.rows(template, part, last, step * len(part)))
        print(f"  {start + len(part):,} rows", end="\r", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def now() -> datetime:
    """The database's own time."""
    from django.contrib.auth.models import User

    from django_idempotency.models import DatabaseNow

    return User.objects.values_list(DatabaseNow(), flat=True)[:1].get()


def search(size: int) -> dict[str, float]:
    """Milliseconds of the exact-key search's statement, and of the same with the ORM around it."""
    from django.db import connection

    from django_idempotency.models import IdempotencyRecord

    plan = IdempotencyRecord.objects.for_key(rows.key_of(1)).explain()
    if "idempotency_record_key" not in plan:
        raise RuntimeError(f"The search for a key does not use its index: {plan}")
    statement: list[float] = []
    whole: list[float] = []

    def timed(execute: Callable[..., Any], *arguments: Any) -> Any:
        begun = time.perf_counter()
        try:
            return execute(*arguments)
        finally:
            statement.append(time.perf_counter() - begun)

    with connection.execute_wrapper(timed):
        for _ in range(SEARCHES):
            number = rows.any_of(size)
            begun = time.perf_counter()
            found = list(IdempotencyRecord.objects.for_key(rows.key_of(number)))
            whole.append(time.perf_counter() - begun)
            if len(found) != 1:
                raise RuntimeError(f"{len(found)} records of the key of row {number}")
    return {"statement": statistics.median(statement) * 1000, "orm": statistics.median(whole) * 1000}


def _figures(times: dict[str, list[float]]) -> dict[str, float]:
    """Medians: the bare view's milliseconds, and what a first execution and a replay are of the same round's."""

    def ratio(case: str) -> float:
        return statistics.median(ours / bare for ours, bare in zip(times[case], times["bare"], strict=True))

    return {
        "milliseconds": statistics.median(times["bare"]) * 1000,
        "first": ratio("first"),
        "replay": ratio("replay"),
    }


def _of_postgresql(rounds: int) -> dict[str, Any]:
    """What only PostgreSQL tells: its log, how pages are filled, and its settings."""
    from django.db import connection

    with connection.cursor() as cursor:

        def bytes_of_rows(condition: str) -> int:
            cursor.execute(f"SELECT sum(pg_column_size(r.*)) FROM {disk.TABLE} AS r WHERE {condition}")  # noqa: S608
            return int(cursor.fetchone()[0])

        filled = disk.sizes()["rows"] / bytes_of_rows("true")
        begun, before = now(), disk.sizes()["rows"]
        cursor.execute("CHECKPOINT")
        protected = disk.written_by(requests.first, rounds)
        grown = disk.sizes()["rows"] - before
        net = bytes_of_rows(f"expires_at > '{begun + rows.TTL}'")
        bare = disk.written_by(requests.bare, rounds)
        warm = disk.written_by(requests.first, rounds)
        cursor.execute("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = %s", [disk.TABLE])
        updated, in_place = cursor.fetchone()
        cursor.execute("SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name", [list(SETTINGS)])
        settings = dict(cursor.fetchall())
    return {
        "log": {name: protected[name] - bare[name] for name in protected},
        "log warm": {name: warm[name] - bare[name] for name in protected},
        "slack": grown / net,
        "slack of a fill": filled,
        "in_place": in_place / updated,
        "settings": settings,
    }


@contextmanager
def _indexes_built_last() -> Iterator[None]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisprimary FROM pg_index"
            " WHERE indrelid = %s::regclass",
            [disk.TABLE],
        )
        indexes = cursor.fetchall()
        for name, _, is_primary in indexes:
            cursor.execute(f"ALTER TABLE {disk.TABLE} DROP CONSTRAINT {name}" if is_primary else f"DROP INDEX {name}")
        yield
        cursor.execute("SET maintenance_work_mem = '512MB'")
        for name, definition, is_primary in indexes:
            print(f"  index {name}", file=sys.stderr, flush=True)
            # Times come in order, which leaves the pages of their index full.
            full = 90 if "expires_at" in definition else FULL
            cursor.execute(f"{definition} WITH (fillfactor = {full})")
            if is_primary:
                cursor.execute(f"ALTER TABLE {disk.TABLE} ADD CONSTRAINT {name} PRIMARY KEY USING INDEX {name}")
        cursor.execute("RESET maintenance_work_mem")


@contextmanager
def _as_they_are() -> Iterator[None]:
    yield


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(os.environ.get("ROUNDS", "1000")))))
