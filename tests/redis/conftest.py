"""Servers of our own, and processes to ask them: neither the database nor the Redis of this run is touched."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis import servers
from tests.redis.lab import Gate, Lab
from tests.redis.servers import Keeper, Server


@pytest.fixture(scope="session")
def keep() -> Iterator[Keeper]:
    """Starts servers; without a program to start, the test is skipped, or fails with `REQUIRE_SERVERS`."""
    try:
        with servers.keeper() as keep:
            yield keep
    except servers.Missing as missing:
        if os.environ.get("REQUIRE_SERVERS", "") not in ("", "0"):
            raise
        pytest.skip(str(missing))


@pytest.fixture
def own(keep: Keeper) -> Iterator[Keeper]:
    """Starts servers that end with the test."""
    before = len(keep.servers)
    yield keep
    keep.end(keep.servers[before:])


@pytest.fixture(scope="session")
def lasting(keep: Keeper) -> Server:
    """A server that no test harms: each uses keys of its own."""
    return keep.redis()


@pytest.fixture(scope="session")
def _lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    lab.close()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


@pytest.fixture
def lab(_lab: Lab, gate: Gate) -> Iterator[Lab]:
    """Makes processes; what is left of them ends with the test."""
    _lab.gate = gate
    yield _lab
    _lab.end_children()


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """An idempotency key that no other test has."""
    return "".join(character if character.isalnum() else "-" for character in request.node.name)
