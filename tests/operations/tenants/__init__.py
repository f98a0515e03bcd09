"""A project that keeps its tenants in schemas, with django-tenants."""
