"""E012 to E014, W011 to W016: stores beside the database, by their settings and, where asked, by their server."""

import os
from collections.abc import Callable

import pytest
from django.core.checks import registry
from django.db import transaction
from django.http import HttpResponse
from rest_framework.generics import CreateAPIView
from rest_framework.serializers import ModelSerializer

from django_idempotency import Policy, idempotent
from django_idempotency.checks import stores as checks
from django_idempotency.rest_framework import IdempotencyMixin
from django_idempotency.stores import stores
from django_idempotency.stores.redis import checks as redis_checks
from tests.app.models import Payment

URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/15")
CACHE = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": URL}
BOUNDED = {"SOCKET_TIMEOUT": 1, "SOCKET_CONNECT_TIMEOUT": 1}
SAFE = {"maxmemory_policy": "noeviction", "aof_enabled": 1}
STORE = {"BACKEND": "django_idempotency.stores.redis.RedisStore", "OPTIONS": {"CACHE": "keys"}}


@pytest.fixture
def keys(settings, urls):
    """Configure the store "redis" on a cache of these options."""

    def configure(**cache: object) -> None:
        settings.CACHES = {"default": settings.CACHES["default"], "keys": CACHE | {"OPTIONS": BOUNDED} | cache}
        settings.IDEMPOTENCY = {"STORES": {"redis": STORE}}

    urls()
    configure()
    return configure


@pytest.fixture
def asked(keys) -> Callable[..., list[str]]:
    """What the server is said to answer to INFO, and the messages about it."""
    return lambda **info: [
        message.id.removeprefix("django_idempotency.")
        for message in redis_checks.check_server(Told(stores["redis"].redis, info))
    ]


class Told:
    """A real alias, whose server says something else of itself."""

    def __init__(self, alias, info):
        self.alias, self.owner, self.redis, self.said = alias.alias, alias.owner, alias, info
        self.client = self

    def info(self):
        return self.redis.client.info() | self.said

    def config_get(self, name):
        return self.redis.client.config_get(name)


def test_a_bounded_alias_is_fine(ids, keys):
    """Nothing is asked of its server."""
    keys(LOCATION="redis://127.0.0.1:1/0")

    assert ids() == []


@pytest.mark.parametrize(
    "cache",
    [
        {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {}},
        {"BACKEND": "django.core.cache.backends.redis.RedisCache", "OPTIONS": {}},
        {"OPTIONS": BOUNDED | {"CLIENT_CLASS": "django_redis.client.ShardClient"}},
        {"OPTIONS": BOUNDED | {"CONNECTION_POOL_KWARGS": {"decode_responses": True}}, "LOCATION": f"{URL}?x=decodes"},
        {"OPTIONS": BOUNDED | {"CONNECTION_POOL_KWARGS": {"encoding": "utf-16"}}, "LOCATION": f"{URL}?x=utf-16"},
        {"OPTIONS": BOUNDED | {"CONNECTION_POOL_KWARGS": {"encoding": "latin-1"}}, "LOCATION": f"{URL}?x=latin-1"},
        {"OPTIONS": BOUNDED | {"CONNECTION_POOL_KWARGS": {"encoding": "missing"}}, "LOCATION": f"{URL}?x=missing"},
    ],
    ids=["locmem", "Django's own", "ShardClient", "decode_responses", "utf-16", "latin-1", "no encoding"],
)
def test_E012(check, keys, cache):
    """The store would pickle, or has no one connection."""
    keys(**cache)

    [message] = check()

    assert message.id == "django_idempotency.E012"
    assert "'keys'" in message.msg


@pytest.mark.parametrize("name", ["utf8", "UTF-8", "U8"])
def test_another_name_of_UTF_8_is_fine(ids, keys, name):
    keys(OPTIONS=BOUNDED | {"CONNECTION_POOL_KWARGS": {"encoding": name}}, LOCATION=f"{URL}?x={name}")

    assert ids() == []


def test_E012_for_an_alias_that_is_not_there(ids, urls, settings):
    urls()
    settings.IDEMPOTENCY = {"STORES": {"redis": STORE | {"OPTIONS": {"CACHE": "missing"}}}}

    assert ids() == ["E012"]


def test_E012_for_a_replay_cache(ids, urls, settings):
    urls()
    settings.IDEMPOTENCY = {
        "STORES": {
            "default": {
                "BACKEND": "django_idempotency.stores.database.DatabaseStore",
                "OPTIONS": {"REPLAY_CACHE": "default"},
            }
        }
    }

    assert ids() == ["E012"]  # the default cache is Django's


def test_W011(ids, keys):
    """For a store; a replay cache may be away."""
    keys(OPTIONS=BOUNDED | {"IGNORE_EXCEPTIONS": True})
    assert ids() == ["W011"]


def test_W012(ids, keys):
    """An alias whose driver waits for ever."""
    keys(LOCATION=f"{URL}?name=unbounded", OPTIONS={"CONNECTION_POOL_KWARGS": {"socket_timeout": None}})

    assert ids() == ["W012"]


def test_the_servers_are_asked_at_deployment(asked, keys):
    """And not by every command."""
    assert checks.check_servers in registry.registry.deployment_checks

    assert asked(**SAFE) == []


def test_E013(asked):
    """Redis 6 takes no flags of scripts; Valkey counts by itself."""
    assert asked(**SAFE, redis_version="6.2.14", valkey_version="7.0.1") == ["E013"]


def test_W014(asked):
    """A claim could be evicted."""
    assert asked(**SAFE | {"maxmemory_policy": "allkeys-lru"}) == ["W014"]


def test_W015(asked):
    """All would be gone with the server."""
    assert asked(**SAFE | {"aof_enabled": 0}) == ["W015"]


def test_W013(keys):
    """A server that is away is one line, not a traceback."""
    keys(LOCATION="redis://127.0.0.1:1/0")

    [message] = checks.check_servers()

    assert message.id == "django_idempotency.W013"
    assert "'keys'" in message.msg


@idempotent(store="redis", scope=lambda request: "all")
def notify(request):
    return HttpResponse()


def test_W016(ids, keys, settings):
    """The view can be left out of the request's transaction."""
    assert ids(notify) == []
    settings.DATABASES["default"]["ATOMIC_REQUESTS"] = True
    try:
        assert ids(notify) == ["W016"]
        assert ids(transaction.non_atomic_requests(notify)) == []
    finally:
        settings.DATABASES["default"]["ATOMIC_REQUESTS"] = False


class PaymentSerializer(ModelSerializer):
    class Meta:
        model = Payment
        fields = ("amount",)


class Create(IdempotencyMixin, CreateAPIView):
    idempotency = Policy(store="redis", scope=lambda request: "all")
    queryset = Payment.objects.all()
    serializer_class = PaymentSerializer


def test_E007_for_work_in_the_database(ids, keys):
    """A generic view's model is there, and its record is not."""
    assert ids(Create.as_view()) == ["E007"]


def test_E014(settings, urls, ids, monkeypatch):
    """A store for unit tests, where no test runs."""
    urls()
    settings.IDEMPOTENCY = {"STORES": {"mine": {"BACKEND": "django_idempotency.testing.memory.MemoryStore"}}}
    assert ids() == []

    monkeypatch.setattr("django_idempotency.testing.memory.is_under_test", lambda: False)
    assert ids() == ["E014"]
