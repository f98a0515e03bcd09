"""The probe of the manual's page on unknown outcomes, against the gateway, which lists its payments as Stripe does."""

from datetime import timedelta
from typing import Any

import pytest
import requests

from django_idempotency import current_operation, once
from django_idempotency.exceptions import OutcomeUnknown
from tests.docs.pages import DOCS, blocks

ORDER = {"amount": 5000, "currency": "EUR", "card": "tok_visa", "reference": "order 1"}
MEMORY = {"STORES": {"memory": {"BACKEND": "django_idempotency.testing.memory.MemoryStore"}}}


@pytest.fixture
def page(settings, gateway) -> dict[str, Any]:
    """The names of the page's probe, which asks the gateway."""
    settings.STRIPE_URL, settings.STRIPE_KEY = gateway.url, "sk_test"
    settings.IDEMPOTENCY = {**settings.IDEMPOTENCY, **MEMORY}
    names: dict[str, Any] = {}
    [probe] = [each for each in blocks(DOCS / "how-to" / "ask-the-other-system.md") if each.kind == "complete"]
    exec(probe.text, names)  # noqa: S102 the page's own code
    return names


@pytest.fixture
def pay(page, gateway):
    """Work whose process loses the gateway's answer, or ends before it asks the gateway."""

    def work(order: str, lost: str) -> dict[str, str]:
        first = not attempts
        attempts.append(order)
        if first and lost == "the request":
            raise TimeoutError
        key = current_operation().derive_key("stripe")
        headers = {"Idempotency-Key": key}
        payment = requests.post(f"{gateway.url}/payments", json=ORDER, headers=headers, timeout=5).json()
        if first:
            raise TimeoutError
        return {"payment": payment["id"], "status": payment["status"]}

    attempts: list[str] = []
    options: Any = {"key": lambda order, lost: order, "store": "memory", "uncertain": page["ask_stripe"]}
    return once("sample.pay", **options)(work)


def others(gateway, number: int) -> None:
    for each in range(number):
        requests.post(f"{gateway.url}/payments", json=ORDER, headers={"Idempotency-Key": f"other-{each}"}, timeout=5)


def test_what_was_charged_is_found(pay, gateway):
    """On the second page of the list, too: the retry gets its payment, and no other one is made."""
    with pytest.raises(TimeoutError):
        pay("order-1", "the answer")
    others(gateway, 120)

    outcome = pay.run("order-1", "the answer")

    assert (outcome.value, outcome.replayed) == ({"payment": "pay_1", "status": "succeeded"}, True)
    assert len(gateway.listed()) == 121


def test_what_was_not_charged_runs_when_it_cannot_be_on_its_way_any_more(pay, page, gateway):
    """Until then the outcome stays unknown."""
    with pytest.raises(TimeoutError):
        pay("order-1", "the request")
    others(gateway, 3)
    with pytest.raises(OutcomeUnknown):
        pay("order-1", "the request")
    page["ON_ITS_WAY"] = timedelta(0)

    assert pay("order-1", "the request") == {"payment": "pay_4", "status": "succeeded"}


def test_a_gateway_that_is_away_tells_nothing(pay, settings):
    """The probe raises, so the outcome stays unknown."""
    with pytest.raises(TimeoutError):
        pay("order-1", "the answer")
    settings.STRIPE_URL = "http://127.0.0.1:9"

    with pytest.raises(OutcomeUnknown):
        pay("order-1", "the answer")
