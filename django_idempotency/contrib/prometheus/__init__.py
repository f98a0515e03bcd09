"""
Figures for Prometheus, of each operation: `"django_idempotency.contrib.prometheus"` in `INSTALLED_APPS` turns it on.

They are in the default registry of `prometheus_client`, which the project exports as it does all others. Needs
`pip install "django-idempotency[prometheus]"`.
"""
