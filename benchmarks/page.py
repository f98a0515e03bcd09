"""The figures as a page of the manual."""

import datetime
import platform
import statistics
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import django
import rest_framework

from benchmarks.profile import BARE, DRIVER, SERVER

FAR = {"PostgreSQL": (1.0, 5.0), "MySQL": (1.0,)}  # milliseconds that a round trip takes longer
DIRECT = ("SQLite", "PostgreSQL")  # the databases whose driver the profile knows
USUAL = ("PostgreSQL", "")  # what most projects run, if it is there
NEW_CONNECTIONS = ", `CONN_MAX_AGE = 0`"  # Django's default
# Ways of PostgreSQL that need a Redis.
REPLAY_CACHE = ", `REPLAY_CACHE`"
KEYS_IN_REDIS = ", keys in Redis"
WIDTH = 120  # characters of a line

# By what is asked: the way to the database, the case, and the largest ratio that is wanted.
WANTED = {
    "PostgreSQL, first": (("PostgreSQL", ""), "first", 1.25),
    "PostgreSQL, replay": (("PostgreSQL", ""), "replay", 0.65),
    "PostgreSQL, no functions, first": (("PostgreSQL", ", no functions"), "first", 1.5),
    "PostgreSQL, `CONN_MAX_AGE = 0`, first": (("PostgreSQL", NEW_CONNECTIONS), "first", 1.2),
    "PostgreSQL, `CONN_MAX_AGE = 0`, replay": (("PostgreSQL", NEW_CONNECTIONS), "replay", 1.0),
    "MariaDB, first": (("MariaDB", ""), "first", 1.5),
    "MySQL, first": (("MySQL", ""), "first", 1.45),
    "MySQL, replay": (("MySQL", ""), "replay", 0.85),
    "SQLite, first": (("SQLite", ""), "first", 1.2),
    "PostgreSQL, `REPLAY_CACHE`, first": (("PostgreSQL", REPLAY_CACHE), "first", 1.35),
    "PostgreSQL, `REPLAY_CACHE`, replay": (("PostgreSQL", REPLAY_CACHE), "replay", 0.5),
    "keys in Redis, first": (("PostgreSQL", KEYS_IN_REDIS), "first", 1.35),
    "keys in Redis, replay": (("PostgreSQL", KEYS_IN_REDIS), "replay", 0.5),
}
FLOORS = {"first": "floor", "replay": "canned"}
BARE_INSERT = 1.3  # of a first execution of a view that is one INSERT, on PostgreSQL
OVER_HTTP = 1.2  # of a first execution, one client
# At 1 ms: the database, the case, and the largest ratio that is wanted.
WANTED_FAR = {("PostgreSQL", "first"): 1.12, ("PostgreSQL", "replay"): 0.8, ("MySQL", "first"): 1.2}

Way = tuple[str, str]


@dataclass(kw_only=True)
class Results:
    """All that was measured. Each list has a dict of `benchmarks.measure` for each run."""

    rounds: int
    runs: int
    seconds: float
    start: float = 0.0  # milliseconds that the app adds to `django.setup()`
    redis: str = ""  # its name and version
    audit: float = 0.0  # seconds
    ways: dict[Way, list[dict[str, Any]]] = field(default_factory=dict)
    far: dict[tuple[str, float], list[dict[str, Any]]] = field(default_factory=dict)  # by database and delay
    async_views: list[dict[str, Any]] = field(default_factory=list)  # on PostgreSQL, under uvicorn
    observers: list[dict[str, Any]] = field(default_factory=list)  # on PostgreSQL
    profile: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)


def page(results: Results) -> str:
    parts = [
        "# What it costs",
        "<!-- written by `make bench` -->",
        *summary(results),
        "## By database",
        *databases(results),
        "## Statements and round trips",
        *counts(results),
    ]
    if results.ways:
        parts += ["## By the middleware", *middleware(results), "## In phases", *in_phases(results)]
    if results.redis and ("PostgreSQL", KEYS_IN_REDIS) in results.ways:
        parts += ["## With a Redis", *with_redis(results)]
    if results.far:
        parts += ["## Further away", *far(results)]
    if results.async_views:
        parts += ["## Async views", *async_views(results)]
    if results.observers:
        parts += ["## With Prometheus and OpenTelemetry", *observers(results)]
    if results.load:
        parts += ["## Over HTTP", *over_http(results), "## Many clients at once", *load(results)]
    if results.profile:
        parts += ["## Python's share", *profile(results)]
    parts += ["## Targets", *targets(results), "## How it was measured", *method(results)]
    return "\n\n".join(parts) + "\n"


# --- figures ---


def ratio(runs: list[dict[str, Any]], case: str) -> float:
    """The median of all ratios of *case*."""
    return statistics.median(one for run in runs for one in run["ratios"][case])


def by_run(runs: list[dict[str, Any]], case: str) -> list[float]:
    return sorted(statistics.median(run["ratios"][case]) for run in runs)


def milliseconds(runs: list[dict[str, Any]], case: str) -> float:
    return statistics.median(run["milliseconds"][case] for run in runs)


def spread(runs: list[dict[str, Any]], case: str) -> float:
    """How far apart the runs are."""
    medians = by_run(runs, case)
    return medians[-1] - medians[0]


# --- sections ---


def summary(results: Results) -> list[str]:
    way = USUAL if USUAL in results.ways else next(iter(results.ways), None)
    if way is None:
        return []
    runs = results.ways[way]
    first, replay, without = (ratio(runs, case) for case in ("first", "replay", "without_key"))
    bare = milliseconds(runs, "atomic")
    text = f"""A light DRF request (token authentication, a serializer, one INSERT) on {way[0]} takes {first:.2f} times
        as long when it is protected and runs for the first time as the same view in `atomic`:
        {bare * (first - 1):.2f} ms more in this run. A replay takes {replay:.2f} times as long, and a request without a
        key {without:.2f} times (the same view without `atomic`: {ratio(runs, "bare"):.2f}). The addition does not grow
        with the handler, so that a handler that does more pays less of it in proportion."""
    trips = runs[0].get("trips")
    if trips:
        added = trips["first"] - trips["atomic"]
        statements = runs[0]["statements"]["first"] - runs[0]["statements"]["atomic"]
        text += f""" A first execution adds {statements} statements and {added or "no"} round
            trip{"" if added in (0, 1) else "s"}."""
    if runs := results.far.get(("PostgreSQL", 1.0)):
        text += f""" With 1 ms more to the database it takes {ratio(runs, "first"):.2f} times as long, and a replay
            {ratio(runs, "replay"):.2f} times."""
    return [paragraph(text)]


def databases(results: Results) -> list[str]:
    rows = []
    for (_, way), runs in results.ways.items():
        medians = by_run(runs, "first")
        rows.append(
            [
                runs[0]["server"] + way,
                f"{ratio(runs, 'first'):.2f}x ({medians[0]:.2f} to {medians[-1]:.2f})",
                f"{ratio(runs, 'replay'):.2f}x",
                f"{ratio(runs, 'refused'):.2f}x" if "refused" in runs[0]["ratios"] else "waits",
                f"{ratio(runs, 'without_key'):.2f}x",
                f"{ratio(runs, 'floor'):.2f}x" if "floor" in runs[0]["ratios"] else "",
                f"{ratio(runs, 'canned'):.2f}x",
                f"{ratio(runs, 'bare'):.2f}x",
                f"{milliseconds(runs, 'atomic'):.2f} ms",
            ]
        )
    head = [
        "database",
        "first",
        "replay",
        "refused",
        "without a key",
        "floor",
        "floor of a replay",
        "bare",
        "bare in `atomic`",
    ]
    widest = max((spread(runs, case) for runs in results.ways.values() for case in runs[0]["ratios"]), default=0)
    return [
        paragraph(
            f"""Each figure is the median of {results.rounds} ratios against the bare view in `atomic`, whose own time
            is in the last column. In brackets are the lowest and the highest median of the {results.runs} runs that
            make up the figure; of no figure are the runs further apart than {widest:.2f}."""
        ),
        table(head, rows),
        bullets(
            """*first*: a new key. *replay*: its retry. *refused*: a duplicate while the first is in its handler, 409.
            On SQLite it waits for the one writer and is then replayed.""",
            """*without a key*: the protected view, without a key. *bare*: the same view without protection, in
            autocommit.""",
            """*floor*: the bare view in `atomic`, with one plain INSERT of a row like the package's before the handler
            and one plain UPDATE of it after. No look-up, no lock, no digest: the least that two statements cost.""",
            """*floor of a replay*: a view that authenticates by the token and answers with bytes in memory.""",
            """*`FOLD` off*: BEGIN and COMMIT are sent separately. *no functions*, *no procedures*: without the
            server-side routines that a migration makes ([stores](../reference/stores.md)). *`CONN_MAX_AGE = 0`*: each
            request, the bare one too, opens a connection, as with Django's default.""",
            *(["*`REPLAY_CACHE`*, *keys in Redis*: see [below](#with-a-redis)."] if results.redis else []),
        ),
    ]


def counts(results: Results) -> list[str]:
    cases = {"first": "first", "replay": "replay", "refused": "refused", "atomic": "bare in `atomic`", "bare": "bare"}
    rows = []
    for (_, way), runs in results.ways.items():
        statements, trips = runs[0]["statements"], runs[0].get("trips", {})
        to_redis = runs[0].get("redis_trips", {})
        cells = [
            f"{statements[case]}, {trips[case]}" if case in trips else str(statements.get(case, "")) for case in cases
        ]
        cells = [
            f"{cell} + {to_redis[case]}" if to_redis.get(case) else cell
            for cell, case in zip(cells, cases, strict=True)
        ]
        rows.append([runs[0]["server"] + way, *cells])
    return [
        paragraph(
            """Statements are the view's own (one for the token, one INSERT) and the package's, without BEGIN, COMMIT,
            SAVEPOINT and SET autocommit. After the comma are round trips: how often the client waits for
            the server. SQLite has none. After the + are those to Redis."""
        ),
        table(["database", *cases.values()], rows),
    ]


def middleware(results: Results) -> list[str]:
    rows = []
    for (_, way), runs in results.ways.items():
        if not way:
            rows.append(
                [
                    runs[0]["server"],
                    f"{statistics.median(beside(runs, 'by_middleware', 'first')):.2f}x",
                    f"{milliseconds(runs, 'get') * 1000:.0f} µs",
                    f"{statistics.median(run['added'] for run in runs):.1f} µs",
                ]
            )
    return [
        paragraph(
            """A first execution that the middleware protects, beside the same view under the decorator; and a GET of a
            plain view that answers two bytes, without the middleware, and what the middleware adds to it (the target
            is less than 10 µs)."""
        ),
        table(["database", "first, of the decorator's", "GET without it", "it adds"], rows),
        f"`manage.py idempotency_audit` walks 2,000 routes in {results.audit:.1f} s (the target is less than 2 s).",
    ]


def in_phases(results: Results) -> list[str]:
    rows = []
    for (_, way), runs in results.ways.items():
        if not way:
            rows.append(
                [
                    runs[0]["server"],
                    f"{statistics.median(beside(runs, 'phased', 'twice')):.2f}x",
                    f"{statistics.median(beside(runs, 'phased_replay', 'replay')):.2f}x",
                    f"{runs[0]['statements']['phased'] - runs[0]['statements']['twice']}",
                    f"{milliseconds(runs, 'twice'):.2f} ms",
                ]
            )
    return [
        paragraph(
            """A first execution of two phases, beside the same two INSERTs in two plain `atomic` blocks (the target is
            at most 3.00x); a replay of it, beside a replay of atomic mode; and the statements that it adds. Claim, each
            phase and record are transactions of their own."""
        ),
        table(["database", "first", "replay, of the atomic mode's", "statements", "two `atomic` blocks"], rows),
    ]


def async_views(results: Results) -> list[str]:
    runs = results.async_views
    row = [
        f"{ratio(runs, 'first'):.2f}x ({by_run(runs, 'first')[0]:.2f} to {by_run(runs, 'first')[-1]:.2f})",
        f"{ratio(runs, 'replay'):.2f}x",
        f"{milliseconds(runs, 'atomic'):.2f} ms",
    ]
    return [
        paragraph(
            """An async view under uvicorn, on PostgreSQL through psycopg's pool, asked by one client over HTTP. Its
            work is one INSERT in one `sync_to_async` of an `atomic` block; the bare view is the same without protection
            (the targets are 1.35x and 0.85x)."""
        ),
        table(["first", "replay", "bare"], [row]),
    ]


def observers(results: Results) -> list[str]:
    runs = results.observers

    def figure(who: str, case: str) -> str:
        return f"{statistics.median(run['added'][who][case] for run in runs):.0f} µs"

    return [
        paragraph(
            f"""The time that [the two apps](../how-to/watch-with-prometheus-and-opentelemetry.md) take of the thread
            that serves the protected view, on PostgreSQL; the target is 20 µs with both. Every request is in a sampled
            trace. Spans and figures are made on another thread, which takes
            {statistics.median(run["later"] for run in runs):.0f} µs of CPU time for a request."""
        ),
        table(
            ["", "first", "replay"], [[who, figure(who, "first"), figure(who, "replay")] for who in runs[0]["added"]]
        ),
    ]


def with_redis(results: Results) -> list[str]:
    ways = {way: results.ways["PostgreSQL", way] for way in (REPLAY_CACHE, KEYS_IN_REDIS)}
    rows = [
        [
            way.removeprefix(", "),
            case,
            f"{ratio(runs, case):.2f}x",
            f"{statistics.median(beside(runs, case, 'bare')):.2f}x",
        ]
        for way, runs in ways.items()
        for case in ("first", "replay")
    ]
    return [
        paragraph(
            """*`REPLAY_CACHE`*: keys and answers are in PostgreSQL, and a copy of each answer goes to Redis after
            COMMIT. A replay reads that copy, and asks PostgreSQL only for the user's token."""
        ),
        paragraph(
            """*keys in Redis*: the RedisStore, which opens no transaction; the handler, with its one INSERT, runs in
            autocommit. The same handler without protection is *bare in autocommit*."""
        ),
        table(["", "request", "of bare in `atomic`", "of bare in autocommit"], rows),
    ]


def beside(runs: list[dict[str, Any]], case: str, other: str) -> list[float]:
    """The ratios of *case* against the same round's *other*."""
    return [ours / its for run in runs for ours, its in zip(run["ratios"][case], run["ratios"][other], strict=True)]


def far(results: Results) -> list[str]:
    rows = []
    direct = {(name, 0.0): results.ways[name, ""] for name, _ in results.far}
    for (name, _), runs in sorted(
        (direct | results.far).items(), key=lambda item: (item[0][0] != "PostgreSQL", item[0])
    ):
        ping = statistics.median(run["ping"] for run in runs)
        rows.append(
            [
                name,
                f"{ping:.2f} ms",
                *(f"{ratio(runs, case):.2f}x" for case in ("first", "replay")),
                f"{milliseconds(runs, 'atomic'):.2f} ms",
            ]
        )
    return [
        paragraph(
            """The database through a proxy that holds back each request to the server for 1 or 5 ms; each database's
            first line is without it. The second column is what `SELECT 1` took."""
        ),
        table(["database", "a round trip", "first", "replay", "bare in `atomic`"], rows),
    ]


def over_http(results: Results) -> list[str]:
    ratios = {case: statistics.median(found) for case, found in results.load["one_by_one"].items()}
    return [
        paragraph(
            f"""One client, which sends a request of each case after the other over one kept connection to gunicorn
            (gthread), on PostgreSQL: a first execution takes {ratios["first"]:.2f} times as long as the bare view in
            `atomic`, a replay {ratios["replay"]:.2f} times."""
        )
    ]


def load(results: Results) -> list[str]:
    cases = {"atomic": "bare in `atomic`", "first": "first", "replay": "replay"}
    rows = []
    for line in results.load["many"]:
        for case, name in cases.items():
            cell = line[case]
            rate = cell["rate"] / line["atomic"]["rate"]
            rows.append(
                [
                    str(line["clients"]),
                    name,
                    f"{cell['rate']:.0f}",
                    f"{rate:.2f}x",
                    f"{cell['p50']:.1f} ms",
                    f"{cell['p99']:.1f} ms",
                ]
            )
    return [
        paragraph(
            f"""gunicorn with 2 workers (gthread) of 4 threads each, on PostgreSQL, over HTTP with connections that are
            kept, for {results.seconds:.0f} s. Clients, workers and database share the machine: where
            there are more clients than threads, waiting times are those of the queue. Each case has slices
            of time of its own, in which the machine is not equally fast: [one after the other](#over-http) is the
            comparison of two requests."""
        ),
        table(["clients", "request", "per second", "of bare", "p50", "p99"], rows),
    ]


def profile(results: Results) -> list[str]:
    names = list(results.profile)
    cases = ("first", "replay")
    parts = [part for part in results.profile[names[-1]] if part not in (BARE, DRIVER, SERVER)]

    def sums(name: str, case: str, of: Iterable[str]) -> float:
        return sum(results.profile[name][part][case] for part in of)

    def more(name: str, case: str, part: str) -> float:
        return results.profile[name][part][case] - results.profile[name][part]["atomic"]

    def line(title: str, figures: Iterable[float | None]) -> list[str]:
        return [title, *("" if figure is None else f"{figure:.0f}" for figure in figures)]

    columns = [(name, case) for name in names for case in cases]
    rows = [line(part, [results.profile[name][part][case] for name, case in columns]) for part in parts]
    rows.append(line("**all of ours**", [sums(name, case, parts) for name, case in columns]))
    of_drivers = [more(name, case, DRIVER) if DRIVER in results.profile[name] else None for name, case in columns]
    if any(of_drivers):
        rows.append(line("the driver's, more than for the bare view", of_drivers))
    all_parts = {name: [part for part in results.profile[name] if part != SERVER] for name in names}
    in_all = [sum(more(name, case, part) for part in all_parts[name]) for name, case in columns]
    rows.append(line("**in all, more than for the bare view**", in_all))
    bare = ", ".join(f"{results.profile[name][BARE]['atomic']:.0f} on {name}" for name in names)
    return [
        paragraph(
            f"""Microseconds of Python for each protected request, beside the database: medians of {results.rounds}
            requests of each kind, from a stopwatch around each function, less what the stopwatches add.
            On the same scale the bare view in `atomic` takes {bare}. The last line compares with it: a
            first execution runs the same handler, a replay none."""
        ),
        table(["part", *(f"{name}, {case}" for name, case in columns)], rows),
        paragraph(
            """Reading the body is part of *fingerprint*; the bare view does it in its parser. *Claim* and *record* are
            the store's Python with Django's cursors."""
        ),
    ]


def targets(results: Results) -> list[str]:
    rows = []
    for title, (way, case, wanted) in WANTED.items():
        if way in results.ways:
            runs = results.ways[way]
            floor = FLOORS[case]
            floor = f"{ratio(runs, floor):.2f}x" if floor in runs[0]["ratios"] else ""
            rows.append([title, f"{wanted:.2f}x", f"{ratio(runs, case):.2f}x", met(ratio(runs, case), wanted), floor])
    for (name, case), wanted in WANTED_FAR.items():
        if runs := results.far.get((name, 1.0)):
            figure = ratio(runs, case)
            title = f"{name}, 1 ms away, {case}"
            rows.append([title, f"{wanted:.2f}x", f"{figure:.2f}x", met(figure, wanted), ""])
    if USUAL in results.ways:
        figure = statistics.median(beside(results.ways[USUAL], "first_insert", "insert"))
        rows.append(
            ["PostgreSQL, first, a bare INSERT", f"{BARE_INSERT:.2f}x", f"{figure:.2f}x", met(figure, BARE_INSERT), ""]
        )
    if results.load:
        figure = statistics.median(results.load["one_by_one"]["first"])
        rows.append(["PostgreSQL, over HTTP, first", f"{OVER_HTTP:.2f}x", f"{figure:.2f}x", met(figure, OVER_HTTP), ""])
    if USUAL in results.ways:
        trips = results.ways[USUAL][0]["trips"]
        added = trips["first"] - trips["atomic"]
        rows.append(["PostgreSQL, added round trips of a first", "0", str(added), met(added, 0), ""])
    return [
        "The limits that this package aims to stay below, and the results of this run.",
        table(["", "target", "measured", "met", "floor"], rows),
    ]


def met(figure: float, wanted: float) -> str:
    return "yes" if round(figure, 2) <= wanted else "no"


def method(results: Results) -> list[str]:
    return [
        paragraph(
            f"""Whole requests, called through Django's WSGI handler in one process, with the database on the same
            machine. Every round calls each case once, in shuffled order, and compares it with the same round's bare
            view in `atomic`. Each way to a database is measured in {results.runs} processes, taken in turns. The
            servers are as their packages configure them."""
        ),
        paragraph(
            f"""{datetime.datetime.now(tz=datetime.UTC).date()}, Python {platform.python_version()}, Django
            {django.__version__}, Django REST framework {rest_framework.__version__},
            {", ".join([*drivers(), *([results.redis] if results.redis else [])])}.
            Installing the app adds {results.start:.0f} ms to `django.setup()`. `make bench` makes this page again;
            `make bench-rivals` and `make bench-scale` make those [beside other packages](rivals.md) and
            [on scale](scale.md)."""
        ),
    ]


def drivers() -> list[str]:
    """What else the figures depend on, with its version."""
    return [f"{name} {metadata.version(name)}" for name in ("psycopg", "PyMySQL", "gunicorn", "django-redis", "redis")]


# --- Markdown ---


def paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


def bullets(*texts: str) -> str:
    return "\n".join(textwrap.indent(paragraph(text), "  ").replace("  ", "- ", 1) for text in texts)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
