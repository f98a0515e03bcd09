"""The pictures of the manual: each file exists, has an alternative text, and is small."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, pages, prose

PICTURES = DOCS / "_static"
MARKDOWN = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<path>[^)\s]+)\)")
MYST = re.compile(r"```\{(image|figure)\}")
SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Tags(HTMLParser):
    """The pictures that a page shows as HTML: path and alternative text, None for the sources of a picture."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "img":
            self.found.append((attributes.get("src") or "", attributes.get("alt") or ""))
        if tag == "source":
            self.found.append((attributes.get("srcset") or "", None))


def shown(page: Path) -> Iterator[tuple[Path, str | None]]:
    """File and alternative text of each picture on *page*; None for a source, which is its img in another look."""
    markdown = [(picture["path"], picture["alt"]) for picture in MARKDOWN.finditer(prose(page))]
    for path, words in markdown + Tags(prose(page)).found:
        yield (page.parent / path).resolve(), words


SHOWN = [(page, *picture) for page in pages() for picture in shown(page)]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_picture_is_there_and_has_words(page):
    assert not MYST.search(page.read_text(encoding="utf-8")), "the repository's pages show these as code"
    for path, words in shown(page):
        assert path.is_file(), f"{page.name} shows {path.name}"
        assert words is None or len(words.split()) > 3, f"{page.name} shows {path.name} without words"


def test_each_picture_is_shown():
    """No picture is left over from a removed page."""
    assert {path for _, path, _ in SHOWN} == set(PICTURES.glob("*.png"))
    assert SHOWN


def test_the_pictures_are_small():
    """Every clone of the repository has them all."""
    sizes = {path.name: path.stat().st_size for path in PICTURES.glob("*.png")}

    assert {name for name, size in sizes.items() if size > 120 * 1024} == set()
    assert sum(sizes.values()) < 1088 * 1024
    assert all(path.read_bytes().startswith(SIGNATURE) for path in PICTURES.glob("*.png"))


@pytest.mark.browser
@pytest.mark.slow
def test_the_pictures_can_be_drawn_anew(tmp_path):
    """Each page can be reached, fits a telephone's width, and has a picture in the manual."""
    if not shutil.which("chromedriver") and os.environ.get("REQUIRE_SERVERS", "") in ("", "0"):
        pytest.skip("chromedriver: not found. Debian: apt-get install chromium chromium-driver")
    drawn = subprocess.run(
        [sys.executable, "-m", "docs.screenshots", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    assert drawn.returncode == 0, drawn.stdout
    of_others = {"grafana.png"}  # docs/grafana.py draws it, in minutes, and differently each time
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in PICTURES.glob("*.png")} - of_others
