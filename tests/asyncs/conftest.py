from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.urls import path

from tests.app.urls import urlpatterns
from tests.asyncs.serving import Asgi


@pytest.fixture
def asgi(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Asgi]:
    """Serve views at `/act/`, or at other routes by name, through Django's ASGI application."""
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", 0)  # each request has a thread of its own

    def serve(view: Any = None, **routes: Any) -> Asgi:
        views = {"act": view, **routes} if view is not None else routes
        settings.ROOT_URLCONF = (*(path(f"{name}/", each) for name, each in views.items()), *urlpatterns)
        return Asgi()

    return serve
