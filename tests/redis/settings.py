"""The test project with a RedisStore, and no database: a request that asked for one would fail."""

import json
import os
from datetime import timedelta

from tests.settings import *  # noqa: F403

ROOT_URLCONF = "tests.redis.urls"
DATABASES = {}
MIDDLEWARE = []
IDEMPOTENCY = {
    "COUNTS": False,
    "STORES": {"redis": {"BACKEND": "django_idempotency.stores.redis.RedisStore", "OPTIONS": {"CACHE": "default"}}},
}
# For a process that is started with its settings, not told them afterwards.
if "REDIS_TESTS_CACHE" in os.environ:
    CACHES = {"default": json.loads(os.environ["REDIS_TESTS_CACHE"])}
    IDEMPOTENCY["LEASE"] = timedelta(seconds=float(os.environ["REDIS_TESTS_LEASE"]))
