"""A django-redis alias as the package uses it: its raw connection and its keys, never the cache's pickle."""

import codecs
from collections.abc import Callable
from functools import cached_property
from typing import Any

from django.core.cache import caches
from django.core.cache.backends.base import InvalidCacheBackendError

from django_idempotency.exceptions import PolicyError
from django_idempotency.stores.base import Fault

# The driver's errors that say that nothing was done, or that nobody knows. A cluster's are no others' subclasses.
AWAY = (
    "ConnectionError",
    "TimeoutError",
    "OutOfMemoryError",
    "ReadOnlyError",
    "ClusterError",
    "RedisClusterException",
    "TryAgainError",
)
# Those that it has no class for, by the code that the server's words begin with.
NOTHING_DONE = ("BUSY ", "MISCONF", "NOREPLICAS")


class RedisAlias:
    """
    The alias of a django-redis cache, which *owner* names in its errors. Nothing is connected before it is used; one
    client serves all threads of a process.
    """

    def __init__(self, alias: str, owner: str) -> None:
        self.alias = alias
        self.owner = owner

    @cached_property
    def client(self) -> Any:
        """
        The client of the primary. Raises `PolicyError` for an alias that is not configured, not django-redis's, or
        whose text is not UTF-8.
        """
        from django_redis import get_redis_connection  # type: ignore[import-untyped]

        try:
            client = get_redis_connection(self.alias, write=True)
        except InvalidCacheBackendError as error:
            raise PolicyError(f"{self.owner}: CACHES has no {self.alias!r}.") from error
        except (NotImplementedError, TypeError) as error:  # TypeError: its ShardClient, which has a client for each key
            raise PolicyError(
                f"{self.owner}: the cache {self.alias!r} must be a django-redis one (django_redis.cache.RedisCache)"
                " with a raw connection, for one server, Sentinel or Cluster."
            ) from error
        encoder = client.get_encoder()
        if encoder.decode_responses:
            raise PolicyError(
                f"{self.owner}: the cache {self.alias!r} decodes what it reads as text, and answers are bytes. Take"
                " decode_responses out of its options."
            )
        if not _is_utf_8(encoder.encoding):
            raise PolicyError(
                f"{self.owner}: the cache {self.alias!r} encodes text as {encoder.encoding!r}, and what is stored is"
                " UTF-8. Take encoding out of its options."
            )
        return client

    @cached_property
    def make_key(self) -> Callable[[str], str]:
        """Makes the alias's own key of a name: with its prefix and version, or by its KEY_FUNCTION."""
        cache: Any = caches[self.alias]
        key_function, prefix, version = cache.key_func, cache.key_prefix, cache.version
        return lambda name: str(key_function(name, prefix, version))

    def script(self, source: str) -> Any:
        """*source* as a callable of keys and arguments, which is loaded where the server does not know it."""
        return self.client.register_script(source)


def _is_utf_8(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name == "utf-8"
    except LookupError:
        return False


def classify(error: Exception) -> Fault:
    """What *error* of a driver's call that was to change something means."""
    import redis.exceptions as driver

    if isinstance(error, (OSError, *(getattr(driver, name) for name in AWAY if hasattr(driver, name)))):
        return Fault.UNAVAILABLE
    if isinstance(error, driver.ResponseError) and str(error).startswith(NOTHING_DONE):
        return Fault.UNAVAILABLE
    return Fault.OTHER
