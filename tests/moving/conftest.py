import pytest

from django_idempotency.protection import functions
from tests.app.serving import background, gate, serve
from tests.operations.redis_store import away, keys

__all__ = ["away", "background", "gate", "keys", "serve"]


@pytest.fixture(autouse=True)
def no_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other tests choose databases, of which the command would speak."""
    monkeypatch.setattr(functions, "once_functions", {})
