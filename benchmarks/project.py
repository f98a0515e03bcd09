"""
A Django project of one payment view, bare and protected, on the database that `DATABASE_URL` names.

`KEYS=redis` keeps keys and answers at `REDIS_URL`, and `REPLAY_CACHE=1` a copy of the database's there.
"""

import os
from typing import Any

import dj_database_url
import django
from django.conf import settings

PATHS = {
    "autocommit": "/bare/",
    "atomic": "/atomic/",
    "protected": "/protected/",
    "floor": "/floor/",
    "canned": "/canned/",
    "get": "/get/",
    "twice": "/twice/",
    "phased": "/phased/",
    "insert": "/insert/",
    "protected insert": "/protected-insert/",
}
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]


def redis(url: str | None = None) -> dict[str, Any]:
    """The setting `CACHES`, where there is a Redis: at *url*, or at `REDIS_URL`."""
    url = url or os.environ.get("REDIS_URL")
    if not url:
        return {}
    caches = {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        "redis": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": url,
            "KEY_PREFIX": f"idempotency-bench-{os.getpid()}",
        },
    }
    return {"CACHES": caches}


def replay_cache() -> dict[str, str]:
    return {"REPLAY_CACHE": "redis"} if os.environ.get("REPLAY_CACHE") == "1" else {}


def configure() -> None:
    """Set Django up, once per process."""
    url = os.environ["DATABASE_URL"]
    if url.startswith("mysql"):
        import pymysql

        pymysql.version_info = (2, 2, 7, "final", 0)  # what Django asks of mysqlclient, whose place PyMySQL takes
        pymysql.install_as_MySQLdb()
    database = dj_database_url.parse(url, conn_max_age=0 if os.environ.get("CONN_MAX_AGE") == "0" else None)
    if os.environ.get("POOL") == "1":
        database |= {"CONN_MAX_AGE": 0, "OPTIONS": {"pool": True}}
    if url.startswith("sqlite"):
        database["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        }
        database["TEST"] = {"NAME": database["NAME"]}
    settings.configure(
        SECRET_KEY="benchmarks",  # noqa: S106 of a database that is dropped at the end
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="benchmarks.payments.views",
        DATABASES={"default": database},
        **redis(),
        IDEMPOTENCY={
            "STORES": {
                "default": {
                    "BACKEND": "django_idempotency.stores.database.DatabaseStore",
                    "OPTIONS": {"FOLD": os.environ.get("FOLD") != "0", **replay_cache()},
                },
                "redis": {
                    "BACKEND": "django_idempotency.stores.redis.RedisStore",
                    "OPTIONS": {"CACHE": "redis"},
                },
            },
            "STORE": os.environ.get("KEYS", "default"),
        },
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "rest_framework",
            "rest_framework.authtoken",
            "django_idempotency",
            "benchmarks.payments",
        ],
        MIDDLEWARE=MIDDLEWARE,
        REST_FRAMEWORK={
            "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.TokenAuthentication"],
            "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
            "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        },
    )
    django.setup()
