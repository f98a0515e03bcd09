"""A project with both observers and a RedisStore, and no database, for servers of several processes."""

import os

from tests.lab.caches import cache
from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS

ROOT_URLCONF = "tests.observers.served"
DATABASES: dict[str, object] = {}
MIDDLEWARE: list[str] = []
INSTALLED_APPS = [
    *INSTALLED_APPS,
    "django_idempotency.contrib.prometheus",
    "django_idempotency.contrib.opentelemetry",
]
CACHES = {"default": cache(KEY_PREFIX=os.environ.get("TESTS_PREFIX", ""))}
IDEMPOTENCY = {
    "COUNTS": False,
    "STORES": {"redis": {"BACKEND": "django_idempotency.stores.redis.RedisStore", "OPTIONS": {"CACHE": "default"}}},
    "STORE": "redis",
}
