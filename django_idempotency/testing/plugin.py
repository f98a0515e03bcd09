"""
Fixtures for pytest, found by its entry point. Nothing else: no setting is read, no hook installed, and what a test does
not ask for is not loaded.
"""

from types import ModuleType

import pytest


@pytest.fixture
def idempotency() -> ModuleType:
    """The testing kit: `idempotency.assert_idempotent(call)`, and all else that `django_idempotency.testing` has."""
    from django_idempotency import testing

    return testing


@pytest.fixture
def idempotency_key() -> str:
    """An idempotency key that nobody has used."""
    from django_idempotency.testing.calls import new_key

    return new_key()
