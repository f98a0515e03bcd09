"""
Settings of the sample project.

SQLite serves without any set-up; `DATABASE_URL` names another database:

    DATABASE_URL=postgres://user:password@localhost:5432/payments
    DATABASE_URL=mysql://user:password@localhost:3306/payments

Card payments alone need two more servers, a Redis or Valkey at `REDIS_URL` and the gateway at `GATEWAY_URL`: see
`sample_project.services`. While one of them is away they are answered with 503.
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import dj_database_url
import django

PROJECT_DIR = Path(__file__).resolve().parent

DEBUG = os.environ.get("DEBUG", "1") == "1"
SECRET_KEY = os.environ.get("SECRET_KEY", "sample-project-key-for-development-only")
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "localhost 127.0.0.1 [::1]").split()

ROOT_URLCONF = "sample_project.urls"
WSGI_APPLICATION = "sample_project.wsgi.application"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "rest_framework.authtoken",
    "drf_spectacular",
    "django_idempotency",
    "django_tasks_db",
    "sample_project.payments",
]

MIDDLEWARE = [
    "sample_project.request_ids.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_idempotency.middleware.IdempotencyMiddleware",  # last: behind all that may refuse a request
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


def database(url: str) -> dict[str, Any]:
    """The `DATABASES` entry for *url*, with what each engine needs to handle money correctly."""
    settings: dict[str, Any] = {**dj_database_url.parse(url, conn_max_age=60, conn_health_checks=True)}
    options = settings.setdefault("OPTIONS", {})
    engine = settings["ENGINE"]
    if engine == "django.db.backends.sqlite3":
        # BEGIN IMMEDIATE takes the write lock first and waits for it; a transaction that read first
        # and then wants to write is refused at once instead. In WAL mode readers do not wait at all.
        options["transaction_mode"] = "IMMEDIATE"
        options["timeout"] = 15  # seconds that a writer waits for the previous one
        options["init_command"] = "PRAGMA journal_mode=WAL"
    elif engine == "django.db.backends.mysql":
        # PyMySQL is pure Python: no compiler, no client library. Django takes it for mysqlclient.
        import pymysql

        # Before 1.2 it calls itself mysqlclient 1.4, which is too old for Django.
        pymysql.version_info = (2, 2, 8, "final", 1)  # type: ignore[assignment, unused-ignore]
        pymysql.install_as_MySQLdb()
        options["charset"] = "utf8mb4"
        options["init_command"] = "SET sql_mode='STRICT_TRANS_TABLES'"
    return settings


DATABASE_URL = os.environ.get("DATABASE_URL") or f"sqlite:///{PROJECT_DIR / 'sample.sqlite3'}"
DATABASES = {"default": database(DATABASE_URL)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "rest_framework:login"
LOGIN_REDIRECT_URL = "/api/"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.TokenAuthentication",  # first: its 401 says how to log in
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": [
        "rest_framework.renderers.JSONRenderer",
        "django_idempotency.renderers.BrowsableAPIRenderer",  # its forms send a key
    ],
    "DEFAULT_PAGINATION_CLASS": "sample_project.payments.pagination.StrictPagination",
    "DEFAULT_SCHEMA_CLASS": "sample_project.payments.documents.AutoSchema",
}

# Nothing here is about keys: the app writes of them into the document by itself. This is for generated clients.
SPECTACULAR_SETTINGS = {
    "TITLE": "Payments",
    "DESCRIPTION": "The sample project of django_idempotency.",
    "VERSION": "1",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENFORCE_NON_BLANK_FIELDS": True,
    "PARSER_WHITELIST": ["rest_framework.parsers.JSONParser"],
}

CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": os.environ.get("REDIS_URL") or "redis://127.0.0.1:6379/0",
        "KEY_PREFIX": "sample",
        "OPTIONS": {"SOCKET_CONNECT_TIMEOUT": 2, "SOCKET_TIMEOUT": 2},  # seconds that a request waits for it
    }
}

# Tasks are rows of the database, so that they commit with what enqueues them: `manage.py db_worker` runs them.
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}

# Mail is printed, by the worker.
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": "django.core.mail.backends.console.EmailBackend"}}
else:
    EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"

# The fake gateway of `sample_project.gateway`; it charges nobody.
GATEWAY_URL = os.environ.get("GATEWAY_URL") or "http://127.0.0.1:8100"
GATEWAY_TIMEOUT = (2, 5)  # seconds: for a connection, for an answer

# Everything else is the package's default: a key is remembered for a day unless a view says otherwise.
IDEMPOTENCY = {
    "STORES": {
        "redis": {"BACKEND": "django_idempotency.stores.redis.RedisStore", "OPTIONS": {"CACHE": "default"}},
    },
    "TTL": timedelta(hours=24),
    # Where callers read of their keys: refusals link to it.
    "DOCS_URL": "https://github.com/django-idempotency/django-idempotency/blob/main/docs/reference/errors.md",
}

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request_id": {"()": "sample_project.request_ids.RequestIdFilter"}},
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s [%(request_id)s] %(name)s: %(message)s"}},
    "handlers": {
        "console": {"class": "logging.StreamHandler", "filters": ["request_id"], "formatter": "line"},
    },
    "root": {"handlers": ["console"], "level": os.environ.get("LOG_LEVEL", "INFO")},
    # Django adds its own handlers to these two; the root's is enough.
    "loggers": {
        "django": {"handlers": [], "level": "INFO"},
        "django.server": {"handlers": [], "level": "INFO", "propagate": True},
    },
}
