"""Records of a key are found, expired and forgotten by the test."""

import os
import uuid

import pytest
from django.core.cache import caches

from django_idempotency import once
from django_idempotency.testing import expire, forget, records
from tests.app.serving import is_replay, post

pytestmark = pytest.mark.django_db


def pay(client, key):
    return post(client, url="/pay/", key=key)


def test_an_expired_key_is_new(api):
    """Of that key alone."""
    pay(api, "one"), pay(api, "two")

    assert expire("one") == 1

    assert not is_replay(pay(api, "one"))
    assert is_replay(pay(api, "one"))
    assert is_replay(pay(api, "two"))


def test_all_keys_can_expire(api):
    """Where none is named."""
    pay(api, "one"), pay(api, "two")

    assert expire() == 2
    assert not is_replay(pay(api, "one"))


def test_expiring_nothing_is_an_error(api):
    """It names the keys that there are."""
    pay(api, "one")

    with pytest.raises(LookupError, match=r"No record of key 'two', scope 'me' is stored. .* are: one\."):
        expire("two", scope="me")
    with pytest.raises(LookupError, match="No record of operation 'POST nowhere/'"):
        expire(operation="POST nowhere/")


def test_records_are_found_by_key_scope_and_operation(api, other_api, user):
    """One key of two users is two records."""
    pay(api, "one"), pay(other_api, "one")

    assert {record.operation for record in records("one")} == {"POST pay/"}
    (mine,) = records("one", scope=f"auth.user:{user.pk}")
    assert mine.status == 201
    assert records(operation="POST pay/").count() == 2
    assert not records("two")


@pytest.mark.django_db(transaction=True)
def test_a_replay_cache_answers_no_more(api, settings, worker_id):
    """Neither for a record that has expired, nor for one that was forgotten."""
    url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/15")
    prefix = f"kit-{worker_id}-{uuid.uuid4()}"
    redis = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url, "KEY_PREFIX": prefix}
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}, "replays": redis}
    store = {"BACKEND": "django_idempotency.stores.database.DatabaseStore", "OPTIONS": {"REPLAY_CACHE": "replays"}}
    settings.IDEMPOTENCY = {"STORES": {"default": store}}
    try:
        pay(api, "one"), pay(api, "two")
        assert len(caches["replays"].keys("*")) == 2

        assert expire("one") == 1
        assert forget("two") == 1

        assert not is_replay(pay(api, "one"))
        assert not is_replay(pay(api, "two"))
    finally:
        caches["replays"].delete_pattern("*")


def test_a_store_outside_the_database_wants_an_identity(settings):
    """It finds nothing by a key alone; what it has for the identity is freed."""
    settings.IDEMPOTENCY = {"STORES": {"memory": {"BACKEND": "django_idempotency.testing.memory.MemoryStore"}}}
    runs = []

    @once("kit.sent", key=str, store="memory")
    def send(event):
        runs.append(event)
        return len(runs)

    identity = {"scope": "-", "operation": "kit.sent", "store": "memory"}
    assert [send("one"), send("one")] == [1, 1]
    assert expire("one", **identity) == 1
    assert send("one") == 2
    assert forget("one", **identity) == 1
    assert send("one") == 3
    with pytest.raises(LookupError, match="key 'two'"):
        expire("two", **identity)
    with pytest.raises(TypeError, match="give all three"):
        forget("one", store="memory")


def test_a_forgotten_key_is_new(api):
    """As if its request had never been sent."""
    pay(api, "one")

    assert forget("one") == 1
    assert forget("one") == 0
    assert not is_replay(pay(api, "one"))
