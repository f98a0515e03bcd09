"""
Behind a pooler in transaction mode: more clients than connections, each transaction on whichever is free.

The tests of outcomes, kills, races and lost messages run there too, with `python -m tests --database pooled`. Here is
what only a pooler can break: what one client leaves on a connection of the server, the next one finds.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from django.db import connection

from tests.app.serving import POOLED
from tests.proof.lab import PATHS, PATIENCE, SCALE, Child, Killing, Request, amounts, race, statuses
from tests.servers import POOL_SIZE
from tests.stores.leftovers import busy, leftovers

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(not POOLED, reason="this run has no pooler"),
]

CLIENTS = POOL_SIZE + 3
SUCCESS = next(path for path in PATHS if path.name == "success")


def other_client() -> Any:
    """A client of the pooler that has nothing to do with Django."""
    settings = connection.settings_dict
    return psycopg.connect(
        host=settings["HOST"], port=settings["PORT"], user=settings["USER"], password=settings["PASSWORD"] or None,
        dbname=settings["NAME"], prepare_threshold=None, cursor_factory=psycopg.ClientCursor,
    )  # fmt: skip


@pytest.fixture
def clean() -> Iterator[None]:
    """After the test each of the server's connections that the pooler has is idle, and has nothing on it."""
    yield
    connection.close()
    deadline = time.monotonic() + PATIENCE
    with other_client() as client, client.cursor() as cursor:
        while (left := busy(cursor)) and time.monotonic() < deadline:
            client.rollback()
            time.sleep(0.01)  # the server ends what killed clients have left
        assert left == []
    with ExitStack() as stack:
        # All at once, each in a transaction: all of the pooler's connections.
        cursors = [stack.enter_context(stack.enter_context(other_client()).cursor()) for _ in range(POOL_SIZE)]
        sessions = set()
        for cursor in cursors:
            cursor.execute("SELECT pg_backend_pid()")
            sessions.add(cursor.fetchone()[0])
            assert leftovers(cursor) == {}
        assert len(sessions) == POOL_SIZE


def children(lab: Any, **config: Any) -> list[Child]:
    return [lab.child(**config).connect() for _ in range(CLIENTS)]


@pytest.fixture(
    params=[{}, {"prepare_threshold": 1}, {"server_side_binding": True}],
    ids=lambda options: min(options, default="plain"),
)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The driver's: Django prepares no statement by default, and with client-side binding it cannot."""
    return request.param


@pytest.mark.race
def test_more_clients_than_connections_race_for_a_key(lab, token, count, clean, atomic_requests, options):
    """One effect and one answer, whichever connections a request's transactions and its rivals' are on."""
    clients = children(lab, options=options, database={"ATOMIC_REQUESTS": atomic_requests})
    violations = []
    for number in range(4 * SCALE):
        request = Request(key=f"pooler-{number}", token=token, path=("/pay/", "/pay/wait/")[number % 2])
        violations += race(clients, request, fails=0.4).violations([10])
    count("pooler, races", keys=4 * SCALE, violations=len(violations))

    assert violations == []


@pytest.mark.parametrize("script", ["", "refuse", "raise", "savepoints", "commit", "swallow in cursor"])
def test_a_request_leaves_nothing_to_the_next_client(lab, token, clean, atomic_requests, script):
    """Executed, refused, failed, broken or committed by its handler: the connection goes back as it came."""
    clients = children(lab, database={"ATOMIC_REQUESTS": atomic_requests})
    requests = [
        Request(key=f"leaves-{number}", token=token, script=script, more={"statement": "SELECT 1/0"})
        for number in range(CLIENTS)
    ]
    for client, request in zip(clients, requests, strict=True):
        client.send(request)
    replies = [client.reply() for client in clients]
    again = [client.ask(request, "") for client, request in zip(reversed(clients), requests, strict=True)]

    assert len({reply.status for reply in replies}) == 1
    if script == "commit":
        assert {reply.code for reply in again} == {"outcome-unknown"}
    else:
        assert {reply.status for reply in again} == {201}
        assert {reply.replayed for reply in again} == {replies[0].status == 201}


@pytest.mark.kill
def test_a_killed_client_leaves_nothing_to_the_next_one(lab, token, count, clean, atomic_requests):
    """The pooler hears that a client is gone and gives up the connection with its transaction: no lock is left."""
    killing = Killing(lab, token, SUCCESS, "pooler-kill", database={"ATOMIC_REQUESTS": atomic_requests})
    points, violations = killing.each()
    count("pooler, kills", points=len(points), kills=killing.kills, violations=len(violations))

    assert violations == []


def test_what_others_write_is_committed_at_once(lab, token, clean):
    """A client in autocommit that gets our connections in turn is in no transaction of ours, nor is its work in one."""
    request = Request(key="autocommit", token=token)
    client, reader = lab.child().connect(), other_client()
    client.send(request, halts=True)
    with other_client() as other:
        other.autocommit = True
        for number, _ in enumerate(client.points()):
            other.execute("INSERT INTO app_payment (amount, reference) VALUES (%s, 'other')", [number])
            seen = reader.execute("SELECT count(*) FROM app_payment WHERE reference = 'other'").fetchone()[0]
            reader.commit()
            assert seen == number + 1
    reader.close()

    assert client.last.status == 201
    assert amounts("autocommit") == [10]
    assert statuses("autocommit") == [201]


def test_what_is_left_on_a_connection_is_seen(clean):
    """The check of these tests: what would leak to other clients does, and shows."""
    with other_client() as client, client.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(7); PREPARE left_over AS SELECT 1; SET work_mem = '5MB'; COMMIT")
        with other_client() as next_client, next_client.cursor() as its_cursor:
            seen = leftovers(its_cursor)
            locked = busy(cursor)
            its_cursor.execute("SELECT pg_advisory_unlock(7); DEALLOCATE left_over; RESET work_mem")

    assert seen == {
        "advisory locks": ["ExclusiveLock"],
        "prepared statements": ["left_over"],
        "settings": ["work_mem = 5120"],
    }
    assert ("lock", "ExclusiveLock") in locked
