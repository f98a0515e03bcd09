"""The results as a page of the manual."""

import platform
import textwrap
from typing import Any

import django
import rest_framework

DAY = 86_400  # seconds
RATE = 1_000  # requests per second
PARTS = ("rows", "digest", "key", "expires")
LISTED = 5  # of the admin's pages: the slowest

Result = dict[str, Any]


def page(results: list[Result]) -> str:
    """The page, from the result of each table (`benchmarks.scale.__main__`)."""
    parts = [
        "# Scale",
        "<!-- written by `make bench-scale` -->",
        _text(
            """How speed and disk usage change when the table of records grows. [Growing](growing.md) has a larger one,
            and what to do when one server is not enough."""
        ),
        "## Speed",
        *speed(results),
        "## Room",
        *room(results),
    ]
    largest = _largest(results)
    if largest:
        parts += ["## A day at 1,000 requests per second", *day(results, largest)]
    parts += ["## Purge", *purge(results)]
    for result in results:
        if "listing" in result:
            parts += ["## The admin's list", *listing(result)]
    parts.append(
        _text(
            f"""Python {platform.python_version()}, Django {django.__version__}, Django REST framework
            {rest_framework.__version__}. `make bench-scale` makes this page again."""
        )
    )
    return "\n\n".join(parts) + "\n"


def speed(results: list[Result]) -> list[str]:
    head = ["database", "records", "first", "replay", "first, cold", "replay, cold", "bare in `atomic`", "key search"]
    rows = [
        [
            result["server"],
            f"{result['size']:,}",
            *(f"{result[state][case]:.2f}x" for state in ("warm", "cold") for case in ("first", "replay")),
            f"{result['warm']['milliseconds']:.2f} ms",
            f"{result['search']['statement']:.2f} ms",
        ]
        for result in results
    ]
    parts = [
        _text(
            """Whole requests to a DRF view with token authentication and one INSERT: first executions with random keys,
            and replays of random records of the table, as ratios against the bare view in `atomic` of the
            same round. *Cold* are the rounds right after the table was filled. *Key search* is the
            statement of `for_key`."""
        ),
        _table(head, rows),
    ]
    if largest := _largest(results):
        settings = ", ".join(f"`{name}` {value}" for name, value in largest["settings"].items())
        parts.append(_text(f"""PostgreSQL's settings: {settings}."""))
    return parts


def room(results: list[Result]) -> list[str]:
    head = ["database", "records", "rows", "index of `digest`", "of `key`", "of `expires_at`", "together", "table"]
    rows = []
    for result in results:
        size, found = result["size"], result["sizes"]
        rows.append(
            [
                result["server"],
                f"{size:,}",
                *(f"{found[part] / size:,.0f}" if part in found else "in the rows" for part in PARTS),
                f"**{sum(found.values()) / size:,.0f}**",
                _bytes(sum(found.values())),
            ]
        )
    return [
        _text(
            """Bytes per record. The records have keys of 36 characters, bodies of some 275 bytes, heads of 80, a
            request id: a larger body adds its own size to the rows, and nothing to an index."""
        ),
        _table(head, rows),
        _text(
            """InnoDB keeps the rows in the index of `digest`, in random order, so the whole table should fit into
            memory (`innodb_buffer_pool_size`). PostgreSQL's indexes of more than 1,000,000 records
            were built after the rows, 68 % full, as an index of random values grows by itself."""
        ),
    ]


def day(results: list[Result], result: Result) -> list[str]:
    """What an operator has to have, from *result*, which is that of the largest PostgreSQL table."""
    records = DAY * RATE
    found = {part: size / result["size"] for part, size in result["sizes"].items()}  # bytes per record
    rows = found["rows"] * result["slack"] / result["slack of a fill"]
    indexes = found["digest"] + found["key"] + found["expires"]
    random = found["digest"] + found["key"]
    log, pages = result["log"]["bytes"], result["log"]["pages"]
    small = next(other for other in results if "settings" in other)
    parts = [
        _text(
            f"""{records / 1e6:.1f} million first executions a day on PostgreSQL, each remembered for 24 hours, worked
            out from the figures of this page."""
        ),
        _text(
            f"""**Disk: {_bytes((rows + indexes) * records)}** for the records of one day, {_bytes(rows * records)} of
            rows and {_bytes(indexes * records)} of indexes, {rows + indexes:,.0f} bytes per record. What
            has expired stays until it is purged: an hourly purge needs a twenty-fourth more, a daily one
            twice as much."""
        ),
        _text(
            f"""**Memory: {_bytes(random * records)}** to keep the indexes of `digest` and `key` in memory, PostgreSQL's
            or the system's, because their values are random. With less memory all works on, at the speed
            of the disk: a first execution waits for two pages of it, and so does a replay."""
        ),
        _text(
            f"""**Log (WAL): {_bytes(log * RATE)} per second, {_bytes(log * records)} a day**, at {log:,.0f} bytes per
            first execution beside the handler's own, {pages:.1f} whole pages among them: PostgreSQL logs
            a page as a whole when it changes for the first time after a checkpoint. Where the pages have
            been changed since ({small["size"]:,} records), it is {small["log warm"]["bytes"]:,.0f} bytes.
            A longer `checkpoint_timeout` helps, with a `max_wal_size` to match (half an hour of this log
            is {_bytes(log * RATE * 1800)})."""
        ),
        _text(
            f"""**Bloat: little.** {result["in_place"]:.0%} of the records were written onto the claim's own page
            without touching an index (HOT), and a claim's first version is tidied up by the requests that follow."""
        ),
    ]
    purges = [other["purge"] for other in results if "purge" in other and "settings" in other]
    if purges:
        minutes = records / _speed([purges[-1]["under load"]]) / 60
        parts.append(
            _text(
                f"""**Purge: {RATE:,} records per second on average**, at the speed that a purge has beside a load
                (below) {minutes:,.0f} minutes a day. (Auto)vacuum follows, and reads the indexes
                from end to end each time, {_bytes(indexes * records)} here: purge every hour
                rather than every minute."""
            )
        )
    return parts


def purge(results: list[Result]) -> list[str]:
    measured = [result for result in results if "purge" in result]
    head = ["database", "live records beside", "expired records", "purged per second"]
    rows = [
        [
            result["server"],
            f"{result['size']:,}",
            f"{result['purge']['count']:,}",
            f"{_speed([result['purge']['alone']]):,.0f}",
        ]
        for result in measured
    ]
    parts = ["`purge()` with its defaults, which is what `manage.py idempotency_purge` calls.", _table(head, rows)]
    for result in measured:
        figures = result["purge"]
        if "load" not in figures:
            continue
        load, together = figures["load"], figures["two at once"]
        shares = " and ".join(f"{one['rows']:,}" for one in together)
        times = [
            [
                f"{what}, {name}",
                f"{load[f'{what} before{place}']:.2f} ms",
                f"{load[f'{what} during{place}']:.2f} ms",
                f"{load[f'{what} during{place}'] / load[f'{what} before{place}']:.2f}x",
            ]
            for what in ("claim", "request")
            for name, place in (("median", ""), ("p99", ", p99"))
        ]
        parts += [
            _text(
                f"""{result["server"]}, while another process makes {load["rate"]} first executions per second
                ({_speed([figures["under load"]]):,.0f} records purged per second):"""
            ),
            _table(["", "before the purge", "during it", "ratio"], times),
            _text(
                f"""Two purges at once shared the work ({shares} records) and deleted {_speed(together):,.0f} per
                second together. VACUUM took {figures["vacuum"]:.1f} s after a purge."""
            ),
        ]
    return parts


def listing(result: Result) -> list[str]:
    first, *others = result["listing"]["urls"].items()
    slowest = sorted(others, key=lambda item: -item[1]["median"])[:LISTED]
    rows = [
        [
            f"`{url.removeprefix('/admin/django_idempotency/')}`",
            f"{times['median']:.0f} ms",
            f"{times['slowest']:.0f} ms",
        ]
        for url, times in [first, *slowest]
    ]
    return [
        _text(
            f"""Server time of the admin's pages on {result["size"]:,} records, {result["server"]}: the list, and of
            the {len(others)} others (filters, dates, orders, searches by key and by identity, a record's page) the
            slowest {len(slowest)}."""
        ),
        _table(["page", "median", "slowest"], rows),
    ]


def _largest(results: list[Result]) -> Result | None:
    """The result of the largest PostgreSQL table."""
    return max((result for result in results if "settings" in result), key=lambda result: result["size"], default=None)


def _speed(purges: list[dict[str, float]]) -> float:
    """Records per second of purges that ran at the same time."""
    begun, ended = min(one["begun"] for one in purges), max(one["ended"] for one in purges)
    return sum(one["rows"] for one in purges) / (ended - begun)


def _bytes(size: float) -> str:
    """*size* in the unit that leaves one to three digits before the point."""
    power = 0
    while size >= 999.5:
        size, power = size / 1000, power + 1
    return f"{size:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def _text(text: str) -> str:
    """*text* as a paragraph, however its lines are broken in the source."""
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])
