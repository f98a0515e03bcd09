"""The drawing of the rooms is the package: every file at its top level, each with its rule."""

from docs.rooms import ROOT, draw, layers
from tests.docs.pages import DOCS, text

PACKAGE = ROOT / "django_idempotency"


def test_the_drawing_has_every_room():
    """What stands at the package's top level is drawn once; migrations and data have no imports to draw."""
    drawn = [room.name for layer in layers() for room in layer.rooms]
    files = {path.stem for path in PACKAGE.glob("*.py")}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}

    assert sorted(drawn) == sorted((files | folders) - {"__init__", "migrations"})


def test_each_room_has_a_rule():
    """The first sentence of a room's docstring: one rule, short enough to draw."""
    rules = {room.name: room.rule for layer in layers() for room in layer.rooms if (PACKAGE / room.name).is_dir()}

    assert {name for name, rule in rules.items() if not 2 < len(rule.split()) <= 25} == set()


def test_rooms_that_must_not_import_each_other_are_apart():
    """The contract's `|` is drawn as a gap."""
    apart = [{room.name for room in layer.rooms} for layer in layers() if layer.independent]

    assert {"adapters", "engine"} in apart
    assert draw(layers()).count('class="independent"') == len(apart)


def test_the_architecture_page_shows_it():
    assert "```{rooms}" in text(DOCS / "contributing" / "architecture.md")
