"""Views in phases, whose effects are payments: the name of the phase is the reference."""

from collections.abc import Callable
from typing import Any

import pytest

from django_idempotency.engine.renewal import keeper
from django_idempotency.protection import functions
from tests.app.models import Payment
from tests.app.serving import background, browser, client, edge, gate, protect, serve
from tests.app.views import answer

__all__ = ["background", "browser", "client", "edge", "gate", "protect", "serve"]


ALL = ["order", "charge", "ship"]


class Script:
    """
    A handler of three phases. Each has its effect, and raises what the test has put into `fails` under its name once.

    `calls` are the phases that ran, `keys` the keys that they were given.
    """

    names = tuple(ALL)

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.keys: dict[str, list[str]] = {}
        self.fails: dict[str, BaseException] = {}
        self.options: dict[str, dict[str, Any]] = {}
        self.before: dict[str, Callable[[], object]] = {}  # called between the phases, before this one; "" is the end
        self.status = 201

    def __call__(self, request: Any) -> Any:
        results = [self.phase(request.idempotency, name) for name in self.names]
        self.before.get("", lambda: None)()
        return answer(request, {"results": results}, self.status)

    def phase(self, handle: Any, name: str) -> Any:
        self.before.get(name, lambda: None)()
        return handle.phase(name, lambda key: self.work(name, key), **self.options.get(name, {}))

    def work(self, name: str, key: str) -> Any:
        self.calls.append(name)
        self.keys.setdefault(name, []).append(key)
        Payment.objects.create(amount=len(self.calls), reference=name)
        if name in self.fails:
            raise self.fails.pop(name)
        return {"phase": name, "call": len(self.calls)}


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def pay(protect: Any, serve: Any, script: Script) -> Callable[..., Script]:
    """The script as a view in phases."""

    def pay(**options: Any) -> Script:
        serve(protect(script, mode="phased", **options))
        return script

    return pay


def effects() -> list[str]:
    return list(Payment.objects.order_by("pk").values_list("reference", flat=True))


@pytest.fixture(autouse=True)
def no_other_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of other tests have stores that are not configured here."""
    monkeypatch.setattr(functions, "once_functions", {})


@pytest.fixture(autouse=True)
def no_leases_left() -> Any:
    yield
    assert not keeper._held
