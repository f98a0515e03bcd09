"""The protocols hold their laws in every interleaving; each that is one change away from them is refuted."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.model import broken, databases, leased, phased, world
from tests.model.report import HOLDS, REFUTED, found, row, story
from tests.model.search import STUCK, Model, Move, search

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "model.md"


# What is refuted, beside the broken protocols of the databases.
LEASED = leased.BROKEN | leased.NOT_PROMISED
PHASED = phased.BROKEN | phased.NOT_PROMISED


@pytest.fixture
def count(record_property):
    """Say in the run's summary how much was searched."""

    def count(what: str, **numbers: int) -> None:
        record_property("proof", {"what": what, **numbers})

    return count


@pytest.mark.parametrize("name", HOLDS)
def test_a_protocol_holds_its_laws(name, count):
    """In no state that two clients can reach is a law broken, and from each of them both can get an answer."""
    result = found(name)

    assert (result.law, result.story) == (None, ())
    count(f"model: {name}", states=result.states, moves=result.moves)


def test_the_search_is_no_toy():
    """Thousands of states for each database: the actors do meet in all ways."""
    assert all(found(name).states > 2000 for name in databases.PROTOCOLS)
    assert sum(found(name).states for name in HOLDS) > 50_000


@pytest.mark.parametrize("name", REFUTED)
def test_a_broken_protocol_is_refuted(name):
    """By the law that it is said to break, with a way there that has both a beginning and an end."""
    result = found(name)
    law = broken.BROKEN[name].law if name in broken.BROKEN else (LEASED | PHASED)[name].laws[0]

    assert result.law == law
    assert result.story


def test_each_law_is_broken_by_one_of_them():
    """A law that nothing breaks would say nothing."""
    assert {each.law for each in broken.BROKEN.values()} == {*world.LAWS, STUCK}
    assert {each.laws[0] for each in LEASED.values()} == set(leased.LAWS)
    assert {each.laws[0] for each in PHASED.values()} == set(phased.LAWS)


# What happens only where two meet at the wrong moment.
RARE = {
    "PostgreSQL, READ COMMITTED": {
        "finds the lock taken, and is refused",
        "inserts nothing, for a record is there now",
        "finds that record purged, and starts again",
    },
    "PostgreSQL, REPEATABLE READ": {"finds the lock taken, and is refused", "fails with 40001, and starts again"},
    "MariaDB, READ COMMITTED": {
        "finds the row locked, and is refused",
        "writes nothing, for the row is another one now",
        "finds that row gone, and starts again",
    },
    "MariaDB, REPEATABLE READ": {"writes nothing, for the row is another one now"},
    "SQLite": {"begins, as the only writer"},
}
EVERYWHERE = {
    "is killed",
    "loses its connection before COMMIT arrives",
    "never hears of it",
    "expires",
    "locks the expired record",
    "deletes it",
    "frees the key",
    "leaves the key alone",
}


@pytest.mark.parametrize("name", databases.PROTOCOLS)
def test_what_is_rare_happens(name):
    """A search that never gets there would prove nothing of it."""
    assert RARE[name] | EVERYWHERE <= found(name).words


RARE_IN_PHASES = {
    "renews its lease",
    "takes the run over",
    "finds the key claimed, and starts again",
    "finds the run changed, and starts again",
    "has lost its run, and commits nothing",
    "notices that The resumer is gone, and rolls back",
    "raises, and nothing was done",
    "commits, and does not hear of it",
}


@pytest.mark.parametrize("name", phased.PROMISES)
def test_what_is_rare_happens_in_phases(name):
    """On SQLite nobody finds a row held, because the owner is the only writer."""
    rules = phased.PROMISES[name].rules
    words = found(name).words

    assert words >= RARE_IN_PHASES
    assert ("finds the run's row held, and is refused" in words) is not rules.is_one_writer
    assert ("asks whether it was charged: it was" in words) is (rules.foreign is phased.Foreign.PROBE)


def test_the_search_finds_the_shortest_way_first():
    """And a state from which a client gets nothing, though no law is broken in it."""

    def moves(number: int) -> Iterator[Move]:
        if number < 9:
            yield Move("A", "adds one", number + 1)
            yield Move("A", "adds three", number + 3)

    def model(limit: int, served: int) -> Model:
        laws: dict[str, Any] = {"small": lambda number: number < limit}
        return Model(start=0, moves=moves, laws=laws, clients=("A",), is_served=lambda number, client: number == served)

    assert search(model(6, 0)).story == ("A adds three", "A adds three")
    assert search(model(20, 11)).law == STUCK
    assert search(model(20, 11)).story == ("A adds three", "A adds three", "A adds three")


@pytest.mark.parametrize("name", HOLDS)
def test_the_page_shows_how_far_it_was_searched(name):
    """The manual's table is what the search finds today."""
    assert row(name) in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_page_shows_how_it_goes_wrong():
    """Each story that the manual tells is what the search finds today, word for word."""
    told = re.findall(r"```text\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)

    assert len(told) > 3
    assert set(told) <= {story(name) for name in REFUTED}
