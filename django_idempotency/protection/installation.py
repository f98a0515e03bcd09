"""E008, the one check that does not need the app, because it reports that the app is not installed."""

from django.apps import apps
from django.core.checks import CheckMessage, Error, register


def expect_app() -> None:
    """Make `manage.py check` report a missing app, without which the other checks are missing, too."""
    register(check_installed)


def check_installed(**kwargs: object) -> list[CheckMessage]:
    if apps.is_installed("django_idempotency"):
        return []
    return [
        Error(
            "Something in this project is protected by django_idempotency, which is not in INSTALLED_APPS.",
            hint="Add 'django_idempotency' to INSTALLED_APPS, then run `manage.py migrate`.",
            id="django_idempotency.E008",
        )
    ]
