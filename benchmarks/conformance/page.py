"""The page that the run writes."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.page import bullets, paragraph, table
from django_idempotency.conformance.checks.base import DRAFT, Level

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "conformance.md"
MARKS = {"pass": "pass", "fail": "**fail**", "not applicable": ""}
LEVELS = [str(level) for level in Level]


@dataclass(kw_only=True)
class Entry:
    """One server, and what was found: `checks` as in the kit's JSON, or the error that came before."""

    name: str
    setting: str
    versions: dict[str, str] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None

    def count(self, level: str, result: str) -> int:
        return sum((check["level"], check["result"]) == (level, result) for check in self.checks)

    @property
    def summary(self) -> str:
        if self.error is not None:
            return self.error
        return ", ".join(f"{level} {self.count(level, 'pass')} of {self.asked(level)}" for level in LEVELS)

    def asked(self, level: str) -> int:
        return self.count(level, "pass") + self.count(level, "fail")


def page(entries: Sequence[Entry]) -> str:
    """The page's text. The first of the *entries* is this package's."""
    tried = [entry for entry in entries if entry.error is None]
    number = {entry.name: str(place) for place, entry in enumerate(tried, 1)}
    counts = table(
        ["", "server", *LEVELS],
        [
            [
                number[entry.name],
                named(entry),
                *(f"{entry.count(level, 'pass')} of {entry.asked(level)}" for level in LEVELS),
            ]
            for entry in tried
        ],
    )
    results = table(
        ["check", "level", *number.values()],
        [
            [
                f"`{check['id']}`",
                f"{check['level']} {check['section'] or ''}".strip(),
                *(MARKS[entry.checks[place]["result"]] for entry in tried),
            ]
            for place, check in enumerate(tried[0].checks)
        ],
    )
    errors = [f"{entry.name} could not be examined: {entry.error}" for entry in entries if entry.error is not None]
    return "\n".join(
        [
            "# What the conformance kit found",
            "",
            "<!-- written by `make conformance` -->",
            "",
            paragraph(
                "[The conformance kit](../how-to/test-any-server.md) examines any server over HTTP. Here it has"
                f" examined this package and {len(entries) - 1} others, each from PyPI or npm under a minimal app of"
                f" its framework, on {datetime.date.today()}, with Python {platform.python_version()}."
            ),
            "",
            paragraph(
                f"MUST and SHOULD are those of {DRAFT}. EXPECTED is what users expect beyond it, as this package"
                " understands it: another one may have chosen otherwise for a reason. Counted is what could be asked."
            ),
            "",
            counts,
            "",
            "## Check by check",
            "",
            paragraph(
                "[What each asks](../how-to/test-any-server.md#what-it-checks). The numbers are those of the table"
                " above; an empty cell is not applicable."
            ),
            "",
            results,
            "",
            "## What was seen",
            "",
            *(line for entry in tried for line in seen(entry)),
            "## How each was set up",
            "",
            bullets(*(f"{named(entry)}: {entry.setting}" for entry in entries), *errors),
            "",
            paragraph(
                "The apps are in `benchmarks/conformance/apps`. On FastAPI the caller is a dependency, which runs"
                " behind middleware: what a middleware replays or refuses comes before it. `make conformance` makes"
                " this page again; after `make clean`, with the newest versions of the packages."
            ),
            "",
        ]
    )


def named(entry: Entry) -> str:
    """The server's name with its versions."""
    if not entry.versions:
        return entry.name
    (package, version), (framework, other) = entry.versions.items()
    return f"{package} {version} on {framework} {other}"


def seen(entry: Entry) -> list[str]:
    """What was seen of the checks that failed."""
    wrong = [check for check in entry.checks if check["result"] == "fail"]
    if not wrong:
        return [paragraph(f"**{entry.name}**: nothing failed."), ""]
    lines = [f"`{check['id']}`: `{escaped(check['saw'])}`" for check in wrong]
    return [f"**{entry.name}**:", "", bullets(*lines), ""]


def escaped(text: str) -> str:
    """*text* for a code span on one line."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text.replace("`", "'"))
