"""A cluster whose slots move and whose primaries fail while requests are in flight."""

import pytest

from django_idempotency.stores.redis.client import RedisAlias
from tests.redis.lab import IN_PROGRESS, LASTING, UNAVAILABLE, cluster_cache
from tests.redis.topologies import Cluster


def record_key(cluster):
    """The key of the only record, and the primary that has it."""
    for node in cluster.primaries:
        with node.asked() as client:
            for key in client.keys("*idempotency*"):
                if not key.endswith(b"claims"):
                    return key
    raise AssertionError("no primary has a record")


@pytest.fixture(scope="module")
def cluster(keep):
    before = len(keep.servers)
    yield Cluster(keep)
    keep.end(keep.servers[before:])


@pytest.fixture
def emptied(cluster):
    for node in cluster.primaries:
        with node.asked() as client:
            client.flushall()
    return cluster


def test_a_request_is_served_wherever_its_slot_is(lab, emptied, gate, key):
    """Sixteen keys, over all primaries: each runs once and is replayed."""
    one, other = (lab.child(cluster_cache(emptied)) for _ in range(2))
    keys = [f"{key}-{number}" for number in range(16)]

    assert all(one.ask(each).status == 201 for each in keys)
    assert all(other.ask(each).replayed for each in keys)
    assert all(gate.effects(each) == [one.pid] for each in keys)
    for node in emptied.primaries:
        with node.asked() as client:
            assert client.keys("*idempotency*")


def test_a_look_up_finds_its_node(emptied, settings):
    """What a replay cache asks by itself elsewhere, the cluster's client asks here."""
    settings.CACHES = {"replays": cluster_cache(emptied)}
    alias = RedisAlias("replays", "the test", "REPLAY_CACHE")
    for name in "abcdefgh":
        alias.client.set(alias.make_key(name), name)

    assert [alias.get(alias.make_key(name)) for name in "abcdefgh"] == [name.encode() for name in "abcdefgh"]
    assert alias.get(alias.make_key("i")) is None


@pytest.mark.parametrize("when", ["while the slot moves", "when the slot has moved"])
def test_a_slot_moves_while_a_request_is_in_flight(lab, emptied, gate, key, when):
    """The claim moves with its slot, and everybody follows it. What is not whole meanwhile is a 503."""
    one, other = (lab.child(cluster_cache(emptied), lease=LASTING) for _ in range(2))
    one.halt(key)
    with emptied.moving(record_key(emptied)):
        assert other.ask(key).said == IN_PROGRESS
        if when == "while the slot moves":
            assert one.finish().status == 201
            refused = other.ask(key)
            assert refused.replayed or refused.said == UNAVAILABLE
    if when == "when the slot has moved":
        assert other.ask(key).said == IN_PROGRESS
        assert one.finish().status == 201

    assert other.ask(key).replayed
    assert gate.effects(key) == [one.pid]


def test_a_slot_that_has_moved_by_half_is_a_503(lab, emptied, gate, key):
    """Two keys in two places serve no request: nothing is claimed, and a request in flight ends uncertain."""
    one, other = (lab.child(cluster_cache(emptied), lease=LASTING) for _ in range(2))
    one.halt(key)
    with emptied.moving(record_key(emptied), half=True):
        refused = other.ask(key)
        uncertain = one.finish()

    assert refused.said == UNAVAILABLE
    assert uncertain.status == 500
    assert uncertain.told("ERROR", "Unsettled")
    assert other.ask(key).said == IN_PROGRESS
    assert gate.effects(key) == [one.pid]


def test_a_cluster_that_is_away_is_a_503(lab, own, gate, key):
    """No node answers: nothing was done."""
    cluster = Cluster(own, replicas=False)
    one, late = (lab.child(cluster_cache(cluster)) for _ in range(2))
    assert one.ask(f"{key}-before").status == 201
    for node in cluster.nodes:
        node.kill()

    for child in (one, late):  # one has a client already
        reply = child.ask(key)
        assert reply.said == UNAVAILABLE, reply
        assert int(reply.headers["retry-after"]) >= 1
    assert gate.effects(key) == []


@pytest.mark.kill
def test_a_primary_fails_while_a_request_is_in_flight(lab, own, gate, key):
    """Its replica has the claim, and takes the answer."""
    cluster = Cluster(own)
    one, other = (lab.child(cluster_cache(cluster), lease=LASTING) for _ in range(2))
    one.halt(key)
    cluster.fail_over(record_key(cluster))

    seen = other.ask_while(UNAVAILABLE, key=key)
    assert seen.said == IN_PROGRESS, seen
    assert one.finish().status == 201
    assert other.ask(key).replayed
    assert gate.effects(key) == [one.pid]
