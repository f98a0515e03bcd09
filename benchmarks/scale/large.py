"""
One PostgreSQL table that is larger than those of the page "Scale": `python -m benchmarks.scale.large [RECORDS]`.

Fills a table of 30,000,000 records, measures, and writes what it found to `large.json` beside this file, from which
`benchmarks.scale.growing` makes the figures of the page "Growing". It takes an hour and 25 GB of disk, and drops them.
With `BUSY=1`, on a machine that does other things meanwhile, the page leaves the speeds out.
"""

import json
import os
import re
import signal
import sys
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.project import configure
from benchmarks.scale import disk, rows

KEPT = Path(__file__).with_suffix(".json")
RECORDS = 30_000_000
PURGED = 200_000
LOOK_UPS = 50
BUFFERS, PAGES = re.compile(r"\n  Buffers:([^\n]*)"), re.compile(r"(?:hit|read)=(\d+)")  # of the uppermost node


def main(records: int) -> None:
    """Measure a table of that many *records* in a database of its own."""
    from benchmarks.scale.__main__ import empty, postgresql, run
    from benchmarks.scale.growing import write

    with ExitStack() as stack:
        url, server = postgresql(stack, records)
        with empty(url):
            result = run(url, "table", records) | run(url, "large", "depth", records)
    facts = {"server": server, "date": str(date.today()), "busy": os.environ.get("BUSY") == "1"}
    KEPT.write_text(json.dumps(facts | result, indent=2) + "\n")
    write()


def depth(size: int) -> dict[str, Any]:
    """The shape of the indexes, the pages that a look-up reads, and a purge, on the table that `table` has filled."""
    from benchmarks.scale import purging, table

    result = {"indexes": indexes(), "look-ups": look_ups(size)}
    table.fill(table.make_template(), range(purging.FIRST_NUMBER, purging.FIRST_NUMBER + PURGED), age=purging.AGE)
    disk.settle()
    return result | {"purge": purging.purge()}


def indexes() -> dict[str, dict[str, int]]:
    """Levels above the leaves, and pages of both kinds, of each index by what it serves."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("CREATE EXTENSION IF NOT EXISTS pgstattuple")
        cursor.execute(
            "SELECT indexrelname, tree_level, leaf_pages, internal_pages FROM pg_stat_user_indexes,"
            " pgstatindex(indexrelid) WHERE relname = %s",
            [disk.TABLE],
        )
        found = {
            name: dict(zip(("levels", "leaves", "inner"), shape, strict=True)) for name, *shape in cursor.fetchall()
        }
    named = {"pkey": "digest", "key": "key", "expires": "expires"}
    return {named[name.rpartition("_")[2]]: shape for name, shape in found.items()}


def look_ups(size: int) -> dict[str, Any]:
    """What PostgreSQL says of the look-up of a digest and of a key: the plan, and the most pages that one read."""
    from django_idempotency.models import IdempotencyRecord

    result = {}
    for name in ("digest", "key"):
        plans = []
        for _ in range(LOOK_UPS):
            found = IdempotencyRecord.objects.filter(key=rows.key_of(rows.any_of(size)))
            if name == "digest":
                found = IdempotencyRecord.objects.filter(pk=found.get().pk)
            plans.append(found.explain(analyze=True, buffers=True))
        pages = [sum(map(int, PAGES.findall(BUFFERS.search(plan)[1]))) for plan in plans]
        result[name] = {"plan": plans[0].partition("  (")[0], "pages": max(pages)}
    return result


if __name__ == "__main__":
    if sys.argv[1:2] == ["depth"]:
        configure()
        print(json.dumps(depth(int(sys.argv[2]))))
    else:
        signal.signal(signal.SIGTERM, lambda *args: sys.exit(1))  # what was made is dropped then, too
        main(int(sys.argv[1]) if sys.argv[1:] else RECORDS)
