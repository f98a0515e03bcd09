"""A URLconf of the test's own, and the messages that the checks have about it."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.checks import CheckMessage
from django.urls import path

from django_idempotency.checks.functions import check_functions
from django_idempotency.checks.settings import check_setting
from django_idempotency.checks.stores import check_stores
from django_idempotency.checks.views import check_views
from django_idempotency.protection import functions


@pytest.fixture(autouse=True)
def no_events(monkeypatch) -> None:
    """Other tests' functions of `@once` are not this project's."""
    monkeypatch.setattr(functions, "once_functions", {})


@pytest.fixture
def urls(settings) -> Callable[..., None]:
    """Make a URLconf of patterns, or of views."""

    def make(*entries: Any) -> None:
        patterns = [
            entry if hasattr(entry, "pattern") else path(f"view{number}/", entry)
            for number, entry in enumerate(entries)
        ]
        settings.ROOT_URLCONF = type("URLconf", (), {"urlpatterns": patterns})

    return make


@pytest.fixture
def check(urls) -> Callable[..., list[CheckMessage]]:
    """The messages about a URLconf of *entries*, each of which has its remedy."""

    def run(*entries: Any) -> list[CheckMessage]:
        if entries:
            urls(*entries)
        messages = [*check_setting(), *check_views(), *check_functions(), *check_stores()]
        assert all(message.hint for message in messages)
        return messages

    return run


@pytest.fixture
def ids(check) -> Callable[..., list[str]]:
    """What of it is wrong, by the end of the ids: `["E003"]`."""
    return lambda *entries: [message.id.removeprefix("django_idempotency.") for message in check(*entries)]
