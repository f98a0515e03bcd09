import sys

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

from django_idempotency.exceptions import PolicyError


class IdempotencyConfig(AppConfig):
    name = "django_idempotency"
    verbose_name = _("Idempotency")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """
        Register the system checks and the counts, and check the setting here and now: a server does not run `manage.py check`.

        Raises `PolicyError` for a bad setting, but under `manage.py check`, which reports it with all else (E001,
        E002).
        """
        from django_idempotency import announcements, checks, conf, statistics, surroundings  # noqa: F401 their import registers them
        from django_idempotency.stores import stores

        if statistics.observe not in announcements.observers:
            announcements.observers.append(statistics.observe)

        try:
            conf.resolved()
            for alias in conf.stores():
                stores[alias]
        except PolicyError:
            if sys.argv[1:2] != ["check"] or "django.core.management" not in sys.modules:
                raise
