"""
The packages, each in its best configuration: the fastest one that its documentation names and that keeps a key apart.

What imports a package does so inside a method, which only a worker in that package's environment calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# What every worker needs beside the package. The package decides which Django it gets.
COMMON = ("dj-database-url>=2.3", "djangorestframework>=3.16", "psycopg[binary]>=3.2")
REPOSITORY = "--editable=."


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Where a worker stores its things."""

    database_url: str
    redis_url: str
    namespace: str  # of keys in a Redis that others use, too


class Contender:
    """One package in one configuration."""

    package: str  # the name on PyPI
    requirements: tuple[str, ...]  # of its environment, beside COMMON
    keys_in: str  # the storage of its keys, as the table names it
    needs_redis = False
    configuration: str  # a sentence for the page
    apps: tuple[str, ...] = ()
    middleware: tuple[str, ...] = ()

    def settings(self, services: Services) -> dict[str, Any]:
        """Django settings beside those that all contenders have."""
        return {}

    def database(self) -> dict[str, Any]:
        """Entries for `DATABASES["default"]`."""
        return {}

    def prepare(self, services: Services) -> None:
        """What a new database needs beside `migrate`."""

    def protect(self, view: type[Any], services: Services) -> type[Any]:
        """The DRF *view*, protected."""
        return view


class Ours(Contender):
    package = "django-idempotency"
    requirements = (REPOSITORY,)
    keys_in = "PostgreSQL"
    configuration = (
        "`@idempotent` on the handler, no settings. With the option `in_flight` at `wait` the second of two at once"
        " would wait, too."
    )
    apps = ("django_idempotency",)

    def protect(self, view: type[Any], services: Services) -> type[Any]:
        from django_idempotency import idempotent

        return type("Protected", (view,), {"post": idempotent(view.post)})


class OursWithReplayCache(Ours):
    keys_in = "PostgreSQL, with a replay cache in Redis"
    needs_redis = True
    configuration = "The same with the store's option `REPLAY_CACHE`."
    redis_only = False

    def settings(self, services: Services) -> dict[str, Any]:
        stores = "django_idempotency.stores"
        in_redis = {"BACKEND": f"{stores}.redis.RedisStore", "OPTIONS": {"CACHE": "redis"}}
        cached = {"BACKEND": f"{stores}.database.DatabaseStore", "OPTIONS": {"REPLAY_CACHE": "redis"}}
        return {
            "CACHES": {
                "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
                "redis": {
                    "BACKEND": "django_redis.cache.RedisCache",
                    "LOCATION": services.redis_url,
                    "KEY_PREFIX": services.namespace,
                },
            },
            "IDEMPOTENCY": {"STORES": {"default": in_redis if self.redis_only else cached}},
        }


class OursOnRedis(OursWithReplayCache):
    keys_in = "Redis"
    configuration = (
        "The same on the RedisStore, which is for work that is not in the database. What a killed process has done it"
        " cannot know: retries are refused until an operator has settled the outcome, or `uncertain` lets them run."
    )
    redis_only = True


class Idemkit(Contender):
    package = "idemkit"
    requirements = ("idemkit[postgres,redis]",)
    keys_in = "PostgreSQL"
    configuration = (
        "The mixin `idempotent_view` with the user as its `scope`, on its `PostgresBackend`. A claim lasts 30 s by"
        " default (`lease_ttl_seconds`), and a request that meets one waits for up to 10 s. Its README lists when work"
        " can run twice, a completion that is lost among them."
    )
    local_cache = False

    def prepare(self, services: Services) -> None:
        import asyncio

        from idemkit.backends.postgres import init_pg

        asyncio.run(init_pg(services.database_url))

    def protect(self, view: type[Any], services: Services) -> type[Any]:
        from idemkit import HttpConfig
        from idemkit.contrib.drf import idempotent_view

        config = HttpConfig(scope=lambda request: str(request.user.pk), use_local_cache=self.local_cache)
        return type("Protected", (idempotent_view(backend=self.backend(services), config=config), view), {})

    def backend(self, services: Services) -> Any:
        from idemkit import PostgresBackend

        return PostgresBackend.from_url(services.database_url)


class IdemkitOnRedis(Idemkit):
    keys_in = "Redis"
    needs_redis = True
    configuration = "The same mixin on its `RedisBackend`."

    def prepare(self, services: Services) -> None:
        pass

    def backend(self, services: Services) -> Any:
        from idemkit import RedisBackend

        return RedisBackend.from_url(services.redis_url, namespace=services.namespace)


class IdemkitOnRedisWithCache(IdemkitOnRedis):
    keys_in = "Redis, with a cache in the process"
    configuration = (
        "The same with `use_local_cache`: its replay is one by the process that has the answer in its own memory."
    )
    local_cache = True


class DrfIdempotency(Contender):
    package = "drf-idempotency"
    requirements = ("drf-idempotency[redis]",)
    keys_in = "PostgreSQL"
    configuration = (
        "`IdempotencyMiddleware` on its `DatabaseBackend`. It replays before DRF authenticates, so its replay is"
        " without the look-up of the token that all others make. A claim lasts 30 s by default (`LOCK_TTL_SECONDS`)."
        " Its decorator is for views that return an `HttpResponse`."
    )
    apps = ("drf_idempotency",)
    middleware = ("drf_idempotency.middleware.IdempotencyMiddleware",)

    def settings(self, services: Services) -> dict[str, Any]:
        return {"IDEMPOTENCY": {"BACKEND": "drf_idempotency.backends.database.DatabaseBackend"}}


class DrfIdempotencyOnRedis(DrfIdempotency):
    keys_in = "Redis"
    needs_redis = True
    configuration = "The same middleware on its `RedisBackend`."

    def settings(self, services: Services) -> dict[str, Any]:
        return {
            "IDEMPOTENCY": {
                "BACKEND": "drf_idempotency.backends.redis.RedisBackend",
                "BACKEND_OPTIONS": {"url": services.redis_url, "key_prefix": f"{services.namespace}:"},
            }
        }


class DrfIdempotencykey(Contender):
    package = "drf-idempotencykey"
    requirements = ("drf-idempotencykey",)
    keys_in = "PostgreSQL"
    configuration = (
        "`DrfIdempotencyKeyMixin` with Django's `ATOMIC_REQUESTS`: one transaction for the claim, the work and the"
        " answer. Without that setting it commits each by itself."
    )
    apps = ("drf_idempotencykey",)

    def database(self) -> dict[str, Any]:
        return {"ATOMIC_REQUESTS": True}

    def protect(self, view: type[Any], services: Services) -> type[Any]:
        from drf_idempotencykey.mixins import DrfIdempotencyKeyMixin

        return type("Protected", (DrfIdempotencyKeyMixin, view), {})


CONTENDERS: dict[str, Contender] = {
    "ours": Ours(),
    "ours-replay-cache": OursWithReplayCache(),
    "ours-redis": OursOnRedis(),
    "idemkit": Idemkit(),
    "idemkit-redis": IdemkitOnRedis(),
    "idemkit-redis-cache": IdemkitOnRedisWithCache(),
    "drf-idempotency": DrfIdempotency(),
    "drf-idempotency-redis": DrfIdempotencyOnRedis(),
    "drf-idempotencykey": DrfIdempotencykey(),
}
