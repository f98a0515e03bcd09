"""A store beside the databases, on the Redis of `REDIS_URL`, and what is in it, written without a request."""

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import caches

from django_idempotency.core.decision import Claimed
from django_idempotency.core.keys import Attempt, Identity
from django_idempotency.core.record import CompletionRecord
from django_idempotency.stores import stores
from tests.lab.caches import NOWHERE, cache, need_redis
from tests.operations.records import ANSWER

TIMEOUT = 10  # seconds
BACKEND = "django_idempotency.stores.redis.RedisStore"


class Keys:
    """The store `redis`. Its records are of `auth.user:1` and `POST charge/` unless a test says otherwise."""

    @property
    def store(self) -> Any:
        return stores["redis"]

    def attempt(
        self, key: str = "key-1", *, scope: str = "auth.user:1", operation: str = "POST charge/", **fields: Any
    ) -> Attempt:
        values = {"request": "POST shop.example charge/", "request_id": "r-1", "fingerprint": b"\x01" * 32, "ttl": 3600}
        return Attempt(identity=Identity(scope, operation, key), **values | fields)

    def claim(self, attempt: Attempt, lease: float = 60) -> Claimed:
        """Let *attempt* be in flight, for *lease* seconds."""
        claim = self.store.claim(attempt, uuid.uuid4().hex, lease, take_over=False)
        assert isinstance(claim, Claimed)
        return claim

    def unsettle(self, attempt: Attempt) -> Claimed:
        """Let the outcome of *attempt* be unknown."""
        claim = self.claim(attempt)
        self.store.mark_unsettled(attempt, claim)
        return claim

    def freeze(self, attempt: Attempt) -> Claimed:
        """Let the lease of *attempt* have run out, while its process may still go on."""
        claim = self.claim(attempt, lease=0.001)
        deadline = time.monotonic() + TIMEOUT
        while self.store.find(None, attempt.identity.digest) is None:  # in flight
            assert time.monotonic() < deadline
        return claim

    def complete(self, attempt: Attempt, answer: CompletionRecord = ANSWER) -> None:
        assert self.store.complete(attempt, self.claim(attempt), answer) is answer

    def found(self, attempt: Attempt) -> Any:
        """What a request with the key of *attempt* finds."""
        return self.store.claim(attempt, uuid.uuid4().hex, 60, take_over=False)

    def plant(self, attempt: Attempt, value: str = "somebody's") -> None:
        """Write what is not the store's where the record of *attempt* would be."""
        record, _claims = self.store._keys(attempt.identity.digest.hex())
        self.store.redis.client.set(record, value)


def identity(attempt: Attempt) -> str:
    """As logs show it."""
    return attempt.identity.digest.hex()


@pytest.fixture
def keys(settings: Any) -> Iterator[Keys]:
    """The store `redis`, whose keys are this test's alone, and are forgotten after it."""
    need_redis()
    settings.CACHES = {**settings.CACHES, "keys": cache(KEY_PREFIX=f"test-{uuid.uuid4()}")}
    settings.IDEMPOTENCY = {"STORES": {"redis": {"BACKEND": BACKEND, "OPTIONS": {"CACHE": "keys"}}}}
    yield Keys()
    caches["keys"].delete_pattern("*")


@pytest.fixture
def away(settings: Any) -> None:
    """A store `away` besides, whose server does not answer."""
    settings.CACHES = {**settings.CACHES, "away": cache(NOWHERE)}
    configured = {"away": {"BACKEND": BACKEND, "OPTIONS": {"CACHE": "away"}}}
    others = getattr(settings, "IDEMPOTENCY", {}).get("STORES", {})
    settings.IDEMPOTENCY = {"STORES": {**others, **configured}}
