import pytest
from django.core.cache import cache

from django_idempotency.protection import by_default
from tests.app.serving import background, gate

__all__ = ["background", "gate"]

MIDDLEWARE = "django_idempotency.middleware.IdempotencyMiddleware"


@pytest.fixture(autouse=True)
def forget() -> None:
    """What a process said of a view, it says again in the next test; throttles begin anew."""
    by_default._said.clear()
    cache.clear()


@pytest.fixture
def by_middleware(settings) -> None:
    """Protect the whole project."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, MIDDLEWARE]
