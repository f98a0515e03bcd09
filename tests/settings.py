"""The test project's settings. `DATABASE_URL` names its database."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import dj_database_url

DATABASE_URL = os.environ.get("DATABASE_URL") or f"sqlite:///{Path(__file__).parent / 'test.sqlite3'}"
if DATABASE_URL.startswith("mysql") and not importlib.util.find_spec("MySQLdb"):
    import pymysql

    pymysql.version_info = (2, 2, 7, "final", 0)  # Django's minimum for mysqlclient, which PyMySQL replaces
    pymysql.install_as_MySQLdb()

SECRET_KEY = "tests"
DEBUG = False
USE_TZ = True
TIME_ZONE = "Asia/Tokyo"  # nine hours from UTC, so that a wrong clock shows
ALLOWED_HOSTS = ["testserver", "tenant-a.example", "tenant-b.example", "127.0.0.1", "localhost"]
ROOT_URLCONF = "tests.app.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATA_UPLOAD_MAX_MEMORY_SIZE = 2_621_440

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "rest_framework",
    "rest_framework.authtoken",
    "django_idempotency",
    "tests.app",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
STATIC_URL = "static/"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def sqlite(path: str) -> dict[str, object]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            # Nothing waits for the disk: the tests kill processes, not the machine.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;",
        },
        # Threads and processes share a file, as in production.
        "TEST": {"NAME": path.replace(".sqlite3", "") + ".test.sqlite3"},
    }


if DATABASE_URL.startswith("sqlite"):
    DATABASES: dict[str, Any] = {"default": sqlite(DATABASE_URL.removeprefix("sqlite:///"))}
else:
    DATABASES = {"default": dj_database_url.parse(DATABASE_URL, conn_max_age=600)}
    # With `POOLED=1`, DATABASE_URL is a pooler in transaction mode.
    DATABASES["default"]["DISABLE_SERVER_SIDE_CURSORS"] = os.environ.get("POOLED") == "1"
if os.environ.get("NODES"):
    # The tests look at one node of a cluster, and see what was committed on the others. Their processes do not.
    DATABASES["default"]["OPTIONS"] = {"init_command": "SET SESSION wsrep_sync_wait = 15"}
# A second database on another server, for requests that use both.
DATABASES["other"] = sqlite(os.environ.get("OTHER_DATABASE", str(Path(__file__).parent / "other.sqlite3")))

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.TokenAuthentication"],
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
