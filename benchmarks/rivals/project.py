"""A worker's Django project, with the apps and settings of its contender."""

from __future__ import annotations

import dj_database_url
import django
from django.conf import settings

from benchmarks.rivals.contenders import Contender, Services

PATHS = {"bare": "/bare/", "protected": "/protected/"}
USERS = ("payer", "stranger", "leaver")


def configure(contender: Contender, services: Services) -> None:
    """Set Django up, once per process."""
    settings.configure(
        CONTENDER=contender,
        SERVICES=services,
        SECRET_KEY="rivals",  # noqa: S106 of a database that is dropped at the end
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="benchmarks.rivals.views",
        DATABASES={"default": dj_database_url.parse(services.database_url, conn_max_age=None) | contender.database()},
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "rest_framework",
            "rest_framework.authtoken",
            "benchmarks.payments",
            *contender.apps,
        ],
        MIDDLEWARE=["django.middleware.common.CommonMiddleware", *contender.middleware],
        REST_FRAMEWORK={
            "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.TokenAuthentication"],
            "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
        },
        # The traceback of an answer 500, for the run to quote the last line of.
        LOGGING={
            "version": 1,
            "handlers": {"log": {"class": "logging.StreamHandler", "level": "ERROR"}},
            "loggers": {"django.request": {"handlers": ["log"]}},
        },
        **contender.settings(services),
    )
    django.setup()


def prepare(contender: Contender, services: Services) -> None:
    """The tables and the users of a new database."""
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from rest_framework.authtoken.models import Token

    call_command("migrate", verbosity=0, run_syncdb=True)
    contender.prepare(services)
    for name in USERS:
        Token.objects.create(user=User.objects.create(username=name))
