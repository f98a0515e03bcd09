"""
The claim protocol of MySQL 8, for which there is no server here, run on MariaDB: the store is given the class of MySQL.

What MariaDB cannot show is MySQL's own errno for NOWAIT (3572 instead of 1205). SERIALIZABLE is left out: its look-up
waits for a rival there, and inside an outer transaction duplicates that wait can hold each other up to their timeouts.
"""

import pytest

from tests.proof.lab import PATHS, SCALE, Killing, Path, Request, amounts, expire, race, statuses

pytestmark = pytest.mark.django_db(transaction=True)

KILLED = ("success", "refusal", "expired-record", "replay")


@pytest.fixture(autouse=True)
def _on_mariadb(vendor: str) -> None:
    if vendor not in ("mariadb", "mysql"):
        pytest.skip("InnoDB's locks are needed")


@pytest.mark.kill
@pytest.mark.parametrize("path", [path for path in PATHS if path.name in KILLED], ids=lambda path: path.name)
def test_mysqls_claim_killed_at_any_point_takes_effect_once(lab, token, count, atomic_requests, path: Path):
    """With its three statements, too, a killed request leaves nothing, or all of it."""
    killing = Killing(lab, token, path, f"my-{path.name}", mysql=True, database={"ATOMIC_REQUESTS": atomic_requests})
    points, violations = killing.each()
    count(
        f"mysql path on mariadb, {'with' if atomic_requests else 'without'} ATOMIC_REQUESTS",
        points=len(points), kills=killing.kills, violations=len(violations),
    )  # fmt: skip

    assert violations == []


@pytest.mark.race
@pytest.mark.parametrize("level", ["read committed", "repeatable read"])
@pytest.mark.parametrize("path", ["/pay/", "/pay/wait/"], ids=["reject", "wait"])
@pytest.mark.parametrize("state", ["fresh", "expired"])
def test_mysqls_claim_raced_for_executes_once(lab, token, count, atomic_requests, level, path, state):
    """Two rivals may meet in the INSERT, where one waits for the other's handler; still one effect and one answer."""
    config = {"mysql": True, "isolation": level, "database": {"ATOMIC_REQUESTS": atomic_requests}}
    children = [lab.child(**config).connect() for _ in range(8)]
    violations = []
    for number in range(3 * SCALE):
        request = Request(key=f"race-{number}", token=token, path=path)
        if state == "expired":
            assert children[0].ask(request).status == 201
            expire(request.key)
        outcome = race(children, request, fails=0.4)
        violations += outcome.violations([10, 10] if state == "expired" else [10])
    count(f"mysql path on mariadb, races at {level}", keys=3 * SCALE, violations=len(violations))

    assert violations == []


def test_a_rival_in_the_insert_is_in_flight_and_not_an_absent_store(lab, token):
    """Who waits in the INSERT past the lock wait timeout has lost a race: 409, not the 503 of a store that is away."""
    first, second = lab.child(mysql=True).connect(), lab.child(mysql=True, options=INIT).connect()
    request = Request(key="gap", token=token)
    second.send(request, halts=True)
    second.halt_when("before claim")  # it has found neither record nor lock
    first.send(request, halts=True)
    first.halt_when("after claim")
    reply = second.finish()

    assert (reply.status, reply.code) == (409, "request-in-progress")
    assert first.finish().status == 201
    assert second.ask(request).replayed
    assert amounts(request.key) == [10]
    assert statuses(request.key) == [201]


INIT = {"init_command": "SET innodb_lock_wait_timeout = 1"}
