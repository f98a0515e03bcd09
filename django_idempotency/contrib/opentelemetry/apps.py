"""Turns spans and figures for OpenTelemetry on."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class OpenTelemetryConfig(AppConfig):
    """The app has no models. Raises `ImproperlyConfigured` if OpenTelemetry's API is missing."""

    name = "django_idempotency.contrib.opentelemetry"
    label = "django_idempotency_opentelemetry"
    verbose_name = _("Idempotency: OpenTelemetry")

    def ready(self) -> None:
        from django_idempotency.contrib.opentelemetry import telemetry
        from django_idempotency.engine import announcements, steps

        if telemetry.count not in announcements.observers:
            announcements.observers.append(telemetry.count)
            steps.observers.append(telemetry.report)
            steps.around_handlers.append(telemetry.enter_handler)
