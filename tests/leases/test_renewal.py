"""Leases are renewed while they are held, by one thread for all of them, whatever becomes of one."""

import logging
import threading
import time

import pytest

from django_idempotency.engine import renewal
from django_idempotency.engine.renewal import RENEWALS
from tests.leases.conftest import end, without_threads
from tests.leases.recorder import TIMEOUT, Calls, Recorder, until

SHORT = 0.06  # seconds


def test_no_lease_no_thread(keeper):
    """A process that never claims a key outside the database has no thread more."""
    keeper.drop(Recorder().lease("a", SHORT))

    assert keeper._thread is None


def test_one_thread_renews_all_leases(keeper):
    """However many there are, and whoever holds them."""
    store = Recorder()
    barrier = threading.Barrier(8)

    def hold(number):
        barrier.wait(TIMEOUT)
        for each in range(10):
            keeper.hold(store.lease(f"{number}-{each}", SHORT))

    holders = [threading.Thread(target=hold, args=[number]) for number in range(8)]
    for holder in holders:
        holder.start()
    for holder in holders:
        holder.join(TIMEOUT)
    for number in range(8):
        for each in range(10):
            store.calls.wait(2, f"{number}-{each}")

    assert {call.thread for call in store.calls.of()} == {keeper._thread.ident}
    assert sum(thread.name == keeper._thread.name for thread in threading.enumerate()) == 1 + _processes_own()


def _processes_own() -> int:
    """The thread of the process's own keeper, which other tests may have started."""
    thread = renewal.keeper._thread
    return int(thread is not None and thread.is_alive())


def test_a_lease_is_renewed_after_a_third_of_its_time(keeper):
    """So two renewals may fail. Its time counts from the moment before it was asked for."""
    store = Recorder()
    lease = store.lease("a", 0.3)
    began = lease.ends - 0.3
    keeper.hold(lease)

    first, second, *_ = store.calls.wait(2, "a")

    assert first.at >= began + 0.3 / RENEWALS
    assert second.at >= first.at + 0.3 / RENEWALS - 0.01  # the note is taken a little after the time


def test_a_lease_that_is_due_sooner_wakes_the_thread(keeper):
    """The thread sleeps until the next lease is due: one that comes later and is due sooner is not overslept."""
    store = Recorder()
    keeper.hold(store.lease("long", 3000))
    for number in range(30):
        lease = store.lease(str(number), 0.03)
        keeper.hold(lease)
        store.calls.wait(1, str(number))
        keeper.drop(lease)

    assert not store.calls.of("long")


def test_what_is_dropped_is_not_renewed(keeper):
    """The handler has answered."""
    store = Recorder()
    dropped, other = store.lease("dropped", SHORT), store.lease("other", SHORT)
    keeper.hold(dropped)
    keeper.hold(other)
    store.calls.wait(1, "dropped")
    keeper.drop(dropped)
    store.calls.more(2, "other")  # one that was on its way has arrived by now
    before = len(store.calls.of("dropped"))

    store.calls.more(3, "other")

    assert len(store.calls.of("dropped")) == before


def test_a_renewal_that_fails_is_tried_again_and_others_go_on(keeper, caplog):
    """A store that is away for one lease costs the others nothing; when it answers, that lease lives on."""
    failing = True

    def answer(verb, key):
        if key == "failing" and failing:
            raise ConnectionError("away")
        return True

    store = Recorder(answer)
    keeper.hold(store.lease("failing", SHORT))
    keeper.hold(store.lease("other", SHORT))
    store.calls.wait(4, "failing")
    store.calls.more(2, "other")
    until(lambda: "its lease has run out meanwhile" in caplog.text)
    failing = False
    store.calls.more(2, "failing")

    assert "could not be renewed, it is tried again" in caplog.text
    assert keeper._thread.is_alive()


def test_a_failed_renewal_is_tried_again_before_the_lease_ends(keeper, monkeypatch):
    """Not a third of the lease later: there may be only two of them left."""
    monkeypatch.setattr("django_idempotency.engine.endings.RETRY", 0.05)

    def answer(verb, key):
        if len(store.calls.of(key)) == 1:
            raise ConnectionError("away")
        return True

    store = Recorder(answer)
    lease = store.lease("a", 3000)
    lease.due = time.monotonic()
    keeper.hold(lease)

    store.calls.wait(1)
    store.calls.wait(2)


def test_a_claim_that_is_lost_is_given_up(keeper, caplog):
    """The store says that it is another's: there is nothing to renew, and a warning says so."""
    store = Recorder(lambda verb, key: key != "lost")
    keeper.hold(store.lease("lost", SHORT))
    keeper.hold(store.lease("other", SHORT))
    store.calls.wait(1, "lost")

    store.calls.more(3, "other")

    assert len(store.calls.of("lost")) == 1
    assert "does not belong to this process any more" in caplog.text


def test_a_lease_that_is_dropped_while_it_is_renewed_is_no_loss(keeper, caplog):
    """Its record was written meanwhile, so the store knows of no claim: nothing is wrong."""
    reached, go_on = threading.Event(), threading.Event()

    def answer(verb, key):
        if key != "dropped":
            return True
        reached.set()
        return not go_on.wait(TIMEOUT)

    store = Recorder(answer)
    lease = store.lease("dropped", SHORT)
    keeper.hold(lease)
    assert reached.wait(TIMEOUT)
    keeper.drop(lease)
    go_on.set()
    keeper.hold(store.lease("other", SHORT))
    store.calls.wait(2, "other")

    assert "any more" not in caplog.text


def test_a_store_that_is_away_holds_up_no_other_stores_leases(keeper):
    """Each of its calls may last until a timeout: what is due in another store comes before its next one."""
    calls = Calls()
    well = Recorder(calls=calls)
    late = well.lease("well", 0.5)

    def answer(verb, key):
        while time.monotonic() <= late.due:
            time.sleep(0.01)
        raise ConnectionError("away")

    away = Recorder(answer, calls)
    for number in range(5):
        keeper.hold(away.lease(f"away {number}", 0.05))
    keeper.hold(late)

    calls.wait(1, "well")

    assert [call.key for call in calls.of()][1] == "well"


def test_the_thread_survives_a_logger_that_fails(keeper, monkeypatch):
    """A filter of the project's raises: it is told like a thread's last words, and leases are renewed all the same."""

    class Broken(logging.Filter):
        def filter(self, record):
            raise RuntimeError("no request")

    told = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_value))
    store = Recorder(lambda verb, key: key != "lost" or 1 / 0)
    broken = Broken()
    renewal.logger.addFilter(broken)
    try:
        keeper.hold(store.lease("lost", SHORT))
        keeper.hold(store.lease("other", SHORT))
        thread = keeper._thread
        store.calls.wait(2, "lost")
        store.calls.more(2, "other")
    finally:
        renewal.logger.removeFilter(broken)

    assert keeper._thread is thread
    assert thread.is_alive()
    assert {str(error) for error in told} == {"no request"}


def test_a_thread_that_has_ended_is_replaced(keeper):
    """Whatever ended it: the next lease brings a new one, which renews the older leases too."""
    store = Recorder()
    keeper.hold(store.lease("old", SHORT))
    store.calls.wait(1, "old")
    ended = keeper._thread
    end(keeper)
    keeper.hold(store.lease("new", SHORT))

    store.calls.more(2, "new")
    store.calls.more(2, "old")

    assert keeper._thread is not ended


def test_without_a_thread_nothing_is_held(keeper):
    """The system has no thread left to give: the caller is told, and nothing is renewed later on without its holder."""
    store = Recorder()
    with without_threads(), pytest.raises(RuntimeError, match="new thread"):
        keeper.hold(store.lease("refused", SHORT))
    keeper.hold(store.lease("other", SHORT))
    store.calls.wait(3, "other")

    assert not store.calls.of("refused")
