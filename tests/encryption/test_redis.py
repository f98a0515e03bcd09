"""The RedisStore and the replay cache hold ciphertext alone, and what does not open answers nobody."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from django_idempotency import once
from django_idempotency.core.keys import Identity
from django_idempotency.core.record import CompletionRecord
from django_idempotency.encryption import LABEL
from django_idempotency.exceptions import OutcomeUncertain, OutcomeUnknown, RequestInProgress
from django_idempotency.operations.records import settle
from django_idempotency.probes import NOT_DONE
from django_idempotency.stores import stores as made
from tests.app.models import Payment
from tests.app.serving import is_replay, post
from tests.encryption.conftest import NEW, OLD, OTHER, SECRET
from tests.encryption.test_records import assert_refused

RUNS: list[str] = []
FAILS: list[Exception] = []


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    RUNS.clear()
    FAILS.clear()


def work(key):
    RUNS.append(key)
    if FAILS:
        raise FAILS.pop()
    return {"card": SECRET}


options = {"key": str, "scope": lambda key: "shop", "store": "redis", "lease": timedelta(seconds=30)}
send = once("sealed.send", **options)(work)
try_again = once("sealed.again", uncertain="retry", **options)(work)
ask = once("sealed.ask", uncertain=lambda record: NOT_DONE, **options)(work)


def identity(key="a", operation="sealed.send"):
    return Identity("shop", operation, key)


def values(redis):
    """All values of all keys of this test, as one string of bytes."""
    found = [redis.dump(key) or b"" for key in redis.keys("*sealed-*")]
    for key in redis.keys("*sealed-*"):
        kind = redis.type(key)
        found += redis.hgetall(key).values() if kind == b"hash" else [redis.get(key)] if kind == b"string" else []
    assert found
    return b"|".join(found)


def fields(redis, key="a"):
    """The key and the fields of a record."""
    name = made["redis"]._keys(identity(key).digest.hex())[0]
    return name, redis.hgetall(name)


def test_a_replay_is_the_answer_and_the_server_does_not_have_it(stores, encrypt):
    encrypt({"a": OLD}, REQUIRE=True)
    assert send("a") == send("a") == {"card": SECRET}
    assert RUNS == ["a"]
    assert SECRET.encode() not in values(stores)
    assert fields(stores)[1][b"head"] == LABEL + b"\1a"
    assert SECRET.encode() in made["redis"].find(None, identity().digest).body


@pytest.mark.parametrize("function", [send, try_again, ask], ids=["refuse", "retry", "probe"])
@pytest.mark.parametrize("keys", [{"new": NEW}, {"old": OTHER}], ids=["lost", "wrong"])
@pytest.mark.usefixtures("stores")
def test_without_its_key_nothing_runs_again(encrypt, function, keys, caplog):
    """Not even work that is harmless to repeat, or that another system says was not done: it has been answered."""
    encrypt({"old": OLD})
    function("a")

    encrypt(keys)
    with pytest.raises(OutcomeUnknown):
        function("a")
    assert RUNS == ["a"]
    assert SECRET not in caplog.text
    assert any(each.levelname == "ERROR" for each in caplog.records)

    encrypt({"new": NEW, "old": OLD})
    assert function("a") == {"card": SECRET}


@pytest.mark.parametrize("field", [b"head", b"body", b"status", b"both"])
def test_a_record_that_was_changed_answers_nobody(stores, encrypt, field):
    encrypt({"a": OLD}, REQUIRE=True)
    send("a")
    send("b")
    name, mine = fields(stores)
    other = fields(stores, "b")[1]
    changed = {
        b"head": {"head": mine[b"head"][:-1]},
        b"body": {"body": mine[b"body"][:-1] + bytes([mine[b"body"][-1] ^ 1])},
        b"status": {"status": 299},
        b"both": {"head": other[b"head"], "body": other[b"body"]},
    }[field]
    stores.hset(name, mapping=changed)

    with pytest.raises(OutcomeUnknown):
        send("a")
    found = made["redis"].find(None, identity().digest)
    assert found.unreadable
    assert found.body == b""
    assert RUNS == ["a", "b"]


def test_an_operators_answer_is_sealed(stores, encrypt):
    encrypt({"a": OLD}, REQUIRE=True)
    FAILS.append(TimeoutError())
    with pytest.raises((OutcomeUncertain, TimeoutError)):
        send("a")
    answer = CompletionRecord(status=200, body=b'{"card": "%s"}' % SECRET.encode())

    assert settle(made["redis"].find(None, identity().digest), answer)

    assert SECRET.encode() not in values(stores)
    assert send("a") == {"card": SECRET}


def test_an_answer_that_cannot_be_sealed_leaves_an_unknown_outcome(stores, encrypt):
    """The work is done, and nothing here rolls back."""

    class Away:
        def for_scope(self, scope):
            raise ConnectionError("the key service is away")

        def get(self, id, scope):
            return None

    encrypt(Away())
    with pytest.raises(OutcomeUncertain):
        send("a")
    assert SECRET.encode() not in values(stores)
    encrypt({"a": OLD})
    with pytest.raises((OutcomeUnknown, RequestInProgress)):  # the lease is ended a little later
        send("a")
    assert RUNS == ["a"]


# --- the replay cache ---


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("paying")
def test_the_replay_cache_holds_ciphertext(stores, encrypt, api):
    encrypt({"a": OLD}, REQUIRE=True)
    post(api)
    with CaptureQueriesContext(connection) as captured:
        assert is_replay(post(api))
    assert not [each for each in captured if "idempotency" in each["sql"]]
    content = values(stores)
    assert LABEL in content
    for part in (SECRET.encode(), b"X-Card", b"application/json"):
        assert part not in content


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("paying", "stores")
def test_without_the_key_the_database_decides(encrypt, api, caplog):
    """What the cache cannot open is ignored. It opens nothing for another table, nor what is plain."""
    encrypt({"old": OLD})
    first = post(api)
    encrypt({"new": NEW})
    assert_refused(api, caplog)
    encrypt({"new": NEW, "old": OLD})
    assert post(api).content == first.content


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("paying", "stores")
def test_a_plain_value_of_the_cache_is_not_used_where_sealed_ones_are_required(encrypt, api, caplog):
    post(api)
    encrypt({"a": OLD})
    assert is_replay(post(api))
    encrypt({"a": OLD}, REQUIRE=True)
    assert_refused(api, caplog)
    assert Payment.objects.count() == 1
