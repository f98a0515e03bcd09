"""REPLAY_CACHE: committed records on a real Redis. Losing it costs speed, and nothing else."""

import time
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from django.core.cache import caches
from django.db import connection, transaction
from django.http import HttpResponse
from django.test.utils import CaptureQueriesContext
from django_redis import get_redis_connection

from django_idempotency import once
from django_idempotency.core.keys import Identity
from django_idempotency.exceptions import StoreUnavailable
from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations.records import free
from django_idempotency.stores import stores
from django_idempotency.stores.later import flush
from django_idempotency.stores.redis import replay_cache
from django_idempotency.testing.processes.forks import Process
from tests.app.models import Payment
from tests.app.serving import TIMEOUT, drf, is_replay, post
from tests.app.views import make_payment
from tests.lab.caches import LOCAL, REDIS_URL
from tests.lab.caches import cache as redis_cache
from tests.lab.proxy import proxy_to

pytestmark = pytest.mark.django_db(transaction=True)

DATABASE_STORE = "django_idempotency.stores.database.DatabaseStore"
SERVER = urlsplit(REDIS_URL)


@pytest.fixture
def configure(settings, worker_id):
    """
    Let the default store replay from a cache of this worker's own, behind another URL where one is given. Another
    store, `plain`, has the same table and no cache.
    """

    def configure(url: str = REDIS_URL) -> None:
        replays = redis_cache(url, timeout=1, KEY_PREFIX=f"replays-{worker_id}")
        settings.CACHES = {"default": LOCAL, "replays": replays}
        options = stores["default"].options | {"REPLAY_CACHE": "replays"}
        default = {"BACKEND": DATABASE_STORE, "OPTIONS": options}
        settings.IDEMPOTENCY = {"STORES": {"default": default, "plain": {"BACKEND": DATABASE_STORE}}}

    return configure


@pytest.fixture
def cache(configure):
    configure()
    raw = caches["replays"]
    raw.delete_pattern("*")
    yield raw
    configure()
    caches["replays"].delete_pattern("*")


@once("cached.pay", key=lambda event: event["id"], scope=lambda event: "shop")
def pay_once(event):
    Payment.objects.create(amount=event["amount"])
    return Payment.objects.count()


def pay(event):
    paid = pay_once(event)
    flush()  # the copy comes a moment after COMMIT
    return paid


def raw_key(cache) -> str:
    [key] = cache.keys("*")
    return str(cache.make_key(key))


def is_asked(work) -> bool:
    """Does *work* ask the database anything?"""
    with CaptureQueriesContext(connection) as captured:
        work()
    return bool(captured.captured_queries)


def test_a_replay_sends_no_statement(cache):
    """Not even BEGIN."""
    event = {"id": "a", "amount": 1}
    assert pay(event) == 1

    assert not is_asked(lambda: pay(event))
    assert pay(event) == 1


def test_a_connection_that_the_server_has_closed_is_replaced(cache, caplog):
    """As after its `timeout`: no replay asks the database for that, and nothing is logged."""
    event = {"id": "a", "amount": 1}
    pay(event)
    pay(event)
    [idle] = stores["default"].replay_cache.redis._idle
    idle.send_command("CLIENT", "ID")
    get_redis_connection("replays").client_kill_filter(_id=idle.read_response())

    assert not is_asked(lambda: pay(event))
    assert not is_asked(lambda: pay(event))
    assert not caplog.records


def test_a_fork_has_connections_of_its_own(cache):
    """Two processes that read from one would read each other's answers."""
    event = {"id": "a", "amount": 1}
    pay(event)
    pay(event)
    alias = stores["default"].replay_cache.redis
    key = raw_key(caches["replays"])
    parents = list(alias._idle)

    def look(line):
        return bool(alias.get(key)), any(idle in parents for idle in alias._idle)

    with Process(look) as child:
        assert child.result() == (True, False)
    assert not is_asked(lambda: pay(event))


def test_a_replay_is_the_first_answer(cache, api, serve):
    """Status, headers and body, byte for byte, and the log has the first request's id."""

    def handler(request):
        make_payment(request)
        return HttpResponse(b"\x00\xff\n{}", status=202, headers={"X-Odd": "a\tb", "Content-Type": "image/png"})

    serve(drf(handler))
    first, second = post(api), post(api)

    assert is_replay(second)
    assert not is_replay(first)
    assert (second.status_code, second.content, second["X-Odd"], second["Content-Type"]) == (
        202,
        b"\x00\xff\n{}",
        "a\tb",
        "image/png",
    )
    assert Payment.objects.count() == 1


def test_another_payload_is_refused_from_the_cache(cache, api, serve):
    """The fingerprint is compared as always."""
    serve(drf(make_payment))
    post(api, {"amount": 1})
    IdempotencyRecord.objects.all().delete()  # so that nothing but the cache can know

    assert post(api, {"amount": 2}).status_code == 422
    assert Payment.objects.count() == 1


def test_another_user_has_another_record(cache, api, other_api, serve):
    serve(drf(make_payment))

    assert [is_replay(post(client)) for client in (api, other_api, api, other_api)] == [False, False, True, True]


def test_what_rolls_back_is_not_cached(cache):
    """It is put there after COMMIT, the outermost one's."""
    with transaction.atomic():
        pay({"id": "a", "amount": 1})
        transaction.set_rollback(True)

    assert not cache.keys("*")
    with transaction.atomic():
        pay({"id": "a", "amount": 1})
        assert not cache.keys("*")
    flush()
    assert cache.keys("*")


def test_the_guard_is_asked(cache, api, serve):
    """Under today's rules, as for a record of the database."""
    forbidden = []

    def guard(request, record):
        if forbidden:
            raise StoreUnavailable

    serve(drf(make_payment, replay_guard=guard))
    post(api)
    assert is_replay(post(api))
    forbidden.append(True)

    assert not is_replay(post(api))


def test_it_expires_before_the_record(cache):
    """By the cache's clock, with the database's as the bound."""
    pay({"id": "a", "amount": 1})
    left = caches["replays"].client.get_client().pttl(raw_key(cache)) / 1000

    record = IdempotencyRecord.objects.get()
    assert left <= (record.expires_at - record.executed_at).total_seconds() * replay_cache.SHARE


def test_what_comes_late_expires_on_time(cache, monkeypatch):
    """A value that reached the server after its client gave up is kept there too long, and not believed."""
    event = {"id": "a", "amount": 1}
    pay(event)
    assert not is_asked(lambda: pay(event))

    now = time.time()
    monkeypatch.setattr(replay_cache.time, "time", lambda: now + timedelta(hours=24).total_seconds())
    assert is_asked(lambda: pay(event))


def test_a_freed_key_runs(cache):
    """It leaves the cache first."""
    event = {"id": "a", "amount": 1}
    pay(event)

    assert free(IdempotencyRecord.objects.get())
    assert pay(event) == 2
    assert pay(event) == 2


def test_who_comes_late_brings_nothing_back(cache):
    """A process that was frozen between COMMIT and its call to the cache, while the key was freed."""
    event = {"id": "a", "amount": 1}
    store = stores["default"].replay_cache
    late = []
    put = store.put
    store.put = lambda *args: late.append(args)
    pay(event)
    del store.put
    free(IdempotencyRecord.objects.get())
    [args] = late

    put(*args)

    assert pay(event) == 2


def test_what_another_store_frees_runs(cache):
    """It has the same table, and knows of no cache."""
    event = {"id": "a", "amount": 1}
    pay(event)

    assert free(IdempotencyRecord.objects.get(), store="plain")
    assert pay(event) == 2


def test_what_the_model_has_deleted_leaves_the_cache_with_free(cache):
    """Until then the cache answers for it, as stores.md says."""
    event = {"id": "a", "amount": 1}
    pay(event)
    digest = bytes(IdempotencyRecord.objects.get().digest)
    IdempotencyRecord.objects.all().delete()
    assert pay(event) == 1

    assert free(digest, store="plain") is False
    assert pay(event) == 2


@pytest.mark.parametrize("store", ["default", "plain"])
def test_nothing_is_freed_past_a_cache_that_is_away(cache, configure, store):
    """It may have the answer, which would then live on."""
    event = {"id": "a", "amount": 1}
    pay(event)
    configure("redis://127.0.0.1:1/0")

    with pytest.raises(StoreUnavailable, match="Nothing was changed"):
        free(IdempotencyRecord.objects.get(), store=store)
    assert pay(event) == 1


def test_a_cache_that_is_away_costs_one_call(configure, caplog, cache):
    """Then it is left out for a while; nobody sees more than one line of it."""
    configure("redis://127.0.0.1:1/1")
    event = {"id": "a", "amount": 1}

    assert [pay(event), pay(event), pay(event)] == [1, 1, 1]
    assert len([line for line in caplog.records if "is left out for 30 seconds" in line.getMessage()]) == 1

    stores["default"].replay_cache.back_at = 0
    assert pay(event) == 1
    assert len([line for line in caplog.records if "is left out for 30 seconds" in line.getMessage()]) == 2


def test_a_cache_that_does_not_answer_is_bounded(configure, cache, caplog):
    """By the alias's SOCKET_TIMEOUT: the proxy takes the call, and holds it."""
    with proxy_to(SERVER.hostname, SERVER.port or 6379) as proxy:
        configure(f"redis://127.0.0.1:{proxy.port}/15")
        loss = proxy.lose(0, "reply", cut=False)

        assert pay({"id": "a", "amount": 1}) == 1

        assert loss.happened.is_set()
    assert "does not answer" in caplog.text


POISON = {
    "foreign": b"\x80\x04\x95 a pickle of somebody's",
    "empty": b"",
    "short": b"idempotency 1 ",
    "text": b"x" * 200,
}


@pytest.mark.parametrize("value", POISON.values(), ids=POISON)
def test_a_foreign_value_is_ignored_and_logged(cache, caplog, value):
    """Nothing is unpickled, nothing believed; the database answers."""
    event = {"id": "a", "amount": 1}
    pay(event)
    cache.client.get_client().set(raw_key(cache), value)

    assert pay(event) == 1
    assert "Ignored what the replay cache has" in caplog.text


def test_a_foreign_kind_of_value_is_ignored_and_logged(cache, caplog):
    """A list where a text should be, found there by a replay and after a first execution: the server is not away."""
    first, second = {"id": "a", "amount": 1}, {"id": "b", "amount": 1}
    pay(first)
    client, key = cache.client.get_client(), raw_key(cache)
    client.delete(key)
    client.rpush(key, "x")

    assert pay(first) == 1
    IdempotencyRecord.objects.all().delete()
    assert pay(first) == 2

    said = [line.getMessage() for line in caplog.records if "WRONGTYPE" in line.getMessage()]
    assert ["Ignored what the replay cache has" in line for line in said] == [True] * 3
    assert "is left out" not in caplog.text
    pay(second)
    assert not is_asked(lambda: pay(second))


def test_a_record_under_another_identity_is_ignored(cache, caplog):
    """Whoever can write to the cache cannot give one's answer to another."""
    pay({"id": "a", "amount": 1})
    client, key = cache.client.get_client(), raw_key(cache)
    stolen = client.get(key)
    client.delete(key)
    pay({"id": "b", "amount": 1})
    client.set(raw_key(cache), stolen)

    assert pay({"id": "b", "amount": 1}) == 2
    assert "not signed by this project, for this identity" in caplog.text


def test_a_forged_record_is_ignored(cache, caplog):
    """One byte of the body is enough."""
    event = {"id": "a", "amount": 1}
    pay(event)
    client, key = cache.client.get_client(), raw_key(cache)
    client.set(key, client.get(key)[:-1] + b"9")

    assert pay(event) == 1
    assert "not signed by this project" in caplog.text


def test_an_older_secret_key_still_counts(cache, configure, settings):
    """As `SECRET_KEY_FALLBACKS` says."""
    event = {"id": "a", "amount": 1}
    pay(event)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another"
    configure()
    assert not is_asked(lambda: pay(event))

    settings.SECRET_KEY_FALLBACKS = []
    configure()
    assert is_asked(lambda: pay(event))


def test_it_does_not_answer_for_another_database(cache, configure):
    """The alias is a part of the key: two databases may each have a record of one identity."""
    pay({"id": "a", "amount": 1})
    store = stores["default"].replay_cache
    identity = Identity("shop", "cached.pay", "a")

    assert store.get("default", identity)
    assert store.get("other", identity) is None


@pytest.fixture
def tenant(monkeypatch):
    """Let the connection say that it works in this schema, as django-tenants and django-tenant-schemas do."""
    monkeypatch.setattr(connection, "schema_name", None, raising=False)
    return lambda schema: setattr(connection, "schema_name", schema)


def test_it_does_not_answer_for_another_schema(cache, tenant):
    """Each has a table of its own, behind one alias."""
    event = {"id": "a", "amount": 1}
    tenant("one")
    pay(event)
    assert not is_asked(lambda: pay(event))

    tenant("two")
    assert is_asked(lambda: pay(event))


def test_a_record_of_another_schema_is_ignored(cache, tenant, caplog):
    """Its signature says whose it is."""
    event = {"id": "a", "amount": 1}
    tenant("one")
    pay(event)
    client, key = cache.client.get_client(), raw_key(cache)
    assert ":one:" in key
    client.set(key.replace(":one:", ":two:"), client.get(key))

    tenant("two")
    assert is_asked(lambda: pay(event))
    assert "not signed by this project, for this identity" in caplog.text


def test_a_key_is_freed_in_its_own_schema(cache, tenant):
    event = {"id": "a", "amount": 1}
    tenant("one")
    pay(event)

    assert free(IdempotencyRecord.objects.get())
    assert pay(event) == 2


def test_it_answers_for_the_schema_that_was_written_to(cache, tenant):
    """By COMMIT an outer transaction's connection may work in another one."""
    event = {"id": "a", "amount": 1}
    tenant("one")
    with transaction.atomic():
        pay(event)
        tenant("two")

    assert is_asked(lambda: pay(event))
    tenant("one")
    assert not is_asked(lambda: pay(event))


@pytest.mark.parametrize("value", ["", 7, True])
def test_a_bad_alias_is_an_error(value):
    """At start-up, with its name."""
    from django_idempotency.exceptions import PolicyError
    from django_idempotency.stores.database import DatabaseStore

    with pytest.raises(PolicyError, match="REPLAY_CACHE"):
        DatabaseStore("default", {"REPLAY_CACHE": value})


def test_a_view_under_atomic_requests(cache, api, serve, atomic_requests):
    """Cached when the request's own transaction has committed."""
    serve(drf(make_payment))

    assert [is_replay(post(api)) for _ in range(2)] == [False, True]
    assert Payment.objects.count() == 1


def test_the_cache_answers_no_late_retry(cache, api, serve):
    """It forgets before the answer ends, and then the database refuses."""
    serve(drf(make_payment, ttl=timedelta(seconds=0.5), tombstone_ttl=timedelta(days=1)))
    post(api)
    response = post(api)
    deadline = time.monotonic() + TIMEOUT
    while is_replay(response) and time.monotonic() < deadline:
        response = post(api)

    assert response.json()["code"] == "key-expired"
    assert Payment.objects.count() == 1
