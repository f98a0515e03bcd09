"""A server that cancels a handler's transaction as often as a test wants, and pauses that nobody waits for."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection

from django_idempotency.engine import execution
from tests.app.models import Payment
from tests.app.serving import VENDOR, background, browser, client, edge, gate, protect, serve
from tests.proof.conftest import _lab, lab, token
from tests.proof.urls import LOSE

__all__ = ["_lab", "background", "browser", "client", "edge", "gate", "lab", "protect", "serve", "token"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if VENDOR == "sqlite" and "tests/retries" in item.nodeid:
            item.add_marker(pytest.mark.skip(reason="SQLite has one writer, which loses to nobody"))


def lose() -> None:
    """Send a statement to which the server answers that it has cancelled the transaction (40001; 1213)."""
    with connection.cursor() as cursor:
        cursor.execute(LOSE[connection.vendor])


class Handler:
    """
    Pays, and then lets *lose* cancel it in its first runs, as many as *times*.

    `runs` is the number of its runs; `seen` is what *look* has made of the request in each.
    """

    def __init__(self, times: int, *, look: Callable[[Any], Any] | None = None) -> None:
        self.times, self.look = times, look
        self.runs = 0
        self.seen: list[Any] = []
        self.lose: Callable[[], object] = lose

    def __call__(self, request: Any) -> Any:
        from tests.app.views import answer

        self.work(request)
        return answer(request, {"run": self.runs})

    def work(self, request: Any) -> None:
        self.runs += 1
        Payment.objects.create(amount=self.runs)
        if self.look is not None:
            self.seen.append(self.look(request))
        if self.runs <= self.times:
            self.lose()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The longest that each pause may be; none is waited for."""
    longest: list[float] = []

    def draw(low: float, high: float) -> float:
        longest.append(high)
        return 0.0

    monkeypatch.setattr(execution.random, "uniform", draw)
    return longest


@pytest.fixture
def losing_at_commit() -> Iterator[Callable[[int, str], None]]:
    """Let PostgreSQL answer COMMIT with *sqlstate* to the first transactions that pay, as many as *times*."""
    made = False

    def losing(times: int, sqlstate: str) -> None:
        nonlocal made
        if VENDOR != "postgresql":
            pytest.skip("only PostgreSQL runs a trigger at COMMIT")
        made = True
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE SEQUENCE test_tries;"  # which a rollback does not take back
                "CREATE FUNCTION test_lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                f" IF nextval('test_tries') <= {times} THEN"
                f" RAISE EXCEPTION 'lost' USING ERRCODE = '{sqlstate}'; END IF; RETURN NULL; END $$;"
                "CREATE CONSTRAINT TRIGGER test_lose AFTER INSERT ON app_payment DEFERRABLE INITIALLY DEFERRED"
                " FOR EACH ROW EXECUTE FUNCTION test_lose()"
            )

    yield losing
    if made:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION test_lose CASCADE; DROP SEQUENCE test_tries")
