"""A server that is away, frozen, killed, full, or not heard: at the claim, between claim and completion, and after."""

import pytest

from tests.lab.proxy import proxy_to
from tests.redis.lab import IN_PROGRESS, LASTING, UNAVAILABLE, UNKNOWN, cache

KEPT = {"appendonly": "yes", "appendfsync": "always"}
LOST = {"appendonly": "no"}

MEMORY = 16 * 2**20  # bytes: more than an empty server takes


def assert_nothing_was_done(gate, key, reply):
    assert reply.said == UNAVAILABLE
    assert int(reply.headers["retry-after"]) >= 1
    assert reply.told("ERROR", "does not answer")
    assert gate.effects(key) == []


def assert_uncertain(reply):
    """The caller gets an unknown outcome, and the signal's receivers hear of it."""
    assert reply.status == 500
    assert "OutcomeUncertain" in reply.error
    assert reply.told("ERROR", "Unsettled")
    assert reply.signals == ["unsettled"]


# --- away ---


def test_a_server_that_is_away_at_the_claim_is_a_503(lab, own, gate, key):
    """Nothing was done, and as soon as it is back the same process runs the request."""
    server = own.redis()
    one = lab.child(cache(server.url))
    server.kill()

    assert_nothing_was_done(gate, key, one.ask(key))
    assert_nothing_was_done(gate, key, one.ask(key))
    server.restart()
    assert one.ask(key).status == 201
    assert one.ask(key).replayed
    assert gate.effects(key) == [one.pid]


def test_a_server_that_is_away_at_the_completion_leaves_an_unknown_outcome(lab, own, gate, key):
    """The caller gets a 500; soon after the server is back with its data, a retry is refused, in its lease too."""
    server = own.redis(**KEPT)
    one, other = (lab.child(cache(server.url), lease=LASTING) for _ in range(2))
    one.halt(key)
    server.kill()

    assert_uncertain(one.finish())
    server.restart()
    found = other.ask_while(IN_PROGRESS, UNAVAILABLE, key=key)

    assert found.said == UNKNOWN
    assert found.signals == ["refused"]  # not of the outcome, a second time
    assert gate.effects(key) == [one.pid]


def test_a_server_that_is_away_when_the_handler_refuses_frees_the_key_later(lab, own, gate, key):
    """The answer is the handler's own, and the key is freed when the server is back, before the lease has ended."""
    server = own.redis(**KEPT)
    one, other = (lab.child(cache(server.url), lease=LASTING) for _ in range(2))
    one.halt(key, "halt refuse")
    server.kill()

    assert one.finish().status == 400
    server.restart()
    reply = other.ask_while(IN_PROGRESS, UNAVAILABLE, key=key)

    assert (reply.status, reply.by) == (201, other.pid)
    assert gate.effects(key) == [other.pid]


# --- SIGSTOP of the server ---


def test_a_frozen_server_at_the_claim_is_a_503(lab, own, gate, key):
    """Nothing was done; the claim that it finds when it goes on does not keep the key."""
    server = own.redis()
    one, other = (lab.child(cache(server.url), lease=LASTING) for _ in range(2))
    assert one.ask(f"{key}-before").status == 201  # connected, so that the claim itself is what waits
    server.stop()

    assert_nothing_was_done(gate, key, one.ask(key))
    server.cont()
    reply = other.ask_while(IN_PROGRESS, key=key)

    assert (reply.status, reply.by) == (201, other.pid)
    assert gate.effects(key) == [other.pid]


def test_a_frozen_server_at_the_completion_has_the_answer_when_it_goes_on(lab, own, gate, key):
    """The caller gets a 500, as no reply confirmed that its answer is stored; it is, and a retry gets it."""
    server = own.redis()
    one, other = (lab.child(cache(server.url), lease=LASTING) for _ in range(2))
    assert one.ask(f"{key}-before").status == 201  # so that the server knows the script
    one.halt(key)
    server.stop()

    assert_uncertain(one.finish())
    server.cont()
    reply = other.ask_while(IN_PROGRESS, key=key)

    assert (reply.status, reply.by, reply.replayed) == (201, one.pid, True)
    assert gate.effects(key) == [one.pid]


# --- kill -9 of the server ---


def halted_and_killed(lab, own, key, **options):
    """Two processes on a server that was killed and started again while the first one's handler runs."""
    server = own.redis(**options)
    one, other = (lab.child(cache(server.url), lease=LASTING) for _ in range(2))
    one.halt(key)
    server.kill()
    server.restart()
    return one, other


@pytest.mark.kill
def test_a_persistent_server_that_is_killed_still_has_the_claim(lab, own, gate, key):
    """Started again it knows that the request is in flight, and takes its answer."""
    one, other = halted_and_killed(lab, own, key, **KEPT)

    assert other.ask(key).said == IN_PROGRESS
    assert one.finish().status == 201
    assert other.ask(key).replayed
    assert gate.effects(key) == [one.pid]


@pytest.mark.kill
def test_a_persistent_server_that_is_killed_still_has_the_answer(lab, own, gate, key):
    """What was completed is replayed."""
    server = own.redis(**KEPT)
    one, other = (lab.child(cache(server.url)) for _ in range(2))
    assert one.ask(key).status == 201
    server.kill()
    server.restart()

    assert other.ask(key).replayed
    assert gate.effects(key) == [one.pid]


@pytest.mark.kill
def test_a_forgetful_server_takes_the_answer_of_a_claim_that_it_lost(lab, own, gate, key):
    """If no other request came meanwhile, the answer is stored, and the log says what happened."""
    one, other = halted_and_killed(lab, own, key, **LOST)

    finished = one.finish()

    assert (finished.status, finished.replayed) == (201, False)
    assert finished.told("WARNING", "has forgotten the claim")
    assert other.ask(key).replayed
    assert gate.effects(key) == [one.pid]


@pytest.mark.kill
def test_a_forgetful_server_lets_a_second_execution_in(lab, own, gate, key):
    """NOT PROMISED: without persistence a lost claim runs twice. Both callers get one answer, and the log tells."""
    one, other = halted_and_killed(lab, own, key, **LOST)

    assert other.ask(key).by == other.pid
    finished = one.finish()

    assert (finished.status, finished.by) == (201, other.pid)
    assert finished.told("WARNING", "its handler ran too")
    assert gate.effects(key) == [one.pid, other.pid]


@pytest.mark.kill
def test_a_forgetful_server_forgets_answers(lab, own, gate, key):
    """NOT PROMISED: without persistence a retry after the server's end runs again."""
    server = own.redis(**LOST)
    one, other = (lab.child(cache(server.url)) for _ in range(2))
    assert one.ask(key).status == 201
    server.kill()
    server.restart()

    assert other.ask(key).by == other.pid
    assert gate.effects(key) == [one.pid, other.pid]


# --- maxmemory ---


def test_a_full_server_refuses_claims_and_takes_answers(lab, own, gate, key):
    """`noeviction`: a new request is a 503, and nothing was done; what was let in before is completed, and replayed."""
    server = own.redis(maxmemory_policy="noeviction")
    one, other = (lab.child(cache(server.url)) for _ in range(2))
    one.halt(key)
    with server.asked() as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)

        assert_nothing_was_done(gate, f"{key}-new", other.ask(f"{key}-new"))
        assert other.ask(key).said == IN_PROGRESS
        assert one.finish().status == 201
        assert other.ask(key).replayed
        assert gate.effects(key) == [one.pid]
        client.config_set("maxmemory", 0)
    assert other.ask(f"{key}-new").status == 201


def test_an_evicting_server_lets_a_second_execution_in(lab, own, gate, key):
    """NOT PROMISED: `allkeys-lru` evicts a claim in flight, and the next request runs too; both get one answer."""
    server = own.redis(maxmemory=str(MEMORY), maxmemory_policy="allkeys-lru", maxmemory_samples="64")
    one, other = (lab.child(cache(server.url)) for _ in range(2))
    one.halt(key)
    with server.asked() as client:
        assert client.keys("*idempotency*")
        for number in range(MEMORY):
            client.set(f"filler-{number}", b"x" * 100_000)
            if not client.keys("*idempotency*"):
                break

    assert other.ask(key).by == other.pid
    finished = one.finish()

    assert (finished.status, finished.by) == (201, other.pid)
    assert finished.told("WARNING", "its handler ran too")
    assert gate.effects(key) == [one.pid, other.pid]


# --- lost messages ---


@pytest.fixture
def proxied(lab, lasting):
    """A proxy in front of a server, and a connected process behind it: the next message is the next request's claim."""
    with proxy_to("127.0.0.1", lasting.port) as proxy:
        child = lab.child(cache(f"redis://127.0.0.1:{proxy.port}/0"), lease=3.0)
        assert child.ask(f"before-{child.pid}").status == 201
        yield proxy, child
        lab.end_children()


def test_a_claim_whose_reply_was_lost_is_known_by_its_token(proxied, lab, lasting, gate, key):
    """The claim is sent again, and found to be one's own: the request runs, once."""
    proxy, one = proxied
    loss = proxy.lose(0, "reply", cut=True)

    reply = one.ask(key)

    assert loss.happened.is_set()
    assert (reply.status, reply.replayed) == (201, False)
    assert lab.child(cache(lasting.url)).ask(key).replayed
    assert gate.effects(key) == [one.pid]


def test_a_claim_that_was_lost_is_sent_again(proxied, gate, key):
    """It has not reached the server, so the next try claims."""
    proxy, one = proxied
    loss = proxy.lose(0, "request", cut=True)

    assert one.ask(key).status == 201
    assert loss.happened.is_set()
    assert one.ask(key).replayed
    assert gate.effects(key) == [one.pid]


def test_a_completion_whose_reply_was_lost_is_stored(proxied, lab, lasting, gate, key):
    """The first caller gets an unknown outcome; a retry gets the answer."""
    proxy, one = proxied
    one.halt(key)
    loss = proxy.lose(0, "reply", cut=True)

    first = one.finish()

    assert loss.happened.is_set()
    assert_uncertain(first)
    again = lab.child(cache(lasting.url)).ask(key)
    assert (again.replayed, again.by) == (True, one.pid)
    assert gate.effects(key) == [one.pid]


def test_a_completion_that_was_lost_is_an_unknown_outcome(proxied, lab, lasting, gate, key):
    """The first caller gets an unknown outcome; a retry is refused."""
    proxy, one = proxied
    one.halt(key)
    loss = proxy.lose(0, "request", cut=True)

    assert_uncertain(one.finish())
    assert loss.happened.is_set()
    assert lab.child(cache(lasting.url)).ask_while(IN_PROGRESS, key=key).said == UNKNOWN
    assert gate.effects(key) == [one.pid]
