"""A process that is frozen, killed or ended in its handler, and one whose handler takes longer than its lease."""

import pytest

from tests.redis.lab import IN_PROGRESS, LASTING, SHORT, UNKNOWN, cache
from tests.redis.servers import outlive

LONG_ENOUGH = 1.0  # seconds: a lease that is renewed in time; if a busy machine is late, the rival asks again


@pytest.fixture
def pair(lab, lasting):
    """Two processes on one server: the one that something happens to, and the one that comes with the same key."""

    def pair(**options):
        return lab.child(cache(lasting.url), **options), lab.child(cache(lasting.url), **options)

    return pair


# --- SIGSTOP past the lease, then SIGCONT ---


def test_a_frozen_process_keeps_its_key_and_its_answer(pair, gate, key):
    """Past its lease its outcome is unknown, and told once; when it goes on, its answer is stored after all."""
    one, other = pair(lease=SHORT)
    one.halt(key)
    one.stop()

    found = other.ask_while(IN_PROGRESS, key=key)
    again = other.ask(key)
    one.cont()
    finished = one.finish()

    assert (found.said, again.said) == (UNKNOWN, UNKNOWN)
    assert found.told("ERROR", "Unsettled")
    assert "unsettled" in found.signals
    assert not again.told("ERROR", "Unsettled")
    assert (finished.status, finished.replayed) == (201, False)
    assert other.ask(key).replayed
    assert gate.effects(key) == [one.pid]


def test_with_retry_a_frozen_process_answers_what_its_successor_did(pair, gate, key):
    """Past its lease another one runs the work again; when it goes on, both have run, and both give one answer."""
    one, other = pair(lease=SHORT, UNCERTAIN="retry")
    one.halt(key)
    one.stop()

    taken = other.ask_while(IN_PROGRESS, key=key)
    one.cont()
    finished = one.finish()

    assert (taken.status, taken.by) == (201, other.pid)
    assert taken.told("WARNING", "Took")
    assert (finished.status, finished.by) == (201, other.pid)
    assert finished.told("WARNING", "longer than its lease")
    assert gate.effects(key) == [one.pid, other.pid]


def test_with_retry_a_stale_answer_is_not_stored(pair, gate, key):
    """A process that goes on while its successor still runs gets a 500; the successor's answer stays."""
    one, other = pair(lease=SHORT, UNCERTAIN="retry")
    one.halt(key)
    one.stop()
    other.halt_after(IN_PROGRESS, key=key)
    one.cont()

    stale = one.finish()
    finished = other.finish()

    assert stale.status == 500
    assert stale.told("ERROR", "Unsettled")
    assert (finished.status, finished.by, finished.replayed) == (201, other.pid, False)
    assert other.ask(key).by == other.pid
    assert gate.effects(key) == [one.pid, other.pid]


# --- ended in the handler ---


@pytest.mark.kill
@pytest.mark.parametrize("steps", ["effect halt", "halt"], ids=["after its work", "before its work"])
def test_a_process_that_is_killed_leaves_an_unknown_outcome(pair, gate, key, steps):
    """Its outcome is unknown: when its lease has ended the key is refused, and never run."""
    one, other = pair(lease=SHORT)
    one.halt(key, steps)
    one.kill()

    found = other.ask_while(IN_PROGRESS, key=key)

    assert found.said == UNKNOWN
    assert found.told("ERROR", "Unsettled")
    assert other.ask(key, amount=11).said == (422, "key-reused")
    assert gate.effects(key) == [one.pid] * ("effect" in steps)


@pytest.mark.kill
@pytest.mark.parametrize("uncertain", ["refuse", "retry"])
def test_a_process_that_is_killed_is_in_flight_until_its_lease_ends(pair, gate, key, uncertain):
    """For all that the server knows it is at work."""
    one, other = pair(lease=LASTING, UNCERTAIN=uncertain)
    one.halt(key)
    one.kill()

    assert other.ask(key).said == IN_PROGRESS
    assert other.ask(key, amount=11).said == (422, "key-reused")
    assert gate.effects(key) == [one.pid]


@pytest.mark.kill
def test_with_retry_a_process_that_is_killed_has_a_successor(pair, gate, key):
    """Its work is run again as soon as its lease has ended, by the first request."""
    one, other = pair(lease=SHORT, UNCERTAIN="retry")
    one.halt(key)
    one.kill()

    taken = other.ask_while(IN_PROGRESS, key=key)

    assert (taken.status, taken.by, taken.replayed) == (201, other.pid, False)
    assert other.ask(key).replayed
    assert gate.effects(key) == [one.pid, other.pid]


def test_a_worker_that_is_ended_leaves_an_unknown_outcome_at_once(pair, gate, key):
    """SystemExit, as a server raises it in a worker that took too long: there is no lease to wait for."""
    one, other = pair(lease=LASTING)

    ended = one.ask(key, "effect exit")

    assert ended.error == "SystemExit"
    assert ended.told("ERROR", "Unsettled")
    assert "unsettled" in ended.signals
    found = other.ask(key)
    assert found.said == UNKNOWN
    assert not found.told("ERROR", "Unsettled")
    assert gate.effects(key) == [one.pid]


@pytest.mark.parametrize(
    "steps", ["effect exit", "effect stream", "effect raise"], ids=["ended", "answer not to be stored", "timeout"]
)
def test_with_retry_an_unknown_outcome_is_run_again(pair, gate, key, steps):
    """By the very next request: there is no lease to wait for."""
    one, other = pair(lease=LASTING, UNCERTAIN="retry")
    one.ask(key, steps)

    taken = other.ask(key)

    assert (taken.status, taken.by) == (201, other.pid)
    assert gate.effects(key) == [one.pid, other.pid]


@pytest.mark.parametrize("steps", ["effect stream", "effect raise"], ids=["answer not to be stored", "timeout"])
def test_a_handler_without_an_answer_to_store_leaves_an_unknown_outcome(pair, gate, key, steps):
    """The work was done, or a gateway may have done it before it timed out: 500, then 409 at once, and done once."""
    one, other = pair(lease=LASTING)

    answered = one.ask(key, steps)

    assert answered.status == 500
    assert answered.told("ERROR", "Unsettled")
    assert other.ask(key).said == UNKNOWN
    assert gate.effects(key) == [one.pid]


@pytest.mark.parametrize(("steps", "status"), [("effect deny", 403), ("effect refuse", 400), ("effect fail", 503)])
def test_an_answer_of_the_handlers_own_frees_the_key(pair, gate, key, steps, status):
    """It says that the work was not done, and is believed: the next request runs before the lease has ended."""
    one, other = pair(lease=LASTING)

    assert one.ask(key, steps).status == status
    assert other.ask(key).by == other.pid
    assert gate.effects(key) == [one.pid, other.pid]


# --- renewal ---


@pytest.mark.parametrize("steps", ["effect halt", "effect fork halt"], ids=["plain", "whose handler forks"])
def test_a_handler_may_take_longer_than_its_lease(pair, lasting, gate, key, steps):
    """The lease is renewed as long as the process lives, so the key is in flight, and the answer is stored."""
    one, other = pair(lease=LONG_ENOUGH)
    one.halt(key, steps)

    outlive(lasting, LONG_ENOUGH)

    assert other.ask_while(UNKNOWN, key=key).said == IN_PROGRESS
    assert one.finish().status == 201
    assert other.ask(key).replayed
    assert gate.effects(key) == [one.pid]


def test_a_forked_process_renews_its_own_leases(pair, lab, lasting, gate, key):
    """A fork of a process that has renewed leases already has a thread of its own for that."""
    one, other = pair(lease=LONG_ENOUGH)
    assert one.ask(f"{key}-before").status == 201
    forked = lab.fork_of(one)
    forked.halt(key)

    outlive(lasting, LONG_ENOUGH)

    assert other.ask_while(UNKNOWN, key=key).said == IN_PROGRESS
    assert forked.finish().by == forked.pid
    assert other.ask(key).by == forked.pid
    assert gate.effects(key) == [forked.pid]


@pytest.mark.kill
def test_a_fork_does_not_renew_the_leases_of_its_parent(pair, lab, gate, key):
    """A process that a handler has left behind works on; its parent's lease ends with the parent."""
    one, other = pair(lease=SHORT)
    one.send(key, "effect spawn halt")
    forked = lab.accept()
    gate.halted(one.pid)
    assert forked.ask(f"{key}-forked").status == 201
    one.kill()

    assert other.ask_while(IN_PROGRESS, key=key).said == UNKNOWN
    assert gate.effects(key) == [one.pid]
