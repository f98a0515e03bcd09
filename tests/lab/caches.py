"""The Redis of this run, as entries of `CACHES` name it."""

import os
from typing import Any

import pytest

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/15")
NOWHERE = "redis://127.0.0.1:1/0"  # where nobody listens
LOCAL = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}


def need_redis() -> None:
    """Skip the test if this run has no Redis. In CI that fails it."""
    if not os.environ.get("REDIS_URL"):
        end = pytest.fail if os.environ.get("REQUIRE_SERVERS", "") not in ("", "0") else pytest.skip
        end("REDIS_URL names no server.")


def cache(url: str = REDIS_URL, *, options: dict[str, Any] | None = None, timeout: float = 5, **entry: Any) -> Any:
    """The entry for the server at *url*. A call waits for *timeout* seconds; *options* are django-redis's own."""
    bounded = {"SOCKET_TIMEOUT": timeout, "SOCKET_CONNECT_TIMEOUT": timeout}
    backend = "django_redis.cache.RedisCache"
    return {"BACKEND": backend, "LOCATION": url, "OPTIONS": bounded | (options or {}), **entry}
