"""A primary that is killed, and its replica promoted by three sentinels."""

import pytest

from django_idempotency.stores.redis.client import RedisAlias
from tests.redis.lab import IN_PROGRESS, LASTING, UNAVAILABLE, sentinel_cache
from tests.redis.servers import wait_until
from tests.redis.topologies import SentinelPair

pytestmark = pytest.mark.kill


def cut_off(pair):
    """
    Freeze the replica and end its connection: it misses what the primary is sent from now on.

    Frozen alone it would find all of it in its socket when it goes on.
    """
    pair.replica.stop()
    with pair.primary.asked() as client:
        client.execute_command("CLIENT KILL TYPE replica")


def fail_over(pair):
    pair.primary.kill()
    pair.replica.cont()
    pair.has_failed_over()


def test_a_replicated_claim_survives_a_failover(lab, own, gate, key):
    """The promoted replica knows that the request is in flight, and takes its answer."""
    pair = SentinelPair(own)
    one, other = (lab.child(sentinel_cache(pair), lease=LASTING) for _ in range(2))
    one.halt(key)
    pair.is_in_step()
    fail_over(pair)

    assert other.ask_while(UNAVAILABLE, key=key).said == IN_PROGRESS
    assert one.finish().status == 201
    assert other.ask(key).replayed
    assert gate.effects(key) == [one.pid]


def test_a_look_up_follows_a_failover(own, settings):
    """What a replay cache asks by itself elsewhere, the sentinels' client asks here."""
    pair = SentinelPair(own)
    settings.CACHES = {"replays": sentinel_cache(pair)}
    alias = RedisAlias("replays", "the test", "REPLAY_CACHE")
    key = alias.make_key("a")
    alias.client.set(key, "answer")
    assert alias.get(key) == b"answer"
    pair.is_in_step()
    fail_over(pair)

    wait_until("the look-up asks the new primary", lambda: alias.get(key) == b"answer")


def test_a_claim_that_was_not_replicated_is_lost_in_a_failover(lab, own, gate, key):
    """NOT PROMISED: the promoted replica has not heard of it, and a second request runs; both get one answer."""
    pair = SentinelPair(own)
    one, other = (lab.child(sentinel_cache(pair), lease=LASTING) for _ in range(2))
    cut_off(pair)
    one.halt(key)
    fail_over(pair)

    assert other.ask_while(UNAVAILABLE, key=key).by == other.pid
    finished = one.finish()

    assert (finished.status, finished.by) == (201, other.pid)
    assert finished.told("WARNING", "its handler ran too")
    assert gate.effects(key) == [one.pid, other.pid]


def test_a_primary_without_its_replica_refuses_claims(lab, own, gate, key):
    """`min-replicas-to-write`: a claim that might be lost is a 503; a request in flight ends uncertain."""
    pair = SentinelPair(own, min_replicas_to_write="1", min_replicas_max_lag="1")
    one, other = (lab.child(sentinel_cache(pair), lease=LASTING) for _ in range(2))
    one.halt(key)
    pair.is_in_step()
    cut_off(pair)

    refused = other.ask(f"{key}-new")
    uncertain = one.finish()

    assert refused.said == UNAVAILABLE
    assert gate.effects(f"{key}-new") == []
    assert uncertain.status == 500
    assert uncertain.told("ERROR", "Unsettled")
    pair.replica.cont()
    assert other.ask_while(UNAVAILABLE, key=key).said == IN_PROGRESS
    assert gate.effects(key) == [one.pid]


def test_a_primary_that_was_replaced_loses_what_it_takes(lab, own, gate, key):
    """
    NOT PROMISED: a primary that was frozen goes on as one until a sentinel tells it. An answer that it took is lost,
    which is an unknown outcome; so is a claim, and its request runs twice.
    """
    pair = SentinelPair(own)
    one, other = (lab.child(sentinel_cache(pair), lease=LASTING) for _ in range(2))
    one.halt(key)
    pair.is_in_step()
    pair.primary.stop()
    pair.has_failed_over()
    for sentinel in pair.sentinels:
        sentinel.stop()  # as if the network were cut between them and the old primary
    pair.primary.cont()

    assert one.finish().status == 201
    assert one.ask(f"{key}-new").status == 201
    for sentinel in pair.sentinels:
        sentinel.cont()

    assert other.ask_while(UNAVAILABLE, key=key).said == IN_PROGRESS
    assert other.ask(f"{key}-new").by == other.pid
    assert gate.effects(key) == [one.pid]
    assert gate.effects(f"{key}-new") == [one.pid, other.pid]
