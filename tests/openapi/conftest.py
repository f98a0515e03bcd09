from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.urls import get_resolver
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.settings import patched_settings
from drf_spectacular.validation import validate_schema
from rest_framework.schemas.openapi import AutoSchema as DrfSchema

from django_idempotency.protection.routes import entries
from tests.app.serving import serve

__all__ = ["serve"]

Operations = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(autouse=True)
def drf_spectacular(settings) -> None:
    """Installed as its own documentation says, and nothing more."""
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "drf_spectacular"]
    settings.REST_FRAMEWORK = {
        **django_settings.REST_FRAMEWORK,
        "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    }


@pytest.fixture
def document(monkeypatch) -> Callable[..., dict[str, Any]]:
    """Make the project's document, which must be valid, with other settings of drf-spectacular for this once."""

    def document(own: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        for pattern, _ in entries():
            # @api_view keeps the class of its time, which may be before the setting.
            if isinstance(vars(getattr(pattern.callback, "cls", object)).get("schema"), DrfSchema):
                monkeypatch.setattr(pattern.callback.cls, "schema", AutoSchema())
        urlconf = SimpleNamespace(urlpatterns=get_resolver().url_patterns)  # DRF takes no bare list, as Django does
        with patched_settings(own or {}):
            result: dict[str, Any] = SchemaGenerator(urlconf=urlconf, **options).get_schema(public=True)
        validate_schema(result)
        return result

    return document


def operations(document: dict[str, Any]) -> Operations:
    """By path and method."""
    return {
        (path, method): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def told(document: dict[str, Any]) -> Operations:
    """Those that tell of a key."""
    return {
        place: operation
        for place, operation in operations(document).items()
        if any(each["name"] == "Idempotency-Key" for each in operation.get("parameters", []))
    }
