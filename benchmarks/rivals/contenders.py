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
    folder: str  # for files, which the run deletes


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
            "CACHES": caches(services),
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


class DjangoIdempotencyKey(Contender):
    package = "django-idempotency-key"
    requirements = ("django-idempotency-key",)
    keys_in = "Redis"
    needs_redis = True
    configuration = (
        "`ExemptIdempotencyKeyMiddleware` and the mark `@idempotency_key`, with `CacheKeyStorage` and"
        " `MultiProcessRedisLock`. It replays before DRF authenticates, to who sends the same `Authorization` header."
        " The lock is held while a key is looked up, not while its handler runs."
    )
    middleware = ("idempotency_key.middleware.ExemptIdempotencyKeyMiddleware",)

    def settings(self, services: Services) -> dict[str, Any]:
        return {
            "CACHES": caches(services),
            "IDEMPOTENCY_KEY": {
                "CONFLICT_STATUS_CODE": None,  # the stored status; 409 by default
                "STORAGE": {"CLASS": "idempotency_key.storage.CacheKeyStorage", "CACHE_NAME": "redis"},
                "LOCK": {
                    "CLASS": "idempotency_key.locks.redis.MultiProcessRedisLock",
                    "LOCATION": services.redis_url,
                    "NAME": f"{services.namespace}_lock",
                },
            },
        }

    def protect(self, view: type[Any], services: Services) -> type[Any]:
        from idempotency_key.decorators import idempotency_key

        def as_view(cls: Any, **initial: Any) -> Any:
            return idempotency_key(view.as_view(**initial))

        return type("Protected", (view,), {"as_view": classmethod(as_view)})


class DjangorestframeworkIdempotencyKey(Contender):
    package = "djangorestframework-idempotency-key"
    requirements = ("djangorestframework-idempotency-key",)
    keys_in = "PostgreSQL"
    configuration = (
        "Its middleware, and `simple_idempotency_key_method` on the handler: the answer is recorded in the handler's"
        " transaction, the key in one of its own before it. `IDEMPOTENCY_KEY_LOCK_TIMEOUT` has no default; 30 s here."
    )
    apps = ("rest_framework_idempotency_key",)
    middleware = ("rest_framework_idempotency_key.middleware.IdempotencyKeyMiddleware",)

    def settings(self, services: Services) -> dict[str, Any]:
        return {"IDEMPOTENCY_KEY_LOCK_TIMEOUT": 30}

    def protect(self, view: type[Any], services: Services) -> type[Any]:
        from rest_framework_idempotency_key.decorators import simple_idempotency_key_method

        return type("Protected", (view,), {"post": simple_idempotency_key_method(view.post)})


class DrfIdem(Contender):
    package = "drf-idem"
    requirements = ("drf-idem", "django-redis>=5.4")
    keys_in = "Redis"
    needs_redis = True
    configuration = (
        "`IdempotencyMiddleware` on a cache in Redis. It runs the handler each time, and answers with what the first"
        " run answered."
    )
    apps = ("drf_idem",)
    middleware = ("drf_idem.middleware.IdempotencyMiddleware",)

    def settings(self, services: Services) -> dict[str, Any]:
        return {
            "CACHES": caches(services),
            "DRF_IDEM": {"HEADER": "HTTP_IDEMPOTENCY_KEY", "CACHE_BACKEND": "redis"},
        }


class Guard(Contender):
    """
    A guard of functions, put around the handler's work and the rendering of its answer, behind DRF's authentication.

    It stores the rendered content alone. Status and headers are the view's own.
    """

    reused: tuple[str, ...] = ()  # names of the exceptions that say so
    in_flight: tuple[str, ...] = ()

    def guard(self, services: Services) -> Any:
        """Called once: `run(key, body, work)`, where *work* returns the answer's content."""
        raise NotImplementedError

    def protect(self, view: type[Any], services: Services) -> type[Any]:
        from django.http import HttpResponse

        guard = self.guard(services)

        def post(handler: Any, request: Any) -> Any:
            def work() -> str:
                return str(handler.renderer_classes[0]().render(view.post(handler, request).data), "utf-8")

            key = f"{request.user.pk}:{request.headers['Idempotency-Key']}"
            try:
                content = guard(key, dict(request.data), work)
            except Exception as error:
                name = type(error).__name__
                if name not in self.reused + self.in_flight:
                    raise
                return HttpResponse(name, status=422 if name in self.reused else 409)
            return HttpResponse(content, status=201, content_type="application/json")

        return type("Protected", (view,), {"post": post})


class Justonce(Guard):
    package = "justonce"
    requirements = ("justonce[django]",)
    keys_in = "PostgreSQL"
    configuration = (
        "`Idempotent.run` around the handler, on its `DjangoStore` inside `transaction.atomic()`, as its documentation"
        " says for effects in the same database. The content alone is stored."
    )
    reused = ("KeyReuseError",)
    in_flight = ("OperationInFlightError",)

    def prepare(self, services: Services) -> None:
        from justonce.stores.django_store import DjangoStore

        DjangoStore().create_table()

    def guard(self, services: Services) -> Any:
        from django.db import transaction
        from justonce.core import Idempotent
        from justonce.stores.django_store import DjangoStore

        engine = Idempotent(DjangoStore())

        def run(key: str, body: dict[str, Any], work: Any) -> Any:
            with transaction.atomic():
                return engine.run(key, work, payload=body).value

        return run


class AgentOnce(Guard):
    package = "agent-once"
    requirements = ("agent-once[postgres]",)
    keys_in = "PostgreSQL"
    configuration = (
        "`Once.execute` around the handler, on its `PostgresStore`, whose statements are each committed by themselves."
        " A claim whose process died stays, until its `verify` or an operator says what happened. The content alone is"
        " stored, without status and headers."
    )
    reused = ("KeyConflict",)
    in_flight = ("EffectPending",)

    def guard(self, services: Services) -> Any:
        from once import Once
        from once.postgres import PostgresStore

        once = Once(store=PostgresStore(services.database_url))

        def run(key: str, body: dict[str, Any], work: Any) -> Any:
            def pay(**fields: Any) -> Any:
                return work()

            return once.execute(pay, key=key, tool_name="pay", **body)

        return run


class ExactlyOnce(Guard):
    package = "exactly-once"
    requirements = ("exactly-once[postgres]",)
    keys_in = "PostgreSQL"
    configuration = (
        "`once` around the handler, on its `PostgresStore` at SERIALIZABLE, in transactions of its own. A claim whose"
        " process died is quarantined, until a policy or an operator says what happened. The content alone is stored."
    )
    reused = ("KeyReuseError",)
    in_flight = ("QuarantinedError",)

    def guard(self, services: Services) -> Any:
        from exactly_once import Store, once

        store = Store.postgres(services.database_url)

        def run(key: str, body: dict[str, Any], work: Any) -> Any:
            guarded = once(store, key=lambda **fields: key, fingerprint=lambda **fields: fields)
            return guarded(lambda **fields: work())(**body)

        return run


class Idemkey(Guard):
    package = "idemkey"
    requirements = ("idemkey",)
    keys_in = "an SQLite file of the machine"
    configuration = (
        "`guard` around the handler, on its `DedupStore`: a file, which other machines do not see. A claim lasts 300 s"
        " by default, and a request that meets one waits for it, 10 s here (`inflight_timeout`). A replay asks no"
        " server but for the token. The content alone is stored."
    )
    reused = ("FingerprintMismatchError",)
    in_flight = ("InflightTimeoutError",)

    def guard(self, services: Services) -> Any:
        from idemkey import guard
        from idemkey.store import DedupStore

        store = DedupStore(f"{services.folder}/{services.namespace}.db")

        def run(key: str, body: dict[str, Any], work: Any) -> Any:
            def pay(**fields: Any) -> Any:
                return work()

            return guard(pay, store=store, inflight_timeout=10)(idemkey=key, **body)

        return run


def caches(services: Services) -> dict[str, Any]:
    """The setting `CACHES` with an alias `redis`, of this contender alone."""
    return {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        "redis": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": services.redis_url,
            "KEY_PREFIX": services.namespace,
        },
    }


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
    "django-idempotency-key": DjangoIdempotencyKey(),
    "djangorestframework-idempotency-key": DjangorestframeworkIdempotencyKey(),
    "drf-idem": DrfIdem(),
    "justonce": Justonce(),
    "agent-once": AgentOnce(),
    "exactly-once": ExactlyOnce(),
    "idemkey": Idemkey(),
}
