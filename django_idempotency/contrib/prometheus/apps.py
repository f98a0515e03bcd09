"""Turns the figures for Prometheus on."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class PrometheusConfig(AppConfig):
    """The app has no models. Raises `ImproperlyConfigured` if `prometheus_client` is missing."""

    name = "django_idempotency.contrib.prometheus"
    label = "django_idempotency_prometheus"
    verbose_name = _("Idempotency: Prometheus")

    def ready(self) -> None:
        from django_idempotency.contrib.prometheus import metrics
        from django_idempotency.engine import announcements, steps

        if metrics.count not in announcements.observers:
            announcements.observers.append(metrics.count)
            steps.observers.append(metrics.measure)
