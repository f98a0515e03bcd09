"""An execution beside the database and its lease: held while the handler runs, given up with what is known."""

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import BadRequest, ValidationError
from django.db import DatabaseError
from django.http import Http404
from rest_framework.exceptions import NotAuthenticated

from django_idempotency import once
from django_idempotency.engine import leased
from django_idempotency.engine.renewal import LeaseKeeper
from django_idempotency.exceptions import (
    KeyReused,
    NothingDone,
    OutcomeUncertain,
    OutcomeUnknown,
    RequestInProgress,
    StoreUnavailable,
)
from django_idempotency.stores import stores
from django_idempotency.stores.base import Fault
from django_idempotency.testing.memory import MemoryStore
from tests.app.serving import hearing
from tests.leases.conftest import without_threads

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

    def mark_unsettled(self, *arguments: Any) -> None:
        self._do("mark_unsettled", *arguments)

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
    monkeypatch.setattr("django_idempotency.engine.endings.RETRY", 0.01)
    return keeper


@pytest.fixture
def told(db: None) -> Iterator[list[Any]]:
    """What `operation_unsettled` was sent with."""
    with hearing("unsettled") as told:
        yield told


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


def test_without_a_thread_nothing_runs_and_the_key_stays_free(store, keeper):
    """Its lease could not be renewed. 503: the client comes again."""
    with without_threads(), pytest.raises(StoreUnavailable):
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
        raise NothingDone("no")

    store.raises = {"release": ConnectionError("away")}
    with pytest.raises(NothingDone, match="no"):
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


NOTHING_DONE = [NothingDone(), NotAuthenticated(), BadRequest(), Http404(), ValidationError("no"), KeyReused()]


@pytest.mark.parametrize("error", [*NOTHING_DONE, ConnectionRefusedError()], ids=repr)
def test_an_exception_that_says_that_nothing_was_done_frees_the_key(store, error):
    _fail(error)
    charge()

    assert runs == [1]


@pytest.mark.parametrize(
    "error", [TimeoutError("money"), ConnectionResetError(), DatabaseError(), KeyError("id")], ids=repr
)
def test_any_other_exception_leaves_an_unknown_outcome(store, told, error):
    """It says nothing of the card: no retry runs, and the reason is told once, without the error's own text."""
    _fail(error)
    with pytest.raises(OutcomeUnknown):
        charge()

    assert runs == []
    (_, signal) = told[0]
    assert len(told) == 1
    assert signal["error"].reason == f"its handler raised {type(error).__name__}"


def _fail(error: Exception) -> None:
    @once("charge", key=lambda: 1, not_done=[ConnectionRefusedError])
    def fail():
        raise error

    with pytest.raises(type(error)):
        fail()


def test_a_doubted_claim_is_renewed_no_more(store, keeper):
    """The lease is dropped before the store is told: a renewal after that would let the claim go on."""
    held = []

    @once("charge", key=lambda: 3)
    def work():
        raise SystemExit

    original = store.mark_unsettled
    store.mark_unsettled = lambda *arguments: (held.append(len(keeper._held)), original(*arguments))
    with pytest.raises(SystemExit):
        work()

    assert held == [0]
    with pytest.raises(OutcomeUnknown):
        work()


def test_an_answer_that_was_not_stored_is_told_of_once(store, keeper, told):
    """Its outcome is unknown as soon as the store answers again, and who comes then is no second one to tell."""
    store.raises = {"complete": ConnectionError("away"), "mark_unsettled": ConnectionError("away")}
    with pytest.raises(OutcomeUncertain):
        charge()
    with pytest.raises(RequestInProgress):
        charge()
    store.raises = {}
    _until_it_is_unknown()

    assert runs == [1]
    assert len(told) == 1


def test_a_doubt_that_the_store_did_not_hear_is_told_later(store, keeper, told):
    """Not only when the lease has run out."""

    @once("charge", key=lambda: 1)
    def work():
        raise SystemExit

    store.raises = {"mark_unsettled": ConnectionError("away")}
    with pytest.raises(SystemExit):
        work()
    store.raises = {}
    _until_it_is_unknown()

    assert len(told) == 1


def _until_it_is_unknown() -> None:
    @once("charge", key=lambda: 1, in_flight="wait", wait_timeout=timedelta(seconds=20))
    def again():
        runs.append(2)

    with pytest.raises(OutcomeUnknown):
        again()


def test_a_worker_that_is_ended_with_its_answer_on_the_way(store, keeper, told):
    """Its outcome is unknown at once; if the answer has arrived, it stays."""
    store.raises = {"complete": SystemExit("the worker ends")}
    with pytest.raises(SystemExit):
        charge()
    store.raises = {}

    with pytest.raises(OutcomeUnknown):
        charge()
    assert len(told) == 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # the keeper's thread
@pytest.mark.parametrize("ending", ["exit", "error", "answer"])
def test_a_process_that_a_handler_forks_ends_no_claim(store, keeper, told, ending):
    """It leaves the handler as its parent will: by an exception, or with an answer. The claim is the parent's."""
    before = store.asked

    @once("charge", key=lambda: 1)
    def work():
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        keeper.reset()  # as the package's own is at each fork
        if ending == "exit":
            raise SystemExit
        if ending == "error":
            raise ValueError
        return None

    parent = os.getpid()
    try:
        result = work()
    except (SystemExit, ValueError):
        if os.getpid() == parent:
            raise
    finally:
        if os.getpid() != parent:
            os._exit(0 if before == ["claim"] else 1)  # what it has asked the store for is in its own memory

    assert result == 0
    assert store.asked == ["claim", "complete"]
    assert not told
