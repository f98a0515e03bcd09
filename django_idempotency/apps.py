from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class IdempotencyConfig(AppConfig):
    name = "django_idempotency"
    verbose_name = _("Idempotency")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Check the setting here and now: a server does not run `manage.py check`."""
        from django_idempotency import conf
        from django_idempotency.stores import stores

        conf.resolved()
        for alias in conf.stores():
            stores[alias]
