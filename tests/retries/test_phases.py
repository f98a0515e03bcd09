"""In phased mode the phase runs again that has lost, not the handler."""

from typing import Any

import pytest
from django.db import connection

from django_idempotency.models import IdempotencyRecord, PhasedRun
from django_idempotency.probes import UNSURE
from tests.app.models import Payment
from tests.app.serving import is_replay, plain, post
from tests.app.views import answer
from tests.retries.conftest import lose

pytestmark = pytest.mark.django_db(transaction=True)


class Phases:
    """A handler of three phases; those in `losing` lose in their first runs, as many as it says."""

    def __init__(self, **losing: int) -> None:
        self.losing = losing
        self.calls: list[tuple[str, str]] = []
        self.options: dict[str, Any] = {}

    def __call__(self, request: Any) -> Any:
        self.calls.append(("handler", ""))
        results = [
            request.idempotency.phase(name, lambda key, name=name: self.work(name, key), **self.options.get(name, {}))
            for name in ("order", "charge", "ship")
        ]
        return answer(request, {"results": results})

    def work(self, name: str, key: str) -> str:
        self.calls.append((name, key))
        Payment.objects.create(amount=1, reference=name)
        if self.losing.get(name, 0):
            self.losing[name] -= 1
            lose()
        return name

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def references() -> list[str]:
    return list(Payment.objects.order_by("pk").values_list("reference", flat=True))


def test_the_phase_that_lost_runs_again(browser, serve):
    """With the same key for the other system."""
    handler = Phases(charge=2)
    serve(plain(handler, mode="phased", retries=2))

    response = post(browser)

    assert (response.status_code, response.json()) == (201, {"results": ["order", "charge", "ship"]})
    assert handler.names == ["handler", "order", "charge", "charge", "charge", "ship"]
    assert len({key for name, key in handler.calls if name == "charge"}) == 1
    assert references() == ["order", "charge", "ship"]


def test_without_retries_the_clients_retry_goes_on(browser, serve):
    """503 `try-again`; the phases before it stay."""
    handler = Phases(charge=1)
    serve(plain(handler, mode="phased"))

    response = post(browser)

    assert (response.status_code, response.json()["code"], response.headers["Retry-After"]) == (503, "try-again", "1")
    assert references() == ["order"]
    assert post(browser).status_code == 201
    assert handler.names == ["handler", "order", "charge", "handler", "charge", "ship"]


def test_a_phase_with_a_probe_is_left_to_the_clients_retry(browser, serve):
    """Which asks it what became of the first."""
    handler = Phases(charge=1)
    handler.options["charge"] = {"probe": UNSURE}
    serve(plain(handler, mode="phased", retries=3))

    assert post(browser).json()["code"] == "try-again"
    assert handler.names.count("charge") == 1
    assert post(browser).json()["code"] == "outcome-unknown"


def test_a_phase_that_reached_another_system_is_not_forgotten(browser, serve):
    """Its second run says that nothing was done, but the first may have done it."""
    calls = []

    def view(request):
        def charge(key):
            calls.append(key)
            if len(calls) == 1:
                lose()
            raise ConnectionRefusedError

        request.idempotency.phase("charge", charge)

    serve(plain(view, mode="phased", retries=1, not_done=[ConnectionRefusedError]))

    assert post(browser).status_code == 500
    assert len(calls) == 2
    assert PhasedRun.objects.count() == 1


def test_the_record_is_written_again(browser, serve, losing_at_commit):
    """COMMIT of what was the last transaction has lost: no phase runs again."""
    losing_at_commit(1, "40001")
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE CONSTRAINT TRIGGER test_lose AFTER UPDATE ON {IdempotencyRecord._meta.db_table} DEFERRABLE"
            " INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.status = 201) EXECUTE FUNCTION test_lose()"
        )
        cursor.execute("DROP TRIGGER test_lose ON app_payment")
    handler = Phases()
    serve(plain(handler, mode="phased", retries=2))

    assert post(browser).status_code == 201
    assert handler.names == ["handler", "order", "charge", "ship"]
    assert is_replay(post(browser))


def test_a_hook_that_loses_is_not_its_phase(browser, serve):
    """A phase that has committed does not run again."""
    from django.db import transaction

    def view(request):
        def order():
            Payment.objects.create(amount=1)
            transaction.on_commit(lose)

        request.idempotency.phase("order", order)
        return answer(request, {})

    serve(plain(view, mode="phased", retries=3))
    post(browser)

    assert Payment.objects.count() == 1
