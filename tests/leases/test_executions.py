"""An execution beside the database and its lease: held while the handler runs, given up with what is known."""

import threading
from datetime import timedelta
from typing import Any

import pytest

from django_idempotency import leased, once
from django_idempotency.exceptions import OutcomeUnknown, RequestInProgress, StoreUnavailable
from django_idempotency.leases import LeaseKeeper
from django_idempotency.stores import stores
from django_idempotency.stores.base import Fault
from django_idempotency.testing.memory import MemoryStore

runs: list[int] = []


class Faulty(MemoryStore):
    """Notes what it is asked; raises what a test tells it to, after the call or in its place."""

    def clear(self) -> None:
        super().clear()
        self.asked: list[str] = []
        self.raises: dict[str, BaseException] = {}
        self.reply_is_lost = False

    def _do(self, verb: str, *arguments: Any, **more: Any) -> Any:
        self.asked.append(verb)
        error = self.raises.get(verb)
        if error is not None and not self.reply_is_lost:
            raise error
        result = getattr(super(), verb)(*arguments, **more)
        if error is not None:
            raise error
        return result

    def claim(self, *arguments: Any, **more: Any) -> Any:
        return self._do("claim", *arguments, **more)

    def complete(self, *arguments: Any) -> Any:
        return self._do("complete", *arguments)

    def release(self, *arguments: Any) -> None:
        self._do("release", *arguments)

    def doubt(self, *arguments: Any) -> None:
        self._do("doubt", *arguments)

    def classify(self, using: str | None, error: Exception) -> Fault:
        return Fault.UNAVAILABLE if isinstance(error, ConnectionError) else Fault.OTHER


@pytest.fixture
def store(settings) -> Faulty:
    settings.IDEMPOTENCY = {
        "STORES": {"faulty": {"BACKEND": Faulty}},
        "STORE": "faulty",
        "LEASE": timedelta(seconds=30),
    }
    runs.clear()
    return stores["faulty"]


@pytest.fixture(autouse=True)
def keeper(keeper, monkeypatch) -> LeaseKeeper:
    """The test's own keeper is that of all executions."""
    monkeypatch.setattr(leased, "keeper", keeper)
    monkeypatch.setattr("django_idempotency.leases.RETRY", 0.01)
    return keeper


@once("charge", key=lambda: 1)
def charge():
    runs.append(1)
    return len(runs)


def test_a_lease_is_held_while_the_handler_runs(store, keeper):
    """And by nobody afterwards."""
    held = []

    @once("charge", key=lambda: 2)
    def work():
        held.append([lease.seconds for lease in keeper._held])

    work()

    assert held == [[30.0]]
    assert not keeper._held


def test_a_replay_holds_nothing(store, keeper):
    """No thread is started for it."""
    charge()
    before = keeper._thread
    charge()

    assert runs == [1]
    assert keeper._thread is before
    assert not keeper._held


def test_without_a_thread_nothing_runs_and_the_key_stays_free(store, keeper, monkeypatch):
    """Its lease could not be renewed. 503: the client comes again."""

    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(StoreUnavailable):
            charge()
    assert not runs
    assert not keeper._held

    assert charge() == 1


@pytest.mark.parametrize(
    "error",
    [ConnectionError("away"), SystemExit("the worker ends"), TypeError("not understood")],
    ids=["away", "end", "not understood"],
)
def test_a_claim_whose_reply_never_came_is_given_up(store, keeper, error):
    """It may be there: it is abandoned as soon as the store answers, and the next request does not find it."""
    store.reply_is_lost, store.raises = True, {"claim": error}
    with pytest.raises((StoreUnavailable, SystemExit, TypeError)):
        charge()
    store.raises = {}
    _retry_until_it_runs()

    assert runs == [1]


def test_a_key_that_could_not_be_freed_is_freed_later(store, keeper):
    """The handler has answered by itself, while the store was away."""

    @once("charge", key=lambda: 1)
    def fail():
        raise ValueError("no")

    store.raises = {"release": ConnectionError("away")}
    with pytest.raises(ValueError, match="no"):
        fail()
    with pytest.raises(RequestInProgress):
        charge()
    store.raises = {}
    _retry_until_it_runs()

    assert runs == [1]


def _retry_until_it_runs() -> None:
    @once("charge", key=lambda: 1, in_flight="wait", wait_timeout=timedelta(seconds=30))
    def again():
        runs.append(1)

    again()


def test_a_doubted_claim_is_renewed_no_more(store, keeper):
    """The lease is dropped before the store is told: a renewal after that would let the claim go on."""
    held = []

    @once("charge", key=lambda: 3)
    def work():
        raise SystemExit

    original = store.doubt
    store.doubt = lambda *arguments: (held.append(len(keeper._held)), original(*arguments))
    with pytest.raises(SystemExit):
        work()

    assert held == [0]
    with pytest.raises(OutcomeUnknown):
        work()
