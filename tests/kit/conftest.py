"""The gallery of views, served in a database that a test may commit to, and in a `TestCase`'s."""

import pytest
from django.core.cache import cache

from tests.app.serving import browser  # noqa: F401 a fixture


@pytest.fixture
def gallery(settings):
    """Serve the gallery."""
    settings.ROOT_URLCONF = "tests.kit.gallery"
    cache.clear()
