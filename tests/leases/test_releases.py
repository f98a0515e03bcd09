"""Keys that could not be freed, as their store was away, are freed when it answers."""

import threading
import time

import pytest

from django_idempotency.engine import endings, renewal
from tests.leases.conftest import without_threads
from tests.leases.recorder import TIMEOUT, Calls, Recorder, until


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Releases are tried again sooner than a server would like."""
    monkeypatch.setattr(endings, "RETRY", 0.01)


@pytest.mark.parametrize(
    ("end", "verb"), [("release", "release"), ("release_late", "abandon"), ("mark_unsettled", "mark_unsettled")]
)
def test_a_claim_is_ended_as_soon_as_the_store_answers(keeper, end, verb):
    """In the way that was asked for. After the answer it is over."""

    def answer(verb, key):
        if len(store.calls.of(key)) < 4:
            raise ConnectionError("away")

    store = Recorder(answer)
    getattr(keeper, end)(store.lease("a", 30))
    store.calls.wait(4, "a")
    keeper.release(store.lease("b", 30))
    store.calls.wait(4, "b")

    assert {call.verb for call in store.calls.of("a")} == {verb}
    assert len(store.calls.of("a")) == 4
    until(lambda: not keeper._endings.waiting)


def test_what_is_released_is_not_renewed(keeper):
    """Its handler has answered."""
    store = Recorder()
    lease = store.lease("a", 0.05)
    keeper.hold(lease)
    store.calls.wait(1, "a", "renew")

    keeper.release(lease)

    store.calls.wait(1, "a", "release")
    after = [call.verb for call in store.calls.of("a")]
    keeper.hold(store.lease("b", 0.05))
    store.calls.wait(3, "b")
    assert [call.verb for call in store.calls.of("a")] == after


def test_a_release_is_given_up(keeper, monkeypatch, caplog):
    """After a while it helps nobody: the lease has run out, and somebody was told. The log says which key it was."""
    monkeypatch.setattr(endings, "PATIENCE", 0.05)

    def answer(verb, key):
        if key == "never":
            raise ConnectionError("away")

    store = Recorder(answer)
    lease = store.lease("never", 30)
    keeper.release(lease)
    store.calls.wait(2, "never")
    until(lambda: "could not be ended" in caplog.text)
    before = len(store.calls.of("never"))
    keeper.release(store.lease("other", 30))
    store.calls.wait(1, "other")

    assert len(store.calls.of("never")) == before
    assert str(lease.attempt.identity) in caplog.text


def test_the_number_of_releases_is_bounded(keeper, monkeypatch, caplog):
    """A long outage does not fill the memory: the oldest go, and the log says which."""
    monkeypatch.setattr(endings, "MAX_WAITING", 3)
    monkeypatch.setattr(endings, "RETRY", 1000.0)
    store = Recorder()
    waiting = [store.lease(str(number), 30) for number in range(5)]
    for lease in waiting:
        keeper.release(lease)

    assert [ending.attempt for ending in keeper._endings.waiting] == [lease.attempt for lease in waiting[2:]]
    for lease in waiting[:2]:
        assert str(lease.attempt.identity) in caplog.text


def test_a_release_that_fails_holds_up_no_renewal(keeper):
    """One call to a server that is away may last until its timeout: leases due by then come before the next."""
    calls = Calls()
    well = Recorder(calls=calls)
    lease = well.lease("well", 0.2)

    def answer(verb, key):
        while time.monotonic() <= lease.due:
            time.sleep(0.01)
        raise ConnectionError("away")

    away = Recorder(answer, calls)
    for number in range(5):
        keeper.release(away.lease(f"away {number}", 30))
    keeper.hold(lease)

    calls.wait(1, "well")

    assert [call.key for call in calls.of()][:2] == ["away 0", "well"]


def test_a_release_that_fails_holds_up_no_other_stores_releases(keeper):
    """In one round a store that is away is asked once; the next round begins with another of its keys."""
    calls, queued = Calls(), threading.Event()

    def answer(verb, key):
        raise ConnectionError("away")

    away, well = Recorder(answer, calls), Recorder(calls=calls)
    keeper.release(Recorder(lambda verb, key: queued.wait(TIMEOUT), calls).lease("the round before", 30))
    calls.wait(1)
    for number in range(4):
        keeper.release(away.lease(f"away {number}", 30))
    keeper.release(well.lease("well", 30))
    queued.set()

    calls.wait(1, "well")
    calls.wait(4, verb="release")

    before = [call.key for call in calls.of()][1:]
    assert before.index("well") <= 1
    for number in range(4):
        calls.wait(1, f"away {number}")


def test_a_release_waits_for_no_thread(keeper):
    """The system has no thread left to give: the handler's answer is not lost for that; the next lease brings one."""
    store = Recorder()
    with without_threads():
        keeper.release(store.lease("a", 30))
    keeper.hold(store.lease("b", 0.05))

    store.calls.wait(1, "a", "release")


def test_the_end_of_a_process_tries_what_waits(keeper, monkeypatch):
    """At once, whenever its turn would be; and it takes no longer than that."""
    monkeypatch.setattr(endings, "RETRY", 1000.0)
    store = Recorder()
    keeper.release(store.lease("a", 30))

    keeper.finish()

    assert [call.verb for call in store.calls.of("a")] == ["release"]
    assert not keeper._endings.waiting


def test_the_end_of_a_process_waits_for_no_store_that_is_away(keeper, monkeypatch):
    """Longer than a moment. Whoever comes with the key finds its lease."""
    monkeypatch.setattr(renewal, "LAST_PATIENCE", 0.05)
    hang = threading.Event()
    store = Recorder(lambda verb, key: hang.wait(TIMEOUT))
    keeper.release(store.lease("a", 30))

    keeper.finish()

    assert keeper._endings.waiting
    hang.set()
