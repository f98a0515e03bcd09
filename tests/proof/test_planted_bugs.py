"""The checks must be able to fail: three planted bugs, each of which they have to catch."""

import pytest

from tests.proof.bugs import BUGS
from tests.proof.lab import PATHS, Killing, Request, race

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.kill]

SUCCESS = next(path for path in PATHS if path.name == "success")


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug != "no claim"])
def test_kills_catch(lab, token, bug):
    """A record outside the transaction leaves two effects somewhere, and an early commit a key that is stuck."""
    points, violations = Killing(lab, token, SUCCESS, "bug", bug=bug).each()

    assert violations
    assert len({violation.split(":")[0] for violation in violations}) < len(points)  # not everywhere: it is the bug
    wanted = {
        "record outside the transaction": "effects [10, 10] instead of [10]",
        "early commit": "it left a claim behind: [0]",
    }
    assert any(violation.endswith(wanted[bug]) for violation in violations)


@pytest.mark.race
def test_races_catch_a_store_that_claims_nothing(lab, token):
    """Without a claim, rivals that all found no record all take effect."""
    children = [lab.child(bug="no claim").connect() for _ in range(8)]
    violations = []
    for number in range(20):
        violations += race(children, Request(key=f"bug-{number}", token=token), fails=0, attempts=5).violations([10])

    assert any("effects" in violation for violation in violations)
