"""
The pages of the manual: their blocks of code, headings, links and tables.

A comment directly before a Python block says how to run it:

    <!-- settings -->          part of the project's settings, executed before Django is set up
    <!-- raises NAME -->       shows a mistake: executing it raises that exception
    <!-- fragment: WHY -->     incomplete: it is compiled, and its imports are executed

A block without a comment is complete: it runs after the earlier blocks of its page.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

FENCE = re.compile(
    r"^ *(?P<fence>`{3,})(?P<language>\S*)[^\n]*\n(?P<text>.*?)^ *(?P=fence) *$", re.MULTILINE | re.DOTALL
)
MARK = re.compile(r"<!-- (?P<kind>\w+)(?::? (?P<rest>[^\n]*?))? -->\n+\Z")
HEADING = re.compile(r"^(?P<level>#{1,6}) (?P<text>.+?) *$", re.MULTILINE)
LINK = re.compile(r"\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^()\s]+)\)")
KINDS = {"settings", "raises", "fragment"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    page: Path
    line: int
    text: str
    kind: str  # "complete", or one of KINDS
    rest: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    top = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
    return [*top, *sorted(DOCS.glob("**/*.md"))]


@cache
def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> Iterator[Block]:
    """The Python blocks of *page*."""
    content = text(page)
    for fence in FENCE.finditer(content):
        if fence["language"] != "python":
            continue
        mark = MARK.search(content, 0, fence.start())
        if mark is not None and mark["kind"] not in KINDS:
            raise ValueError(f"{page.name}: <!-- {mark['kind']} --> is no mark of a block.")
        yield Block(
            page=page,
            line=content.count("\n", 0, fence.start()) + 2,
            text=dedent(fence["text"]),
            kind=mark["kind"] if mark else "complete",
            rest=(mark["rest"] or "") if mark else "",
        )


def prose(page: Path) -> str:
    """*page* without its blocks of code."""
    return FENCE.sub("", text(page))


def headings(page: Path) -> list[str]:
    return [heading["text"] for heading in HEADING.finditer(prose(page))]


def slug(heading: str) -> str:
    """The anchor of *heading*, as GitHub and MyST make it."""
    plain = heading.replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def links(page: Path) -> list[tuple[str, str]]:
    """Text and target of each link."""
    return [(link["text"], link["target"]) for link in LINK.finditer(prose(page))]


def table(page: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of the table on *page* whose header begins with *columns*, each cell without its backticks."""
    lines = iter(prose(page).splitlines())
    for line in lines:
        names = _cells(line)
        if tuple(names[: len(columns)]) == columns:
            next(lines)  # the rule under the header
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append(dict(zip(names, _cells(row), strict=True)))
            return rows
    raise LookupError(f"{page.name} has no table {columns}.")


def _cells(line: str) -> list[str]:
    """The cells of a row; a bar inside a cell is written `\\|`."""
    if not line.startswith("|"):
        return []
    cells = re.split(r"(?<!\\)\|", line.strip()[1:-1])
    return [cell.strip().replace("\\|", "|") for cell in cells]
