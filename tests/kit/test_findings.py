"""What the kit has found outlives its process: parallel test runners send failures from one to another."""

import copy
import pickle

import pytest

from django_idempotency.testing.findings import Finding, NotProved

FINDINGS = [Finding("It ran twice.", ("1 row added",), "put @idempotent around it."), Finding("It was lost.")]


def pickled(error):
    return pickle.loads(pickle.dumps(error))  # noqa: S301 its own


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_a_failure_can_be_copied(copied):
    """With its findings, and with what was noted on it."""
    error = NotProved("POST /pay/ is not idempotent", FINDINGS)
    error.add_note("In a race.")

    again = copied(error)

    assert type(again) is NotProved
    assert str(again) == str(error)
    assert "1. It ran twice.\n    1 row added\n  What to do: put" in str(again)
    assert (again.subject, again.findings) == (error.subject, tuple(FINDINGS))
    assert again.__notes__ == ["In a race."]
