"""E018 and E019: phased mode where it cannot work."""

import pytest
from django.db import transaction
from rest_framework.decorators import api_view, permission_classes
from rest_framework.permissions import IsAuthenticated

from django_idempotency import idempotent, once
from tests.checks import views


def in_phases(**options):
    handler = idempotent(mode="phased", **options)(views.unprotected)
    return api_view(["POST"])(permission_classes([IsAuthenticated])(handler))


def on_paid(event):
    return None


@pytest.fixture
def memory(settings):
    settings.IDEMPOTENCY = {"STORES": {"memory": {"BACKEND": "django_idempotency.testing.memory.MemoryStore"}}}


def test_E018(memory, ids):
    """A view and a function, on a store that keeps no runs."""
    once("invoice.paid", key=str, mode="phased", store="memory")(on_paid)

    found = ids(in_phases(store="memory"))

    assert found.count("E018") == 2


def test_E019(settings, ids):
    """Unless the view is left out of the request's transaction."""
    settings.DATABASES["default"]["ATOMIC_REQUESTS"] = True
    try:
        assert ids(in_phases()) == ["E019"]
        assert ids(transaction.non_atomic_requests(in_phases())) == []
    finally:
        settings.DATABASES["default"]["ATOMIC_REQUESTS"] = False


def test_phases_on_the_default_store_are_right(ids):
    """Nothing to say."""
    once("invoice.paid", key=str, mode="phased")(on_paid)

    assert ids(in_phases()) == []
