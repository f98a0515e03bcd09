"""
The directive `{rooms}`: draws the layers of the package from the import contract in pyproject.toml.

The rule under each room is the first sentence of its docstring, so the drawing cannot differ from the code.
"""

import ast
import re
import tomllib
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = ROOT / "pyproject.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    name: str
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    rooms: tuple[Room, ...]
    independent: bool  # its rooms may not import each other


def layers() -> list[Layer]:
    """The layers of the import contract, from the one that may import all others down. Planned rooms are left out."""
    linter = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["importlinter"]
    contract = next(each for each in linter["contracts"] if each["type"] == "layers")
    package = ROOT / linter["root_package"]
    found = []
    for row in contract["layers"]:
        sources = {name: find_source(package, name) for name in re.findall(r"\w+", row)}
        rooms = tuple(Room(name=name, rule=find_rule(source)) for name, source in sources.items() if source)
        if rooms:
            found.append(Layer(rooms=rooms, independent="|" in row))
    return found


def find_source(package: Path, name: str) -> Path | None:
    return next((path for path in (package / name / "__init__.py", package / f"{name}.py") if path.exists()), None)


def find_rule(source: Path) -> str:
    """The first sentence of the docstring of *source*."""
    docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return re.split(r"(?<=\.) ", paragraph)[0].rstrip(".")


class Rooms(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(PYPROJECT))
        return [nodes.raw("", draw(layers()), format="html")]


def draw(drawn: list[Layer]) -> str:
    return f'<ol class="rooms">{"".join(map(_draw_layer, drawn))}</ol>'


def _draw_layer(layer: Layer) -> str:
    kind = ' class="independent"' if layer.independent else ""
    return f"<li{kind}>{''.join(map(_draw_room, layer.rooms))}</li>"


def _draw_room(room: Room) -> str:
    rule = re.sub(r"`+([^`]+)`+", r"<code>\1</code>", escape(room.rule))
    return f"<div><strong>{escape(room.name)}</strong><span>{rule}</span></div>"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("rooms", Rooms)
    return {"parallel_read_safe": True}
