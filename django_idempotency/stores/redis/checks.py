"""The system checks of a django-redis alias: of its settings, and of its server under `--deploy`."""

from collections.abc import Iterator
from typing import Any

from django.core.cache import caches
from django.core.checks import CheckMessage, Error, Warning

from django_idempotency.exceptions import PolicyError
from django_idempotency.stores.redis.client import RedisAlias

OLDEST_REDIS, OLDEST_VALKEY = (7, 0), (7, 2)


def check_settings(redis: RedisAlias, *, is_cache: bool = False) -> list[CheckMessage]:
    """E012, W011, W012. No server is asked. *is_cache*: is it the replay cache, which may forget and be away?"""
    try:
        client = redis.client
    except PolicyError as error:
        return [
            Error(
                str(error),
                hint=f"Configure CACHES[{redis.alias!r}] with the BACKEND 'django_redis.cache.RedisCache', and without"
                " decode_responses or an encoding.",
                id="django_idempotency.E012",
            )
        ]
    except Exception as error:  # Sentinel and Cluster clients connect when they are made
        return [_silent(redis, error)]
    return [*_check_options(redis, client, is_cache=is_cache)]


def _check_options(redis: RedisAlias, client: Any, *, is_cache: bool) -> Iterator[CheckMessage]:
    cache: Any = caches[redis.alias]
    if cache._ignore_exceptions and not is_cache:
        yield Warning(
            f"{redis.owner}: the cache {redis.alias!r} has IGNORE_EXCEPTIONS, which does not apply here: while its"
            " server is away, requests with a key are refused with 503, and none runs unprotected.",
            hint="Give the store an alias of its own, without IGNORE_EXCEPTIONS, or silence this check.",
            id="django_idempotency.W011",
        )
    if _timeout(client) is None:
        yield Warning(
            f"{redis.owner}: the cache {redis.alias!r} has no SOCKET_TIMEOUT, so a frozen server blocks requests for as"
            " long as it is frozen.",
            hint=f"Set SOCKET_TIMEOUT and SOCKET_CONNECT_TIMEOUT in CACHES[{redis.alias!r}]['OPTIONS'], in seconds."
            " Aliases with one LOCATION share the options of the first that connects.",
            id="django_idempotency.W012",
        )


def check_server(redis: RedisAlias) -> list[CheckMessage]:
    """E013, W013 to W015. The server is asked."""
    try:
        client = redis.client
    except PolicyError:
        return []  # E012
    except Exception as error:  # as in `check_settings`
        return [_silent(redis, error)]
    try:
        info = _of_one_node(client.info())
    except Exception as error:  # of the driver, or of the socket
        return [_silent(redis, error)]
    return [*_version(redis, info), *_losses(redis, client, info)]


def _silent(redis: RedisAlias, error: Exception) -> CheckMessage:
    return Warning(
        f"{redis.owner}: the server behind the cache {redis.alias!r} does not answer, so it was not checked: {error}",
        hint="Start the server, or correct its entry in CACHES.",
        id="django_idempotency.W013",
    )


def _version(redis: RedisAlias, info: dict[str, Any]) -> Iterator[CheckMessage]:
    is_valkey = "valkey_version" in info
    version = str(info.get("valkey_version") or info.get("redis_version") or "0")
    oldest = OLDEST_VALKEY if is_valkey else OLDEST_REDIS
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < oldest:
        yield Error(
            f"{redis.owner}: the server behind the cache {redis.alias!r} is {'Valkey' if is_valkey else 'Redis'}"
            f" {version}.",
            hint="Use Redis 7.0 or newer, or Valkey 7.2 or newer.",
            id="django_idempotency.E013",
        )


def _losses(redis: RedisAlias, client: Any, info: dict[str, Any]) -> Iterator[CheckMessage]:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield Warning(
            f"{redis.owner}: the server behind the cache {redis.alias!r} has the maxmemory-policy {policy!r}: it may"
            " evict a claim whose request runs, or a stored answer, and the next request with the key runs again.",
            hint="Set maxmemory-policy to noeviction, on a server for data that must not be forgotten.",
            id="django_idempotency.W014",
        )
    if not info.get("aof_enabled"):
        saves = _configured(client, "save")
        yield Warning(
            f"{redis.owner}: the server behind the cache {redis.alias!r} has no append-only file"
            f"{'' if saves else ' and takes no snapshots'}: when it is killed, it forgets"
            f" {'the last claims and answers' if saves else 'all claims and answers'}, and requests with their keys run"
            " again.",
            hint="Set appendonly to yes, and appendfsync to always if no answer may be lost.",
            id="django_idempotency.W015",
        )


def _configured(client: Any, name: str) -> str:
    try:
        return str(_of_one_node(client.config_get(name)).get(name, ""))
    except Exception:  # a hosted server may refuse CONFIG
        return ""


def _of_one_node(answer: dict[str, Any]) -> dict[str, Any]:
    """Take the answer of one node, because a cluster's client returns those of all, by name."""
    first = next(iter(answer.values()), None)
    return first if isinstance(first, dict) and ":" in next(iter(answer)) else answer


def _timeout(client: Any) -> Any:
    """The seconds after which a call fails, or None if it never does."""
    pool = getattr(client, "connection_pool", None)
    if pool is None:  # a cluster's
        return client.get_connection_kwargs().get("socket_timeout") if hasattr(client, "get_connection_kwargs") else 1.0
    if "socket_timeout" in pool.connection_kwargs:
        return pool.connection_kwargs["socket_timeout"]
    try:
        return pool.connection_class().socket_timeout  # the driver's own default
    except Exception:  # a class that cannot be made without arguments
        return None
