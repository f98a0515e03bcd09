"""Observe mode's decisions, without a database."""

import pytest

from django_idempotency.core.observation import Run, is_sampled, judge


@pytest.mark.parametrize(
    ("first", "other", "patience", "verdict"),
    [
        ((b"a", 0, 10), (b"a", 10, 12), 0, "would_replay"),
        ((b"a", 0, 10), (b"b", 20, 22), 0, "would_mismatch"),
        ((b"a", 0, 10), (b"a", 1, 2), 0, "would_conflict"),
        ((b"a", 1, 2), (b"a", 0, 10), 0, "would_conflict"),  # the earlier one was written later
        ((b"a", 0, 10), (b"b", 1, 2), 0, "would_conflict"),  # the fingerprint of a request in flight is not seen
        ((b"a", 0, 10), (b"a", 1, 2), 5, "would_conflict"),
        ((b"a", 0, 10), (b"a", 1, 2), 9, "would_replay"),
        ((b"a", 0, 10), (b"b", 1, 2), 9, "would_mismatch"),
        ((b"a", 0, 10), (b"a", 9.995, 12), 0, "would_replay"),  # no clock is that fine
    ],
)
def test_what_atomic_mode_would_have_done(first, other, patience, verdict):
    """With the one of the two that began later."""
    runs = [Run(fingerprint=run[0], status=200, began=run[1], ended=run[2]) for run in (first, other)]
    assert judge(*runs, patience) == verdict


def test_a_share_of_the_keys_is_observed():
    """By the key alone, so that all its tries are in or out; a larger share has the keys of the smaller one."""
    keys = [f"key-{number}" for number in range(10_000)]
    tenth, half = ({key for key in keys if is_sampled(key, share)} for share in (0.1, 0.5))
    assert 900 < len(tenth) < 1100
    assert tenth < half
    assert not any(is_sampled(key, 0) for key in keys)
    assert all(is_sampled(key, 1) for key in keys)
