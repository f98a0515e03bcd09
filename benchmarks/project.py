"""A Django project of one payment view, bare and protected, on the database that `DATABASE_URL` names."""

import os

import dj_database_url
import django
from django.conf import settings
from django.urls import path

PATHS = {"autocommit": "/bare/", "atomic": "/atomic/", "protected": "/protected/"}
urlpatterns: list[object] = []


def configure() -> None:
    """Set Django up, once per process."""
    url = os.environ["DATABASE_URL"]
    if url.startswith("mysql"):
        import pymysql

        pymysql.version_info = (2, 2, 7, "final", 0)  # what Django asks of mysqlclient, whose place PyMySQL takes
        pymysql.install_as_MySQLdb()
    database = dj_database_url.parse(url, conn_max_age=None)
    if url.startswith("sqlite"):
        database["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        }
        database["TEST"] = {"NAME": database["NAME"]}
    settings.configure(
        SECRET_KEY="benchmarks",  # noqa: S106 of a database that is dropped at the end
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="benchmarks.project",
        DATABASES={"default": database},
        IDEMPOTENCY={
            "STORES": {
                "default": {
                    "BACKEND": "django_idempotency.stores.database.DatabaseStore",
                    "OPTIONS": {"FOLD": os.environ.get("FOLD") != "0"},
                }
            }
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
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        REST_FRAMEWORK={
            "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.TokenAuthentication"],
            "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
            "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        },
    )
    django.setup()
    urlpatterns.extend(_views())


def _views() -> list[object]:
    from django.db import transaction
    from rest_framework import serializers
    from rest_framework.request import Request
    from rest_framework.response import Response
    from rest_framework.views import APIView

    from benchmarks.payments.models import Payment
    from django_idempotency import idempotent

    class PaymentSerializer(serializers.ModelSerializer[Payment]):
        class Meta:
            model = Payment
            fields = ("id", "amount", "currency", "reference", "created_at")

    class Bare(APIView):
        """As a DRF tutorial would write it, with one INSERT: a light view, so that what protection adds shows."""

        def post(self, request: Request) -> Response:
            serializer = PaymentSerializer(data=request.data)
            serializer.is_valid(raise_exception=True)
            serializer.save()
            return Response(serializer.data, status=201)

    class Atomic(Bare):
        post = transaction.atomic(Bare.post)

    class Protected(Bare):
        post = idempotent(Bare.post)

    return [
        path("bare/", Bare.as_view()),
        path("atomic/", Atomic.as_view()),
        path("protected/", Protected.as_view()),
    ]
