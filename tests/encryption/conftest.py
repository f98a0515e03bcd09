"""Keys, and settings with them."""

from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from django.core.cache import caches

from django_idempotency.protection import functions
from tests.app.serving import drf, serve
from tests.app.views import answer, make_payment
from tests.lab.caches import LOCAL, cache, need_redis
from tests.operations.pages import operator

__all__ = ["operator", "serve"]

SECRET = "4111-1111-1111-1111"
OLD, NEW, OTHER = (b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3))
REDIS = "django_idempotency.stores.redis.RedisStore"
DATABASE = "django_idempotency.stores.database.DatabaseStore"


class KeysByScope:
    """A key for each scope, until it is dropped."""

    def __init__(self):
        self.keys = {}
        self.is_away = False

    def for_scope(self, scope):
        self.check()
        return "1", self.keys.setdefault(scope, len(self.keys).to_bytes(32))

    def get(self, id, scope):
        self.check()
        return self.keys.get(scope)

    def drop(self, scope):
        self.check()
        self.keys.pop(scope, None)

    def check(self):
        if self.is_away:
            raise ConnectionError("the key service is away")


@pytest.fixture
def encrypt(settings: Any) -> Callable[..., None]:
    """Encrypt with these keys, by id, and further options; or not at all."""

    def encrypt(keys: Mapping[str, str] | object = None, **options: Any) -> None:
        setting = dict(getattr(settings, "IDEMPOTENCY", {}))
        setting.pop("ENCRYPTION", None)
        settings.IDEMPOTENCY = setting if keys is None else setting | {"ENCRYPTION": {"KEYS": keys} | options}

    return encrypt


@pytest.fixture
def keys(encrypt):
    keys = KeysByScope()
    encrypt(keys, REQUIRE=True)
    return keys


@pytest.fixture
def stores(settings: Any, worker_id: str) -> Any:
    """The store `redis`, and a replay cache before the default one. Returns the raw client of both."""
    need_redis()
    settings.CACHES = {"default": LOCAL, "keys": cache(KEY_PREFIX=f"sealed-{worker_id}")}
    settings.IDEMPOTENCY = {
        **getattr(settings, "IDEMPOTENCY", {}),
        "STORES": {
            "default": {"BACKEND": DATABASE, "OPTIONS": {"REPLAY_CACHE": "keys"}},
            "redis": {"BACKEND": REDIS, "OPTIONS": {"CACHE": "keys"}},
        },
    }
    caches["keys"].delete_pattern("*")
    yield caches["keys"].client.get_client()
    caches["keys"].delete_pattern("*")


def pay(request: Any) -> Any:
    """Pays, and answers with a secret in a header and in the body."""
    make_payment(request)
    return answer(request, {"card": SECRET, "reply": "done"}, headers={"X-Card": SECRET})


@pytest.fixture
def paying(serve: Any) -> None:
    serve(drf(pay))


@pytest.fixture(autouse=True)
def no_other_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of other tests have stores that are not configured here."""
    monkeypatch.setattr(functions, "once_functions", {})
