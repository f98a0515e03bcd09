"""
A project before its move: one view under another package, run by that package's own Python.

Reads one JSON object from its standard input (the package, the database, the Redis, requests) and writes the answers to
its standard output. It imports nothing of this repository.
"""

import json
import os
import signal
import sys

import django
from django.conf import settings

asked = json.load(sys.stdin)
package, database, redis, prefix = asked["package"], asked["database"], asked["redis"], asked["prefix"]
if database["ENGINE"].endswith("mysql"):
    import pymysql

    pymysql.version_info = (2, 2, 7, "final", 0)
    pymysql.install_as_MySQLdb()

APPS = {
    "drf-idempotency": "drf_idempotency",
    "drf-idempotencykey": "drf_idempotencykey",
    "djangorestframework-idempotency-key": "rest_framework_idempotency_key",
}
MIDDLEWARE = {
    "drf-idempotency": "drf_idempotency.middleware.IdempotencyMiddleware",
    "django-idempotency-key": "idempotency_key.middleware.IdempotencyKeyMiddleware",
    "djangorestframework-idempotency-key": "rest_framework_idempotency_key.middleware.IdempotencyKeyMiddleware",
}
in_redis = {"BACKEND": "drf_idempotency.backends.redis.RedisBackend"}
in_redis["BACKEND_OPTIONS"] = {"url": redis, "key_prefix": prefix}

settings.configure(
    SECRET_KEY="old",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DATABASES={"default": database},
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "rest_framework",
        "rest_framework.authtoken",
        *([APPS[package]] if package in APPS else []),
    ],
    MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware",
        *([MIDDLEWARE[package]] if package in MIDDLEWARE else []),
    ],
    CACHES={
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": redis or "redis://",
            "KEY_PREFIX": (prefix or "").removesuffix(":1:"),
            "TIMEOUT": 3600,
        }
    },
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.TokenAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    },
    IDEMPOTENCY=in_redis if redis else {"BACKEND": "drf_idempotency.backends.database.DatabaseBackend"},
    IDEMPOTENCY_KEY={"STORAGE": {"CLASS": "idempotency_key.storage.CacheKeyStorage", "CACHE_NAME": "default"}},
    IDEMPOTENCY_KEY_LOCK_TIMEOUT=30,
)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402


class Pay(APIView):
    def post(self, request):
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO app_payment (amount, reference) VALUES (%s, %s)", [request.data["amount"], "old"]
            )
        if request.data["amount"] == 666:
            os.kill(os.getpid(), signal.SIGKILL)
        return Response({"paid": request.data["amount"]}, status=201, headers={"Location": "/payments/1/"})


def protected():
    if package == "drf-idempotencykey":
        from drf_idempotencykey.mixins import DrfIdempotencyKeyMixin

        return type("Protected", (DrfIdempotencyKeyMixin, Pay), {})
    if package == "djangorestframework-idempotency-key":
        from rest_framework_idempotency_key.decorators import simple_idempotency_key_method

        return type("Protected", (Pay,), {"post": simple_idempotency_key_method(Pay.post)})
    if package == "idemkit":
        from idemkit import HttpConfig, PostgresBackend, RedisBackend
        from idemkit.contrib.drf import idempotent_view

        backend = RedisBackend.from_url(redis, namespace=prefix.removesuffix(":")) if redis else None
        backend = backend or PostgresBackend.from_url(asked["url"])
        return type("Protected", (idempotent_view(backend=backend, config=HttpConfig(scope=by_user)), Pay), {})
    return Pay


def by_user(request):
    return str(request.user.pk)


if package in APPS:
    call_command("migrate", APPS[package], verbosity=0)
if package == "idemkit" and not redis:
    import asyncio

    from idemkit.backends.postgres import init_pg

    asyncio.run(init_pg(asked["url"]))

urlpatterns = [path("moved/", protected().as_view())]
client = Client()
answers = []
for sent, sent_headers in asked["requests"]:
    response = client.post("/moved/", sent, content_type="application/json", headers=sent_headers)
    headers, body = dict(response.items()), response.content.decode()
    answers.append({"status": response.status_code, "headers": headers, "body": body})
json.dump(answers, sys.stdout)
