"""
Spans and figures for OpenTelemetry: `"django_idempotency.contrib.opentelemetry"` in `INSTALLED_APPS` turns them on.

They go to the providers that the project sets, and nowhere without one. Needs
`pip install "django-idempotency[opentelemetry]"`.
"""
