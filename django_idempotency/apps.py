import sys

from django.apps import AppConfig, apps
from django.utils.translation import gettext_lazy as _

from django_idempotency.exceptions import PolicyError


class IdempotencyConfig(AppConfig):
    name = "django_idempotency"
    verbose_name = _("Idempotency")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """
        Register the system checks, the counts and the observers. Validate the setting, because a server does
        not run `manage.py check`.

        Raises `PolicyError` for a bad setting, except under `manage.py check`, which reports it with everything else
        (E001, E002, E021).
        """
        from django.core.signals import request_started

        from django_idempotency import checks, conf, encryption  # noqa: F401 importing the checks registers them
        from django_idempotency.adapters import wsgi_input
        from django_idempotency.engine import announcements
        from django_idempotency.operations import counts, observations
        from django_idempotency.protection import observing
        from django_idempotency.stores import stores

        request_started.connect(wsgi_input.observe, dispatch_uid="django_idempotency")
        if counts.observe not in announcements.observers:
            announcements.observers.append(counts.observe)
        if observations.note not in observing.observers:
            observing.observers.append(observations.note)
        if apps.is_installed("drf_spectacular"):
            from django_idempotency.contrib import spectacular

            spectacular.install()
        try:
            conf.resolved()
            encryption.sealer()
            for alias in conf.stores():
                stores[alias]
        except PolicyError:
            if sys.argv[1:2] != ["check"] or "django.core.management" not in sys.modules:
                raise
