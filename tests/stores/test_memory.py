"""The MemoryStore in a project's unit tests: no database, a clock that a test moves, refused outside of tests."""

import sys
from datetime import UTC, datetime, timedelta

import pytest
from django.core.checks import run_checks
from django.http import JsonResponse
from django.test import RequestFactory, SimpleTestCase, override_settings

from django_idempotency import idempotent, once
from django_idempotency.exceptions import OutcomeUnknown, PolicyError
from django_idempotency.stores import stores
from django_idempotency.testing.memory import MemoryStore
from django_idempotency.testing.processes.forks import Process

SETTING = {
    "STORES": {"memory": {"BACKEND": "django_idempotency.testing.memory.MemoryStore"}},
    "STORE": "memory",
    "TTL": timedelta(hours=1),
}
charged: list[int] = []


@once("card.charged", key=lambda event: event["id"])
def charge(event):
    charged.append(event["amount"])
    if event["amount"] < 0:
        raise SystemExit
    return {"amount": event["amount"], "number": len(charged)}


@pytest.fixture(autouse=True)
def memory(settings) -> MemoryStore:
    settings.IDEMPOTENCY = SETTING
    charged.clear()
    return stores["memory"]


def test_work_runs_once_without_a_database(memory):
    """pytest-django refuses a database to this test."""
    first, second = charge({"id": 1, "amount": 5}), charge({"id": 1, "amount": 5})

    assert first == second == {"amount": 5, "number": 1}
    assert charged == [5]


@override_settings(IDEMPOTENCY=SETTING)
class ViewTests(SimpleTestCase):
    """Django's test case that refuses every database."""

    def test_a_view_is_replayed(self):
        """As with the stores for servers: the same answer, and the header that says so."""

        @idempotent(operation="pay", scope=lambda request: "payer")
        def view(request):
            charged.append(1)
            return JsonResponse({"number": len(charged)}, status=201)

        def post():
            return view(RequestFactory().post("/pay/", {"a": 1}, headers={"Idempotency-Key": "k"}))

        first, second = post(), post()

        assert (first.status_code, second.status_code) == (201, 201)
        assert second.content == first.content
        assert second.headers["Idempotency-Replayed"] == "true"


def test_time_passes_when_a_test_says_so(memory):
    """A record expires without a pause; no other clock is moved."""
    charge({"id": 1, "amount": 5})
    memory.advance(timedelta(minutes=59))
    assert charge({"id": 1, "amount": 5})["number"] == 1

    memory.advance(timedelta(minutes=1))

    assert charge({"id": 1, "amount": 5})["number"] == 2
    assert stores["memory"] is memory


def test_it_forgets_everything_when_it_is_cleared(memory):
    """For the next test; its clock is put back too."""
    charge({"id": 1, "amount": 5})
    memory.advance(timedelta(days=1))

    memory.clear()

    assert charge({"id": 1, "amount": 5})["number"] == 2
    assert memory._now() - datetime.now(UTC) < timedelta(hours=1)


def test_another_setting_is_another_store(memory, settings):
    """`override_settings` around a test gives it a store that knows nothing."""
    charge({"id": 1, "amount": 5})
    settings.IDEMPOTENCY = {**SETTING}

    assert stores["memory"] is not memory
    assert charge({"id": 1, "amount": 5})["number"] == 2


def test_what_an_operator_sees(memory):
    """An uncertain outcome is listed with what was asked, freed, and run again."""
    with pytest.raises(SystemExit):
        charge({"id": 1, "amount": -1})
    with pytest.raises(OutcomeUnknown):
        charge({"id": 1, "amount": -1})
    (shown,) = memory.unsettled(None, 10)

    assert (shown.operation, shown.key, shown.status, shown.record) == ("card.charged", "1", 0, None)
    assert shown.expires_at is None
    assert memory.free(None, bytes(shown.digest), shown.executed_at)
    assert charge({"id": 1, "amount": 5})["amount"] == 5


def test_executions_of_one_moment_are_told_apart(memory, monkeypatch):
    """Under a clock that a test has frozen too."""
    monkeypatch.setattr(memory, "_now", lambda: datetime(2026, 1, 1, tzinfo=UTC))
    for number in range(3):
        charge({"id": number, "amount": 5})
    times = [entry.executed_at for entry in memory._entries.values()]

    assert times == sorted(set(times))


def test_a_fork_finds_no_locked_store(memory):
    """Whatever the other threads of the process were at; a child has a copy of its own."""
    charge({"id": 1, "amount": 5})
    with Process(lambda line: (charge({"id": 1, "amount": 5}), charge({"id": 2, "amount": 6}))) as child:
        result = child.result()

    assert result == ({"amount": 5, "number": 1}, {"amount": 6, "number": 2})
    assert charged == [5]


def test_it_has_no_options():
    """A typing slip does not pass."""
    with pytest.raises(PolicyError, match="no option 'CACHE': it takes none"):
        MemoryStore("memory", {"CACHE": "default"})


def test_it_is_refused_outside_of_tests(memory, monkeypatch):
    """E014: on a server it would forget with each restart, and between two workers."""
    assert memory.check() == []

    monkeypatch.setattr(sys.modules["django.test.utils"], "_TestState", object())
    (error,) = memory.check()

    assert error.id == "django_idempotency.E014"
    assert "'memory'" in error.msg
    assert error in run_checks()
