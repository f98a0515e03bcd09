from collections.abc import Iterator

import pytest

from django_idempotency.operations import counts as statistics
from django_idempotency.protection import functions as events
from tests.app.serving import background, browser, client, edge, gate, protect, serve
from tests.operations.pages import operator
from tests.operations.redis_store import away, keys

__all__ = ["away", "background", "browser", "client", "edge", "gate", "keys", "operator", "protect", "serve"]


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[statistics.Counter]:
    """Count, as outside of tests, and write as soon as a request is finished."""
    counter = statistics.Counter()
    monkeypatch.setattr(statistics, "counter", counter)
    monkeypatch.setattr(statistics, "is_under_test", lambda: False)
    monkeypatch.setattr(statistics, "INTERVAL", 0.0)
    monkeypatch.setattr(statistics, "PAUSE", 0.0)
    yield counter
    counter.tally.take()


@pytest.fixture(autouse=True)
def _no_others_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the modules of other tests have given to `@once`, commands need not hear of."""
    monkeypatch.setattr(events, "once_functions", {})
