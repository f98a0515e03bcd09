"""A django-redis alias: the raw connection and the keys of the cache, but never its pickle."""

import codecs
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from types import FunctionType
from typing import Any

from django.core.cache import caches
from django.core.cache.backends.base import InvalidCacheBackendError

from django_idempotency.exceptions import PolicyError
from django_idempotency.stores.base import Fault

# Errors of the driver after which nothing was done, or the outcome is unknown. Those of a cluster have no common base.
AWAY = (
    "ConnectionError",
    "TimeoutError",
    "OutOfMemoryError",
    "ReadOnlyError",
    "ClusterError",
    "RedisClusterException",
    "TryAgainError",
)
# Errors of the server for which the driver has no class, by the beginning of their message.
NOTHING_DONE = ("BUSY ", "MISCONF", "NOREPLICAS")


GET = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n"
# Options of the driver's on which its client or its pool acts.
CLIENT_OPTIONS = ("credential_provider", "health_check_interval", "retry", "retry_on_error", "retry_on_timeout")
DEFINED_IN = os.path.join("redis", "client.py")
SCANNED = 1000  # keys that the server looks at in one call


class RedisAlias:
    """
    The *alias* of a django-redis cache; errors name *owner* and its *option*. It connects at first use, and one client
    serves all threads of a process.
    """

    def __init__(self, alias: str, owner: str, option: str) -> None:
        if not isinstance(alias, str) or not alias:
            raise PolicyError(f"{owner}: option {option!r} must be the alias of a django-redis cache, not {alias!r}.")
        self.alias = alias
        self.owner = owner
        self._scripts: dict[str, Any] = {}
        self._idle: deque[Any] = deque()  # connections of our own, as many as were used at once

    @cached_property
    def client(self) -> Any:
        """
        The client of the primary. Raises `PolicyError` if the alias is not configured, is not django-redis's, or does
        not encode strings as UTF-8.
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
                f"{self.owner}: the cache {self.alias!r} decodes what it reads, and stored answers are bytes. Take"
                " decode_responses out of its options."
            )
        if not _is_utf_8(encoder.encoding):
            raise PolicyError(
                f"{self.owner}: the cache {self.alias!r} encodes strings as {encoder.encoding!r}, and records are"
                " UTF-8. Take encoding out of its options."
            )
        return client

    @cached_property
    def make_key(self) -> Callable[[str], str]:
        """A function that turns a name into a key of the alias, with its prefix and version, or by its KEY_FUNCTION."""
        cache: Any = caches[self.alias]
        key_function, prefix, version = cache.key_func, cache.key_prefix, cache.version
        return lambda name: str(key_function(name, prefix, version))

    @cached_property
    def _new_connection(self) -> Any:
        """
        A function that makes a connection of the driver's; None if its client has more to do than to send a call to one
        server: another class of client or pool, one of `CLIENT_OPTIONS`, or somebody who traces its calls.
        """
        from redis import ConnectionPool, Redis

        pool: Any = getattr(self.client, "connection_pool", None)  # a Cluster's client has one for each node
        if type(self.client) is not Redis or type(pool) is not ConnectionPool or _is_patched(Redis.execute_command):
            return None
        kwargs = pool.connection_kwargs
        if getattr(pool, "cache", None) or any(kwargs.get(name) for name in CLIENT_OPTIONS):
            return None
        return lambda: pool.connection_class(**kwargs)

    def _ask(self, pack: Callable[[Any], Iterable[bytes]]) -> Any:
        """
        Send what *pack* makes for a connection of our own, and read the answer, without what the driver's pool and
        client do around each call, which costs a request more than the call itself. Raises the driver's errors.
        """
        try:
            connection: Any = self._idle.pop()
        except IndexError:
            connection = self._new_connection()
        else:
            if connection.pid != os.getpid() or not _is_open(connection):  # before a fork; closed by the server
                connection.disconnect()
                connection = self._new_connection()
        try:
            connection.send_packed_command(pack(connection), check_health=False)
            answer = connection.read_response()
        except BaseException as error:
            self._put_away(connection, error)
            raise
        self._idle.append(connection)
        return answer

    def _put_away(self, connection: Any, error: BaseException) -> None:
        """Keep *connection* if *error* was the server's answer. Otherwise close it, as its answer may still arrive."""
        from redis.exceptions import ConnectionError, ResponseError

        if isinstance(error, ResponseError):
            self._idle.append(connection)
            return
        connection.disconnect()
        if isinstance(error, ConnectionError):  # what has cut this one off has done so to those that are idle
            with suppress(IndexError):
                while True:
                    self._idle.pop().disconnect()

    def get(self, key: str) -> bytes | None:
        """GET *key*, twice if the connection was cut off. Raises the driver's errors."""
        if self._new_connection is None:
            return self.client.get(key)  # type: ignore[no-any-return]
        name = key.encode()
        message = [GET % (len(name), name)]
        try:
            return self._ask(lambda connection: message)  # type: ignore[no-any-return]
        except Exception as error:
            from redis.exceptions import ConnectionError

            if not isinstance(error, ConnectionError):
                raise
        return self._ask(lambda connection: message)  # type: ignore[no-any-return]

    def scan(self, name: str) -> Iterator[bytes]:
        """
        Yield the keys of hashes whose name begins with *name*, perhaps twice; or all hashes, if a KEY_FUNCTION of the
        project's hides the names.
        """
        key = self.make_key(name)
        match = re.sub(r"([*?^\[\]\\])", r"\\\1", key) + "*" if key.endswith(name) else None
        yield from self.client.scan_iter(match=match, count=SCANNED, _type="hash")

    def run(self, script: str, keys: Sequence[str], arguments: Sequence[Any] = ()) -> Any:
        """Run *script* (its source) on *keys*. The server loads it only if it does not know it."""
        registered = self._scripts.get(script)
        if registered is None:
            registered = self._scripts.setdefault(script, self.client.register_script(script))
        if self._new_connection is not None:
            call = ("EVALSHA", registered.sha, len(keys), *keys, *arguments)
            try:
                return self._ask(lambda connection: connection.pack_command(*call))
            except Exception as error:
                from redis.exceptions import NoScriptError

                if not isinstance(error, NoScriptError):
                    raise
        return registered(keys, arguments)


def _is_patched(function: object) -> bool:
    """Has somebody put another function, or an object, in the place of the driver's?"""
    return type(function) is not FunctionType or not function.__code__.co_filename.endswith(DEFINED_IN)


def _is_open(connection: Any) -> bool:
    """Is an idle *connection* neither closed by the server nor in the middle of an answer?"""
    try:
        return not connection.can_read()
    except Exception:  # the driver's ConnectionError, or the socket's own
        return False


def _is_utf_8(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name == "utf-8"
    except LookupError:
        return False


def classify(error: Exception) -> Fault:
    """Say what an *error* of the driver means before the handler has run."""
    import redis.exceptions as driver

    if isinstance(error, (OSError, *(getattr(driver, name) for name in AWAY if hasattr(driver, name)))):
        return Fault.UNAVAILABLE
    if isinstance(error, driver.ResponseError) and str(error).startswith(NOTHING_DONE):
        return Fault.UNAVAILABLE
    return Fault.OTHER
