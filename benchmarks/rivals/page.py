"""The page that the run writes."""

from __future__ import annotations

import datetime
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.rivals.entry import Entry
from benchmarks.rivals.trials import RETRY_FOR, TRIALS

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "rivals.md"
WIDTH = 120  # characters of a line of prose


def page(entries: Sequence[Entry], servers: Sequence[str], rounds: int) -> str:
    """The page's text. The first of the *entries* is ours."""
    tried = [entry for entry in entries if entry.error is None]
    python = next((entry.versions["python"] for entry in tried), "none")
    return f"""# Beside other packages

<!-- written by `make bench-rivals` -->

The same payment view under this package and under three others, run on {datetime.date.today()}. Each comes from PyPI
(this one from the repository) into an environment of its own with the newest Django that it allows, and
[is configured](#configurations) as its documentation says. Python {python}, {", ".join(servers)}, on one machine.

## What happens

Every cell was tried in this run, with real processes, and ends with the payments that were in the database.

{outcomes(entries)}

- **Killed**: the process gets SIGKILL while it renders the answer. A new process gets the same request, again and again
  while it says that the key is in use, for at most {RETRY_FOR} s.
- **Two at once**: a second process gets the request while the first one is held there.
- **Another user**: sends the first user's key and body with a token of their own.

## What it costs

{figures(entries)}

Whole requests through Django's WSGI handler, in one process for each row. Each figure is a median of {rounds} ratios
against the bare view in `atomic` of the same round. Round trips are those to PostgreSQL, + those to Redis.

A package that opens no transaction runs the handler's INSERT in autocommit, which saves BEGIN and COMMIT.

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
        ["package", "keys in", "first", "replay", "bare in `atomic`", "round trips of first, replay, bare"],
        ([*title(entry), *figures_of(entry)] for entry in entries),
    )


def figures_of(entry: Entry) -> list[str]:
    if entry.error is not None:
        return [missing(entry)] * 4
    return [
        f"{entry.ratio('first'):.2f}x",
        f"{entry.ratio('replay'):.2f}x",
        f"{statistics.median(entry.times['bare']) * 1000:.2f} ms",
        ", ".join(str(entry.trips[case]) for case in ("first", "replay", "bare")),
    ]


def faster(tried: Sequence[Entry]) -> str:
    """Whose figures are below ours, in words."""
    ours = tried[0]
    others = [entry for entry in tried if entry.contender.package != ours.contender.package]
    sentences = []
    for case, words in (("first", "First executions"), ("replay", "Replays")):
        ahead = [entry for entry in others if entry.ratio(case) < ours.ratio(case)]
        names = "; ".join(f"{entry.contender.package} with its keys in {entry.contender.keys_in}" for entry in ahead)
        own = f"this package's with its keys in {ours.contender.keys_in}"
        sentences.append(f"{words} faster than {own}: {names or 'none'}.")
    return "\n".join(textwrap.wrap(" ".join(sentences), WIDTH, break_on_hyphens=False))


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
