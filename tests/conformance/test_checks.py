"""Each check can fail: a planted mistake is found by the checks that are about it, and by no others."""

import json
from pathlib import Path

import pytest

from django_idempotency.conformance import session as sessions
from django_idempotency.conformance import wire
from django_idempotency.conformance.checks import EXPERIMENTS, concurrency, connections
from django_idempotency.conformance.checks.base import Result
from django_idempotency.conformance.requests_file import described
from django_idempotency.conformance.run import examine, planned
from django_idempotency.conformance.session import Session
from django_idempotency.conformance.wire import Exchange
from tests.conformance.server import MISTAKES, OF_RACES, PATIENCE, State, serving

REQUEST = json.loads(Path(__file__).with_name("request.json").read_text())
IDS = [check.id for experiment in EXPERIMENTS for check in experiment.checks]


class Watched(Exchange):
    """Tells the server what its client does, so that no test depends on who is faster."""

    state: State

    def send_body(self, part):
        super().send_body(part)
        self.is_whole = part == self._request.body
        self.port = self._connection.sock.getsockname()[1]

    def answer(self):
        self.state.readers.add(self.port)
        return super().answer()

    def close(self):
        """Hang up when the server has claimed the key, if the request was whole."""
        if self.is_whole and self.port not in self.state.readers:
            with self.state.changed:
                assert self.state.changed.wait_for(lambda: self.port in self.state.claimers, timeout=PATIENCE)
        super().close()


@pytest.fixture
def examined(monkeypatch):
    """Examine a server with a mistake: the results and what was seen, by the check's id."""
    monkeypatch.setattr(sessions, "BETWEEN_POLLS", 0.01)
    for module in (wire, concurrency, connections):
        monkeypatch.setattr(module, "Exchange", Watched)

    def examined(mistake="", **changes):
        with serving(mistake) as (url, state):
            monkeypatch.setattr(Watched, "state", state, raising=False)
            file = {name: value for name, value in {**REQUEST, **changes}.items() if value is not None}
            session = Session(wire.Wire(url, timeout=PATIENCE), described(file), racers=8)
            findings = {finding.check.id: finding.verdict for finding in examine(session)}
            assert session.wire.sent <= sum(requests for _, requests in planned(session))
            return findings

    return examined


def having(result, findings):
    return {id: verdict.saw for id, verdict in findings.items() if verdict.result is result}


def test_ids_are_unique_and_each_has_a_mistake():
    """A check that no mistake fails would prove nothing."""
    assert len(set(IDS)) == len(IDS)
    assert set().union(*MISTAKES.values()) == set(IDS)


def test_a_server_without_a_mistake_passes(examined):
    """Every check, in the order of the experiments, but the one for servers that require no key."""
    findings = examined()

    assert list(findings) == IDS
    assert having(Result.FAIL, findings) == {}
    assert having(Result.NOT_APPLICABLE, findings) == {"key-optional": "A key is required."}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_by_its_checks_alone(examined, mistake):
    """No other check cries."""
    found = having(Result.FAIL, examined(mistake))

    assert MISTAKES[mistake] <= set(found), found
    assert set(found) <= MISTAKES[mistake] | ({"hang-up"} if mistake in OF_RACES else set()), found


def test_a_key_that_the_file_calls_required_is(examined):
    """The file knows better than the server."""
    found = having(Result.FAIL, examined("all without a key are one", required=True))

    assert set(found) == {"key-missing"}


def test_without_a_count_answers_are_compared(examined):
    """Executions are told by their answers; what cannot be told is not applicable."""
    findings = examined(effects=None)

    assert having(Result.FAIL, findings) == {}
    assert set(having(Result.NOT_APPLICABLE, findings)) == {"key-optional", "get-untouched"}
    assert "race-runs-once" in having(Result.FAIL, examined("claims too late", effects=None))


@pytest.mark.parametrize(
    ("member", "checks"),
    [
        ("vary", {"reuse-refused", "reuse-422", "reuse-link", "reuse-keeps-first"}),
        ("error", {"retry-error"}),
        ("other", {"other-caller", "other-callers-key", "wrong-credential", "no-credential"}),
    ],
)
def test_what_the_file_leaves_out_is_not_applicable(examined, member, checks):
    """The check says which member it needs."""
    skipped = having(Result.NOT_APPLICABLE, examined(**{member: None}))

    assert set(skipped) == checks | {"key-optional"}
    assert all(f"`{member}`" in skipped[id] for id in checks)
