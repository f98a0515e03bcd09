"""SIGKILL at every statement of an async view, and between its awaits."""

import pytest

from tests.proof.lab import PATHS, Killing, Path

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.kill]

AWAITS = ["before an await", "before statements at once", "after statements at once", "after an await"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_an_async_request_killed_at_any_point_takes_effect_once(lab, token, count, vendor, path: Path):
    """Wherever it is killed, its retries leave one effect, and replay exactly if it had committed."""
    # Each request has a thread, and so a connection, of its own.
    killing = Killing(lab, token, path, f"async-{path.name}", url="/async/", database={"CONN_MAX_AGE": 0})
    points, violations = killing.each()
    count(f"{vendor}, async", points=len(points), kills=killing.kills, violations=len(violations))

    assert violations == []
    assert len(points) == killing.kills
    awaits = [] if path.before == "live" else AWAITS[:2] if path.script == "raise" else AWAITS
    assert [point for point in points if point in AWAITS] == awaits
    assert any("claim" in point or "look-up" in point for point in points)
