"""A Django project of one payment view, bare and protected, on the database that `DATABASE_URL` names."""

import os

import dj_database_url
import django
from django.conf import settings

PATHS = {"autocommit": "/bare/", "atomic": "/atomic/", "protected": "/protected/", "floor": "/floor/"}


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
    if os.environ.get("ROUTINES") == "0":
        database.setdefault("TEST", {})["MIGRATE"] = False  # tables, and nothing that a migration makes besides
    settings.configure(
        SECRET_KEY="benchmarks",  # noqa: S106 of a database that is dropped at the end
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="benchmarks.payments.views",
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
