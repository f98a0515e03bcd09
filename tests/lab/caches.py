"""The Redis of this run, as entries of `CACHES` name it."""

import os
from typing import Any

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/15")
NOWHERE = "redis://127.0.0.1:1/0"  # where nobody listens
LOCAL = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}


def cache(url: str = REDIS_URL, *, options: dict[str, Any] | None = None, timeout: float = 5, **entry: Any) -> Any:
    """The entry for the server at *url*. A call waits for *timeout* seconds; *options* are django-redis's own."""
    bounded = {"SOCKET_TIMEOUT": timeout, "SOCKET_CONNECT_TIMEOUT": timeout}
    backend = "django_redis.cache.RedisCache"
    return {"BACKEND": backend, "LOCATION": url, "OPTIONS": bounded | (options or {}), **entry}
