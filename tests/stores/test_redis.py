"""The RedisStore on a real Redis: its keys, its round trips, what it stores; its faults are in tests/redis."""

import hashlib
import itertools
import time
from datetime import timedelta

import pytest
from django.core.cache import caches
from django.http import HttpResponse
from redis import Redis
from redis.exceptions import ResponseError

from django_idempotency import once
from django_idempotency.core.keys import Identity
from django_idempotency.exceptions import KeyExpired, OutcomeUncertain, OutcomeUnknown, RequestInProgress
from django_idempotency.operations.records import free
from django_idempotency.stores import stores
from django_idempotency.stores.redis import client
from tests.app.serving import drf, hearing, is_replay, plain, post
from tests.lab.caches import LOCAL, REDIS_URL, cache


@pytest.fixture(autouse=True)
def redis(settings, worker_id):
    """The raw client of the store's alias, whose keys are this worker's own."""
    settings.CACHES = {"default": LOCAL, "keys": cache(KEY_PREFIX=f"store-{worker_id}", VERSION=7)}
    backend = "django_idempotency.stores.redis.RedisStore"
    settings.IDEMPOTENCY = {"STORES": {"redis": {"BACKEND": backend, "OPTIONS": {"CACHE": "keys"}}}}
    caches["keys"].delete_pattern("*")
    yield caches["keys"].client.get_client()
    caches["keys"].delete_pattern("*")


@pytest.fixture
def heard():
    """What `operation_unsettled` was sent with."""
    with hearing("unsettled") as heard:
        yield heard


RUNS: list[str] = []
WORK: list = []


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    RUNS.clear()
    WORK.clear()


@once("send", key=str, scope=lambda key: "shop", store="redis", lease=timedelta(seconds=30))
def send(key):
    RUNS.append(key)
    for work in WORK:
        work()
    return {"sent": key}


def digest(key: str) -> bytes:
    return Identity("shop", "send", key).digest


def test_a_first_execution_takes_two_round_trips(redis, monkeypatch):
    """Claim and completion; a replay takes one."""
    send("warm")
    sent = []
    connection = redis.connection_pool.connection_class
    send_packed = connection.send_packed_command

    def counted(self, *args, **kwargs):
        sent.append(self)
        return send_packed(self, *args, **kwargs)

    monkeypatch.setattr(connection, "send_packed_command", counted)

    send("a")
    assert len(sent) == 2
    send("a")
    assert len(sent) == 3
    assert RUNS == ["warm", "a"]


def test_scripts_are_loaded_once(redis):
    """And again where the server has lost them."""
    send("warm")
    redis.script_flush()

    assert send("a") == {"sent": "a"}
    assert RUNS == ["warm", "a"]


def test_a_connection_that_is_closed_while_the_handler_runs_is_replaced(redis):
    """By the server, or by what is between: a completion is sent once, so it must not be sent there."""

    def close():
        [idle] = stores["redis"].redis._idle  # the claim's
        idle.send_command("CLIENT", "ID")
        redis.client_kill_filter(_id=idle.read_response())

    WORK.append(close)

    assert send("a") == {"sent": "a"}
    assert send("a") == {"sent": "a"}
    assert RUNS == ["a"]


def test_connections_that_were_cut_off_unseen_cost_one_try(redis, monkeypatch):
    """As by a balancer, which tells of it when something is sent; a claim is sent twice."""
    monkeypatch.setattr(client, "_is_open", lambda connection: True)
    send("warm")
    own = stores["redis"].redis
    own._idle.extend(own._new_connection() for _ in range(3))
    for connection in own._idle:
        connection.send_command("CLIENT", "ID")
        redis.client_kill_filter(_id=connection.read_response())

    assert send("a") == {"sent": "a"}
    assert len(own._idle) == 1


def test_an_error_of_the_server_costs_no_connection():
    """Its reply was read."""
    send("warm")
    own = stores["redis"].redis
    before = list(own._idle)
    with pytest.raises(ResponseError):
        own.run("return redis.error_reply('BUSY')", ("a",))

    assert list(own._idle) == before


def test_calls_that_are_traced_are_the_drivers(monkeypatch):
    """Who traces redis-py puts another function in the place of its client's."""
    traced = []
    execute = Redis.execute_command

    def trace(self, *args, **options):
        traced.append(args[0])
        return execute(self, *args, **options)

    monkeypatch.setattr(Redis, "execute_command", trace)

    send("a")
    assert traced.count("EVALSHA") >= 2


@pytest.mark.parametrize("option", ["retry_on_timeout=true", "health_check_interval=30"])
def test_what_the_drivers_client_acts_on_is_left_to_it(settings, worker_id, option):
    """Then it makes each call."""
    settings.CACHES = {**settings.CACHES, "keys": cache(f"{REDIS_URL}?{option}", KEY_PREFIX=worker_id)}
    caches["keys"].delete_pattern("*")

    for _ in range(2):
        assert send("a") == {"sent": "a"}
    assert RUNS == ["a"]
    assert not stores["redis"].redis._idle


def test_the_aliass_prefix_and_version_count(redis):
    """In every key."""
    send("a")

    keys = [key.decode() for key in redis.keys("*") if b"store-" in key and digest("a").hex().encode() in key]
    [key] = keys
    assert key.split(":")[1] == "7"
    assert key.endswith(f"idempotency:{{{digest('a').hex()[:2]}}}:{digest('a').hex()}")


def test_nothing_is_pickled(redis):
    """The body is in the record as the handler gave it."""
    send("a")

    fields = redis.hgetall(stores["redis"]._keys(digest("a").hex())[0])
    assert fields[b"body"] == b'{"sent":"a"}'
    assert not any(value.startswith(b"\x80") and name != b"fingerprint" for name, value in fields.items())


def test_a_record_expires(redis):
    """Its time runs from its completion on, by the server's clock."""
    send("a")

    left = redis.pttl(stores["redis"]._keys(digest("a").hex())[0])
    assert 0 <= timedelta(hours=24).total_seconds() * 1000 - left < 60_000


def test_a_finished_claim_is_not_listed(redis):
    """The set of claims holds what is in flight or without an outcome."""
    WORK.append(lambda: RUNS.append(redis.zcard(stores["redis"]._keys(digest("a").hex())[1])))

    send("a")

    assert RUNS == ["a", 1]
    assert redis.zcard(stores["redis"]._keys(digest("a").hex())[1]) == 0


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("make", [drf, plain], ids=["drf", "plain"])
def test_a_view(api, serve, browser, make):
    """Byte for byte, and the handler once."""
    runs = []

    def handler(request):
        runs.append(request)
        return HttpResponse(b"\x00\xff", status=201, headers={"X-Run": str(len(runs))})

    serve(make(handler, store="redis"))
    client = api if make is drf else browser
    first, second = post(client), post(client)

    assert (first.content, first["X-Run"], first.status_code) == (second.content, second["X-Run"], second.status_code)
    assert [is_replay(first), is_replay(second)] == [False, True]
    assert len(runs) == 1
    assert post(client, {"amount": 99}).status_code == 422


def test_a_handler_may_say_that_it_does_not_know(heard):
    """A gateway without keys of its own did not answer in time."""
    WORK.append(lambda: (_ for _ in ()).throw(OutcomeUncertain("the gateway did not answer")))
    with pytest.raises(OutcomeUncertain):
        send("a")
    WORK.clear()

    with pytest.raises(OutcomeUnknown):
        send("a")
    assert RUNS == ["a"]
    assert [about["error"].reason for _, about in heard] == ["the gateway did not answer"]


def test_another_operations_doubt_is_the_outer_ones_too(heard):
    """Neither outcome is known, as the outer handler did not say that nothing was done; each is announced once."""

    @once("outer", key=str, store="redis")
    def outer(key):
        return send(key)

    WORK.append(lambda: (_ for _ in ()).throw(OutcomeUncertain("the gateway did not answer")))
    with pytest.raises(OutcomeUncertain):
        outer("a")

    with pytest.raises(OutcomeUnknown) as refused:
        outer("a")
    assert refused.value.identity == Identity("-", "outer", "a")
    assert [about["identity"].operation for _, about in heard] == ["send", "outer"]


def test_entries_whose_records_are_gone_hide_none(redis, monkeypatch):
    """They are the oldest, and fill the list: it goes on to those that are there."""
    monkeypatch.setattr("django_idempotency.stores.redis.store.TAGS", ["ab"])
    store = stores["redis"]
    claims = store.redis.make_key("idempotency:{ab}:claims")
    redis.zadd(claims, {f"ab{number:062x}": 1 for number in range(5)})
    digests = (hashlib.sha256(str(number).encode()) for number in itertools.count())
    digest = next(each.digest() for each in digests if each.hexdigest().startswith("ab"))
    record, _ = store._keys(digest.hex())
    fields = {"state": "claimed", "token": "t", "lease": 1, "fingerprint": b"f" * 32, "executed_at": 1}
    redis.hset(record, mapping=fields)
    redis.zadd(claims, {digest.hex(): 2})

    assert [found.digest for found in store.unsettled(None, 1)] == [digest]
    assert redis.zrange(claims, 0, -1) == [digest.hex().encode()]


def test_a_call_inside_itself_joins():
    """The same identity from its own handler runs, and the outer call records."""
    WORK.append(lambda: WORK.clear() or send("a"))

    assert send("a") == {"sent": "a"}
    assert RUNS == ["a", "a"]
    assert send("a") == {"sent": "a"}
    assert len(RUNS) == 2


def test_it_runs_without_a_database():
    """No connection is asked for: this test has no access to one."""
    assert send("a") == send("a")


def test_the_driver_is_imported_where_it_is_used():
    """A project without Redis does not pay for it."""
    import subprocess
    import sys

    code = (
        "import sys, django\n"
        "from django.conf import settings\n"
        "settings.configure(INSTALLED_APPS=['django.contrib.contenttypes', 'django_idempotency'], SECRET_KEY='x',"
        " DATABASES={'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}})\n"
        "django.setup()\n"
        "import django_idempotency.engine\n"
        "from django_idempotency.stores import stores; stores['default']\n"
        "print(*{name.partition('.')[0] for name in sys.modules} & {'redis', 'django_redis', 'rest_framework'})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@once(
    "late",
    key=str,
    scope=lambda key: "shop",
    store="redis",
    ttl=timedelta(seconds=0.3),
    tombstone_ttl=timedelta(days=1),
)
def late(key):
    RUNS.append(key)


def test_a_late_retry_is_refused(redis):
    """The record goes by itself, and a tombstone of some 50 bytes stays, until an operator frees the key."""
    late("a")
    record, _ = stores["redis"]._keys(Identity("shop", "late", "a").digest.hex())
    while redis.exists(record):
        time.sleep(0.01)

    with pytest.raises(KeyExpired):
        late("a")
    assert RUNS == ["a"]
    assert redis.strlen(f"{record}:late") <= 50
    assert 0 <= timedelta(days=1).total_seconds() * 1000 - redis.pttl(f"{record}:late") < 60_000
    found = stores["redis"].find(None, Identity("shop", "late", "a").digest)
    assert found.is_tombstone

    assert free(found)
    late("a")
    assert RUNS == ["a", "a"]


def test_a_renamed_operation_is_claimed_and_answered_under_each_name(redis):
    """Whichever process came first; a claim that is refused by one name leaves none under the others."""

    def named(operation, **options):
        return once(operation, key=str, store="redis", **options)(lambda key: RUNS.append(key))

    before, after = named("rename.before"), named("rename.after", operation_aliases=["rename.before"])
    refused = []

    def inside():
        try:
            (after if len(RUNS) == 1 else before)("a" if len(RUNS) == 1 else "b")
        except RequestInProgress:
            refused.append(RUNS[-1])

    def working(operation, **options):
        def work(key):
            RUNS.append(key)
            inside()

        return once(operation, key=str, store="redis", **options)(work)

    working("rename.before")("a")  # a process with the old name
    assert after.run("a").replayed
    working("rename.after", operation_aliases=["rename.before"])("b")  # a process with the new one

    assert refused == ["a", "b"]
    assert before.run("b").replayed
    assert named("rename.after").run("b").replayed, "after the alias has gone"
    assert RUNS == ["a", "b"]
