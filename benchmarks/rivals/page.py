"""The page that the run writes."""

from __future__ import annotations

import datetime
import os
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.rivals.entry import TURN, Entry
from benchmarks.rivals.trials import RETRY_FOR, TRIALS

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "rivals.md"
WIDTH = 120  # characters of a line of prose


def page(entries: Sequence[Entry], servers: Sequence[str], rounds: int) -> str:
    """The page's text. The first of the *entries* is ours."""
    tried = [entry for entry in entries if entry.error is None]
    python = next((entry.versions["python"] for entry in tried), "none")
    return f"""# Beside other packages

<!-- written by `make bench-rivals` -->

{introduction(entries, servers, python)}

## What happens

Every cell was tried in this run, with real processes, and ends with the payments that were in the database.

{outcomes(entries)}

- **Killed**: the process gets SIGKILL while it renders the answer. A new process gets the same request, again and again
  while it says that the key is in use, for at most {RETRY_FOR} s.
- **Two at once**: a second process gets the request while the first one is held there.
- **Another user**: sends the first user's key and body with a token of their own.
- **Token revoked**: the same request again, after its token was deleted.

## What it costs

{figures(entries)}

Whole requests through Django's WSGI handler, in one process for each row. Each figure is a median of {rounds} ratios
against the bare view in `atomic` of the same round; the packages take turns of {TURN} rounds. Round trips are those to
PostgreSQL, + those to Redis.{busy()}

A package that opens no transaction runs the handler's INSERT in autocommit, which saves BEGIN and COMMIT.

*Callers*: a key is its user's own, and a revoked token gets no replay, both as tried above. Who replays before DRF has
authenticated saves the look-up of the token that all others make. *Crash*: what the retries came to of a request whose
process was killed between work and answer.

{faster(tried)}

## Configurations

{configurations(entries)}

`make bench-rivals` makes this page again; after `make clean`, with the newest versions of the packages.
"""


def outcomes(entries: Iterable[Entry]) -> str:
    return table(
        ["package", "keys in", *TRIALS],
        ([*title(entry), *(entry.outcomes.get(name, missing(entry)) for name in TRIALS)] for entry in entries),
    )


def figures(entries: Iterable[Entry]) -> str:
    return table(
        [
            *("package", "keys in", "first", "replay", "bare in `atomic`", "round trips of first, replay, bare"),
            *("callers", "crash"),
        ],
        ([*title(entry), *figures_of(entry)] for entry in entries),
    )


def figures_of(entry: Entry) -> list[str]:
    if entry.error is not None:
        return [missing(entry)] * 6
    return [
        f"{entry.ratio('first'):.2f}x",
        f"{entry.ratio('replay'):.2f}x",
        f"{statistics.median(entry.times['bare']) * 1000:.2f} ms",
        ", ".join(str(entry.trips[case]) for case in ("first", "replay", "bare")),
        "kept" if entry.keeps_callers else "**not kept**",
        entry.after_crash,
    ]


def faster(tried: Sequence[Entry]) -> str:
    """Whose figures are below ours, in words, and what those keep."""
    ours = tried[0].contender.package
    own = [entry for entry in tried if entry.contender.package == ours]
    others = [entry for entry in tried if entry.contender.package != ours]
    paragraphs = []
    for case, words in (("first", "First executions"), ("replay", "Replays")):
        ranked = sorted(others, key=lambda entry: entry.ratio(case))
        best = min(own, key=lambda entry: entry.ratio(case))
        for row in [own[0]] if best is own[0] else [own[0], best]:
            ahead = [entry for entry in ranked if entry.ratio(case) < row.ratio(case)]
            names = [f"{name_of(entry)} ({entry.ratio(case):.2f}x; {kept(entry)})" for entry in ahead]
            paragraphs.append(
                f"**{words} faster than {name_of(row)}** ({row.ratio(case):.2f}x): {'; '.join(names) or 'none'}."
            )
    return "\n\n".join("\n".join(textwrap.wrap(text, WIDTH, break_on_hyphens=False)) for text in paragraphs)


def busy() -> str:
    """What a reader has to know of a run with `BUSY=1`."""
    if os.environ.get("BUSY") != "1":
        return ""
    return (
        " The\nmachine was busy with other work: a ratio compares requests of one round, and milliseconds say nothing."
    )


def name_of(entry: Entry) -> str:
    return f"{entry.contender.package} with its keys in {entry.contender.keys_in}"


def kept(entry: Entry) -> str:
    """What an *entry* keeps of callers and crash, in words."""
    return f"callers {'kept' if entry.keeps_callers else 'not kept'}, after a crash {entry.after_crash.strip('*')}"


def introduction(entries: Sequence[Entry], servers: Sequence[str], python: str) -> str:
    others = len({entry.contender.package for entry in entries}) - 1
    text = f"""The same payment view under this package and under {others} others, run on {datetime.date.today()}. Each
        comes from PyPI (this one from the repository) into an environment of its own with the newest Django that it
        allows, and [is configured](#configurations) as its documentation says. Python {python}, {", ".join(servers)},
        on one machine."""
    text = " ".join(text.split())
    return "\n".join(textwrap.wrap(text, WIDTH, break_on_hyphens=False, break_long_words=False))


def configurations(entries: Iterable[Entry]) -> str:
    lines = []
    for entry in entries:
        name, keys_in = title(entry)
        django = f", on Django {entry.versions['django']}" if entry.versions else ""
        error = f" It could not be run: `{entry.error}`" if entry.error is not None else ""
        text = f"- {name}, keys in {keys_in}{django}: {entry.contender.configuration}{error}"
        lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def title(entry: Entry) -> list[str]:
    version = entry.versions.get(entry.contender.package)
    return [f"{entry.contender.package} {version}" if version else entry.contender.package, entry.contender.keys_in]


def missing(entry: Entry) -> str:
    return "not run" if entry.error is not None else ""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
