"""What is found under our keys and is not ours, or is only in part: logged, uncertain, and never run."""

import pytest

from django_idempotency.stores import stores
from tests.redis.lab import UNKNOWN, cache

FOREIGN = {
    "text": lambda client, key: client.set(key, "somebody's"),
    "empty text": lambda client, key: client.set(key, ""),
    "list": lambda client, key: client.rpush(key, "somebody's"),
    "set": lambda client, key: client.sadd(key, "somebody's"),
    "other hash": lambda client, key: client.hset(key, "name", "somebody's"),
}


def field(name, value):
    return lambda client, key: client.hset(key, name, value)


def without(*names):
    return lambda client, key: client.hdel(key, *names)


TRUNCATED = {
    "status is no number": field("status", "created"),
    "status is empty": field("status", ""),
    "head is no JSON": field("head", b"\x80\x04\x95"),
    "head is of another shape": field("head", "{}"),
    "head is a number": field("head", "1"),
    "head is cut": lambda client, key: client.hset(key, "head", client.hget(key, "head")[:-3]),
    "head is not UTF-8": field("head", b'["\xff", []]'),
    "request id is not UTF-8": field("request_id", b"\xff"),
    "no status": without("status"),
    "no head": without("head"),
    "no body": without("body"),
    "no fingerprint": without("fingerprint"),
    "no token": without("token"),
    "no state": without("state"),
    "unknown state": field("state", "paid"),
    "claimed without a lease": lambda client, key: (client.hset(key, "state", "claimed"), client.hdel(key, "lease")),
    "claimed with a foreign lease": lambda client, key: client.hset(key, mapping={"state": "claimed", "lease": "soon"}),
}


def record_key(client):
    """The key of the only record."""
    (key,) = [key for key in client.keys("*idempotency*") if not key.endswith(b"claims")]
    return key


@pytest.fixture
def client(lasting):
    with lasting.asked() as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.mark.parametrize("uncertain", ["refuse", "retry"])
@pytest.mark.parametrize("plant", [*FOREIGN, *TRUNCATED])
def test_garbage_is_an_unknown_outcome(lab, lasting, client, gate, key, plant, uncertain):
    """If a foreign value stands in a record's place, the work is not run again, and the log says why."""
    child = lab.child(cache(lasting.url), UNCERTAIN=uncertain)
    assert child.ask(key).status == 201
    found = record_key(client)
    if plant in FOREIGN:
        client.delete(found)
        FOREIGN[plant](client, found)
    else:
        TRUNCATED[plant](client, found)

    replies = [child.ask(key) for _ in range(2)]

    assert [reply.said for reply in replies] == [UNKNOWN] * 2
    assert all(reply.told("ERROR", "did not write") for reply in replies)
    assert gate.effects(key) == [child.pid]


@pytest.mark.parametrize("plant", FOREIGN)
def test_garbage_in_a_claims_place_at_the_completion_is_uncertain(lab, lasting, client, gate, key, plant):
    """If the claim is overwritten while the handler runs: 500, a line in the log, and the foreign value stays."""
    child = lab.child(cache(lasting.url))
    child.halt(key)
    found = record_key(client)
    client.delete(found)
    FOREIGN[plant](client, found)
    before = client.dump(found)

    assert child.finish().status == 500
    assert child.ask(key).said == UNKNOWN
    assert client.dump(found) == before
    assert gate.effects(key) == [child.pid]


@pytest.mark.parametrize("plant", FOREIGN)
def test_garbage_in_the_claims_set_never_runs_a_request_twice(lab, lasting, client, gate, key, plant):
    """The set of claims is for operators: without it a request runs, or says that nothing was done."""
    child = lab.child(cache(lasting.url))
    assert child.ask(key).status == 201
    claims = record_key(client).rpartition(b":")[0] + b":claims"
    client.flushdb()
    (gate.folder / "effects").unlink()
    FOREIGN[plant](client, claims)

    replies = [child.ask(key) for _ in range(3)]

    statuses = [reply.status for reply in replies]
    assert len(gate.effects(key)) <= 1
    assert statuses.count(201) == 3 if gate.effects(key) else 201 not in statuses


# --- for operators ---


@pytest.fixture
def store(settings, lasting):
    """The same store, in this process."""
    settings.CACHES = {"default": cache(lasting.url)}
    settings.IDEMPOTENCY = {"STORES": {"redis": {"BACKEND": "django_idempotency.stores.redis.RedisStore"}}}
    return stores["redis"]


BROKEN_SETS = {
    "text": lambda client, claims: client.set(claims, "somebody's"),
    "foreign members": lambda client, claims: client.zadd(claims, {"abc": 1, b"\xff": 2, "00" * 32: 3}),
}


@pytest.mark.parametrize("plant", BROKEN_SETS)
def test_a_claims_set_that_is_garbage_hides_its_own_claims_alone(lab, lasting, client, gate, key, store, plant):
    """Operators are shown the unsettled executions of all other sets."""
    child = lab.child(cache(lasting.url))
    assert child.ask(key, "effect exit").error == "SystemExit"
    before, _, rest = record_key(client).partition(b"{")
    other = b"00" if rest[:2] != b"00" else b"01"
    BROKEN_SETS[plant](client, before + b"{" + other + b"}:claims")

    assert [each.key for each in store.unsettled(None, 10)] == [key]


SHOWN = {
    **FOREIGN,
    **TRUNCATED,
    "executed at no time": field("executed_at", "yesterday"),
    "scope is not UTF-8": field("scope", b"\xff"),
    "a field that is not UTF-8": field(b"\xff", "1"),
}


@pytest.mark.parametrize("plant", SHOWN)
def test_garbage_can_be_looked_at_and_freed(lab, lasting, client, gate, key, store, plant):
    """Something is shown, and nothing raised; an operator frees it as it is shown, and the next request runs."""
    child = lab.child(cache(lasting.url))
    assert child.ask(key).status == 201
    found = record_key(client)
    if plant in FOREIGN:
        client.delete(found)
    SHOWN[plant](client, found)
    digest = bytes.fromhex(found.decode().rpartition(":")[2])

    shown = store.find(None, digest)

    if plant in FOREIGN or plant.startswith(("no ", "unknown", "claimed")):
        assert shown.status == 0
    assert store.free(None, digest, shown.executed_at, unsettled=shown.status == 0)

    assert child.ask(key).status == 201
    assert gate.effects(key) == [child.pid] * 2
