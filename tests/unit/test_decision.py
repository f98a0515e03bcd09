"""What is decided, for every case that there is."""

from itertools import product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_idempotency.core.decision import (
    Answer,
    Claimed,
    ClaimResult,
    Completed,
    Decision,
    Execute,
    Expired,
    Forget,
    InFlight,
    Refuse,
    Remember,
    Replay,
    Unsettled,
    Wait,
    decide,
    settle,
)
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import KeyExpired, KeyReused, OutcomeUnknown
from tests.ids import spelt

RECORD = CompletionRecord(status=201, body=b"{}")
FINGERPRINTS = st.binary(min_size=32, max_size=32)
FOUND = st.one_of(
    st.builds(Claimed, st.text()),
    st.builds(InFlight, st.none() | FINGERPRINTS),
    st.builds(Completed, st.just(RECORD), FINGERPRINTS),
    st.builds(Unsettled, FINGERPRINTS),
    st.builds(Expired, FINGERPRINTS),
)


@given(FOUND, FINGERPRINTS)
def test_every_finding_is_decided(found, fingerprint):
    """The decision is total, and never answers with the record of another request."""
    decision = decide(found, fingerprint)

    assert isinstance(decision, get_args(Decision))
    if isinstance(decision, Replay):
        assert isinstance(found, Completed)
        assert found.fingerprint == fingerprint


def test_the_strategy_knows_every_finding():
    """A new kind of finding must be generated above, too."""
    assert set(get_args(ClaimResult)) == {Claimed, InFlight, Completed, Unsettled, Expired}


@pytest.mark.parametrize(
    ("found", "same", "decision"),
    [
        (Claimed("7"), None, Execute(Claimed("7"))),
        (InFlight(), None, Wait()),
        (InFlight(b"a"), True, Wait()),
        (InFlight(b"a"), False, KeyReused),
        (Completed(RECORD, b"a"), True, Replay(RECORD)),
        (Completed(RECORD, b"a"), False, KeyReused),
        (Unsettled(b"a"), True, OutcomeUnknown),
        (Unsettled(b"a"), False, KeyReused),
        (Expired(b"a"), True, KeyExpired),
        (Expired(b"a"), False, KeyReused),
    ],
    ids=spelt,
)
def test_the_table(found, same, decision):
    """The table of decisions, row by row."""
    decided = decide(found, b"a" if same else b"b")

    if isinstance(decision, type):
        assert isinstance(decided, Refuse)
        assert type(decided.refusal) is decision
    else:
        assert decided == decision


@pytest.mark.parametrize(
    ("record", "rollback", "only_if_written", "written"),
    list(product([RECORD, None], *[[False, True]] * 3)),
    ids=spelt,
)
def test_an_answer_is_kept_only_if_all_commits(record, rollback, only_if_written, written):
    """Work and record commit together, or neither does; a refusal by redirect is one only if nothing was written."""
    answer = Answer("value", record, only_if_written=only_if_written)

    settled = settle(answer, rollback_requested=rollback, has_written=written)

    kept = record is not None and not rollback and (written or not only_if_written)
    assert settled == Remember(RECORD) if kept else isinstance(settled, Forget)


def test_an_unknown_finding_is_no_silent_execution():
    """What is no finding raises: it must not fall through to a second run."""
    with pytest.raises(AssertionError):
        decide(None, b"a")
