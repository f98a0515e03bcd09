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


# --- a probe ---


@pytest.fixture
def three(lab, lasting):
    """The process whose outcome is unknown, one that asks the probe, and one that comes after that."""

    def three(lease=SHORT, **options):
        options = {"UNCERTAIN": "tests.redis.urls.probe", "SHOULD_STORE": "tests.redis.urls.should_store"} | options
        return [lab.child(cache(lasting.url), lease=lease, **options) for _ in range(3)]

    return three


@pytest.mark.kill
def test_what_a_probe_has_found_is_replayed(three, gate, key):
    """The first process was killed after its work. The probe is asked once, and nobody runs the work again."""
    one, other, third = three()
    one.halt(key)
    one.kill()

    found = other.ask_while(IN_PROGRESS, key=key)
    again = third.ask(key)

    assert [(each.status, each.by, each.replayed) for each in (found, again)] == [(201, one.pid, True)] * 2
    assert "unsettled" not in found.signals
    assert other.ask(key, amount=11).said == (422, "key-reused")
    assert (gate.effects(key), gate.asked(key)) == ([one.pid], [other.pid])


@pytest.mark.kill
def test_what_was_not_done_is_run(three, gate, key):
    """The first process was killed before its work."""
    one, other, third = three()
    one.halt(key, "halt")
    one.kill()

    taken = other.ask_while(IN_PROGRESS, key=key)

    assert (taken.status, taken.by, taken.replayed) == (201, other.pid, False)
    assert taken.told("WARNING", "nothing was done")
    assert third.ask(key).replayed
    assert (gate.effects(key), gate.asked(key)) == ([other.pid], [other.pid])


@pytest.mark.kill
@pytest.mark.parametrize("steps", ["effect halt", "halt"], ids=["done", "not done"])
@pytest.mark.parametrize("place", ["probe", "answer"], ids=["in the probe", "before its answer is stored"])
def test_who_asks_may_be_killed(three, gate, key, steps, place):
    """In the probe, or with what it has found or what the run gave: the next one asks again, after the lease."""
    one, other, third = three()
    one.halt(key, steps)
    one.kill()
    gate.tell(place, "halt")
    other.halt_after(IN_PROGRESS, key=key)
    gate.tell(place, "")
    other.kill()

    found = third.ask_while(IN_PROGRESS, key=key)

    assert found.status == 201
    assert len(gate.effects(key)) == 1
    assert third.ask(key).by == gate.effects(key)[0]


@pytest.mark.kill
def test_who_runs_what_was_not_done_may_be_killed(three, gate, key):
    """Between the probe's answer and the work: it is still not done, and the next one finds that out."""
    one, other, third = three()
    one.halt(key, "halt")
    one.kill()
    other.halt_after(IN_PROGRESS, key=key, steps="halt")
    other.kill()

    taken = third.ask_while(IN_PROGRESS, key=key)

    assert (taken.status, taken.by) == (201, third.pid)
    assert (gate.effects(key), gate.asked(key)) == ([third.pid], [other.pid, third.pid])


@pytest.mark.kill
def test_who_was_frozen_in_a_probe_runs_nothing(three, gate, key):
    """Its lease has run out, and another one has asked and run: what its own probe says comes too late."""
    one, other, third = three()
    one.halt(key, "halt")
    one.kill()
    gate.tell("probe", "halt")
    other.halt_after(IN_PROGRESS, key=key)
    other.stop()
    gate.tell("probe", "")

    taken = third.ask_while(IN_PROGRESS, key=key)
    (gate.folder / "effects").rename(gate.folder / "hidden")  # so that the frozen one's probe has not seen it
    other.cont()
    late = other.finish()
    (gate.folder / "hidden").rename(gate.folder / "effects")

    assert (taken.status, taken.by) == (201, third.pid)
    assert late.said == IN_PROGRESS  # it asks again, as any client
    assert other.ask(key).by == third.pid
    assert (gate.effects(key), gate.asked(key)) == ([third.pid], [other.pid, third.pid])


@pytest.mark.kill
@pytest.mark.parametrize("steps", ["unsure", "raise"])
def test_what_a_probe_cannot_tell_is_refused(three, gate, key, steps):
    """It is announced once, as without a probe, and the next retry asks again."""
    one, other, third = three()
    one.halt(key)
    one.kill()
    gate.tell("probe", steps)

    found = other.ask_while(IN_PROGRESS, key=key)
    again = third.ask(key)

    assert (found.said, again.said) == (UNKNOWN, UNKNOWN)
    assert ("unsettled" in found.signals, "unsettled" in again.signals) == (True, False)
    assert found.told("ERROR", "The probe of") is (steps == "raise")
    assert gate.asked(key) == [other.pid, third.pid]
    gate.tell("probe", "")
    assert third.ask(key).by == one.pid


def test_a_worker_that_is_ended_in_a_probe_gives_its_turn_back(three, gate, key):
    """There is no lease to wait for."""
    one, other, third = three(lease=LASTING)
    one.ask(key, "effect exit")
    gate.tell("probe", "exit")

    ended = other.ask(key)
    gate.tell("probe", "")

    assert ended.error == "SystemExit"
    assert third.ask(key).by == one.pid


def test_while_a_probe_is_asked_the_key_is_in_flight(three, gate, key):
    """A duplicate is refused, or waits for the answer."""
    one, other, third = three(lease=LASTING)
    one.ask(key, "effect raise")
    gate.tell("probe", "halt")
    other.halt(key)

    assert third.ask(key).said == IN_PROGRESS
    assert other.finish().replayed
    assert third.ask(key).by == one.pid
    assert gate.asked(key) == [other.pid]


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
