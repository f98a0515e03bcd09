"""
Three nodes of Galera that all take writes: one effect and one answer, late, because a rival is noticed at COMMIT.

The clients are spread over the nodes; `python -m tests --database galera` starts them.
"""

import os
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations.records import free
from tests.proof.lab import SCALE, Lab, Request, amounts, expire, race
from tests.proof.test_races import CLIENTS, FAILS, race_for_keys
from tests.servers import mariadb_cursor

NODES = os.environ.get("NODES", "").split()
pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.race,
    pytest.mark.skipif(not NODES, reason="`--database galera` starts a cluster"),
]
ROWS = (
    "SELECT reference, amount FROM {0}.app_payment ORDER BY id",
    "SELECT `key`, status, body FROM {0}.django_idempotency_record ORDER BY digest",
)


@pytest.fixture(autouse=True)
def same(settings: Any) -> Any:
    """Afterwards all nodes hold the same rows, and none has left the others."""
    yield
    assert len({str(rows_on(url, settings.DATABASES["default"]["NAME"])) for url in NODES}) == 1


def rows_on(url: str, database: str) -> list[Any]:
    with mariadb_cursor(url) as cursor:
        cursor.execute("SHOW STATUS LIKE 'wsrep_cluster_size'")
        found = [cursor.fetchone()]
        cursor.execute("SET SESSION wsrep_sync_wait = 1")
        for statement in ROWS:
            cursor.execute(statement.format(database))
            found.append(cursor.fetchall())
    return found


@pytest.mark.parametrize(
    ("level", "state", "path"),
    [
        ("read uncommitted", "expired", "/pay/"),
        ("read committed", "fresh", "/pay/"),
        ("repeatable read", "expired", "/pay/"),
        ("repeatable read", "fresh", "/pay/wait/"),
        ("serializable", "fresh", "/pay/"),
    ],
)
def test_a_race_on_all_nodes_has_one_effect(lab, token, count, atomic_requests, level, state, path):
    """The losers get 409 or wait, or get 503 (with ATOMIC_REQUESTS 500) at COMMIT; and then the answer."""
    config = {"isolation": level, "database": {"ATOMIC_REQUESTS": atomic_requests}}
    children = [lab.child(**config).connect() for _ in range(CLIENTS)]

    race_for_keys(children, token, path, state, count, f"galera, races at {level} on {path}", True)


@pytest.mark.parametrize("plain", [False, True], ids=["procedures", "statements"])
def test_with_retries_the_losers_get_the_answer(lab, token, count, plain):
    """Who loses at COMMIT runs again, and finds the record: no client of a race sees an error."""
    children = [lab.child(plain=plain).connect() for _ in range(CLIENTS)]
    violations = []
    for number in range(4 * SCALE):
        request = Request(key=f"again-{number}", token=token, path="/pay/again/")
        violations += race(children, request, fails=FAILS).violations([10])
    count("galera, races with retries=3", keys=4 * SCALE, violations=len(violations))

    assert violations == []


def test_a_record_is_found_on_another_node_at_once(lab, token):
    one, other = lab.child().connect(), lab.child().connect()
    for number in range(20 * SCALE):
        request = Request(key=f"other-{number}", token=token)
        first, second = one.ask(request), other.ask(request)

        assert (first.status, first.replayed) == (201, False)
        assert (second.status, second.replayed, second.body) == (201, True, first.body)


def in_phases(key: str, token: str, folder: Path, path: str) -> Request:
    gateway = folder / key
    gateway.mkdir()
    return Request(key=key, token=token, path=path, more={"gateway": str(gateway)})


def violations_in_phases(request: Request) -> list[str]:
    """What is not there once: order, charge, shipment."""
    seen = [amounts(request.key), amounts(f"{request.key}/shipment"), len(os.listdir(request.more["gateway"]))]
    return [] if seen == [[10], [10], 1] else [f"{request.key}: {seen}"]


def test_a_race_in_phases_has_one_of_each(lab, token, count, tmp_path):
    """The claim is committed before the first phase, so who loses there has called nobody."""
    children = [lab.child().connect() for _ in range(CLIENTS)]
    violations = []
    for number in range(2 * SCALE):
        request = in_phases(f"phases-{number}", token, tmp_path, "/phased/")
        violations += race(children, request, fails=0).violations([10], suspicious=True)
        violations += violations_in_phases(request)
    count("galera, races in phases", keys=2 * SCALE, violations=len(violations))

    assert violations == []


@pytest.mark.parametrize("point", ["before the gateway", "after the gateway", "before record"])
def test_a_run_in_phases_goes_on_on_another_node(lab, token, tmp_path, point):
    """Its recovery points are there when the lease of the node that was killed is over."""
    killed, other = lab.child().connect(), lab.child().connect()
    request = in_phases(point.replace(" ", "-"), token, tmp_path, "/phased/brief/")
    killed.send(request, halts=True)
    killed.halt_when(point)
    killed.kill()

    assert other.ask_until_final(request).status == 201
    assert violations_in_phases(request) == []


def test_a_key_that_is_freed_on_one_node_is_new_on_the_others(lab, token):
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION wsrep_sync_wait = 1")  # of this process, which looks at what others have written
    for number, child in enumerate([lab.child().connect() for _ in NODES]):
        request = Request(key=f"freed-{number}", token=token)
        assert child.ask(request).status == 201
        free(IdempotencyRecord.objects.get(key=request.key))

        assert [child.ask(request).replayed for _ in range(2)] == [False, True]
        assert amounts(request.key) == [10, 10]


def test_purges_on_all_nodes_share_the_work(lab: Lab, token):
    children = [lab.child().connect() for _ in NODES]
    for number in range(40):
        request = Request(key=f"old-{number}", token=token)
        assert children[number % len(NODES)].ask(request).status == 201
        expire(request.key)
    for child in children:
        child.do("purge")
    counts = [child.result()["count"] for child in children]

    assert sum(counts) == 40
