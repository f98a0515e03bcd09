import pytest

from django_idempotency.protection import functions as events
from tests.app.serving import background, browser, client, edge, gate, protect, serve
from tests.operations.pages import operator
from tests.operations.redis_store import away, keys

__all__ = ["away", "background", "browser", "client", "edge", "gate", "keys", "operator", "protect", "serve"]


@pytest.fixture(autouse=True)
def _no_others_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the modules of other tests have given to `@once`, commands need not hear of."""
    monkeypatch.setattr(events, "once_functions", {})
