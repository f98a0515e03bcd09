"""SIGKILL from outside, before and after everything that a protected request sends to the database."""

import pytest
from django.db import connection

from django_idempotency.stores.database import folded
from tests.lab.routines import BY_STATEMENTS
from tests.proof.lab import PATHS, Killing, Path

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.kill]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_a_request_killed_at_any_point_takes_effect_once(lab, token, count, vendor, atomic_requests, path: Path):
    """Wherever a request is killed, its retries leave one effect, and replay exactly if it had committed."""
    killing = Killing(lab, token, path, f"kill-{path.name}", database={"ATOMIC_REQUESTS": atomic_requests})
    points, violations = killing.each()
    count(
        f"{vendor}, {'with' if atomic_requests else 'without'} ATOMIC_REQUESTS",
        points=len(points), kills=killing.kills, violations=len(violations),
    )  # fmt: skip

    assert violations == []
    more = MYSQL_STATEMENTS[path.name] if vendor == "mysql" and BY_STATEMENTS else 0
    assert len(points) == killing.kills == expected(vendor, path, atomic_requests) + more


# What each path has, without ATOMIC_REQUESTS and with it: before and after each statement, savepoint, BEGIN, COMMIT,
# ROLLBACK and return to autocommit, and before the answer is sent.
POINTS = {
    "success": (15, 19),
    "refusal": (15, 21),  # the claim's row is asked for at the end
    "exception": (15, 21),
    "expired-record": (15, 19),
    "savepoints": (31, 35),
    "replay": (11, 15),
}

# What MySQL's plain statements add: a claim is a look-up, INSERT (or a lock and UPDATE) and SAVEPOINT, and a record is
# RELEASE SAVEPOINT and UPDATE.
MYSQL_STATEMENTS = {
    "success": 6,
    "refusal": 4,
    "exception": 4,
    "expired-record": 8,
    "savepoints": 6,
    "replay": 0,
}


def expected(vendor: str, path: Path, atomic_requests: bool) -> int:
    if vendor == "sqlite" and path.name == "replay":
        return (5, 11)[atomic_requests]  # found by its look-up, without a transaction or a savepoint
    if vendor in ("mariadb", "mysql") and path.name == "replay" and not (atomic_requests or BY_STATEMENTS):
        return 5  # the claim's own transaction has ended with its call
    if vendor == "postgresql" and not atomic_requests and folded.can_fold(connection):
        # BEGIN goes with the claim. A replay has no atomic block, and its COMMIT goes past Django: test_wire cuts it.
        return POINTS[path.name][0] - (6 if path.name == "replay" else 2)
    return POINTS[path.name][atomic_requests] + 2 * (vendor == "sqlite")  # the look-up
