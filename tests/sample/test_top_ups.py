"""Top-ups: a card charged at the gateway and a deposit here, in phases."""

from io import StringIO

import pytest
from django.core.management import call_command

from django_idempotency.models import PhasedRun
from sample_project.payments import ledger
from sample_project.payments.models import Deposit

TOP_UP = {"amount": 5000, "currency": "EUR", "card": "tok_visa", "reference": "top-up 1"}
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def path(account):
    return f"/api/accounts/{account.pk}/top-ups/"


@pytest.fixture
def breaks(monkeypatch):
    """The next deposit fails, after the card was charged."""

    def fail(*args, **kwargs):
        monkeypatch.undo()
        raise RuntimeError("the worker is out of memory")

    monkeypatch.setattr(ledger, "deposit", fail)


def balance(account):
    account.refresh_from_db()
    return account.balance


def test_a_retry_gets_the_first_answer(post, path, gateway, account):
    """One charge, one deposit."""
    first = post(path, TOP_UP, key="k-1")
    again = post(path, TOP_UP, key="k-1")

    assert (first.status_code, again.content, again["Idempotency-Replayed"]) == (201, first.content, "true")
    assert [payment["asked"] for payment in gateway.listed()] == [1]
    assert balance(account) == 15_000
    assert Deposit.objects.get().invoice == first.json()["payment"]


def test_a_decline_is_an_answer(post, path, gateway, account):
    """Nothing is put on the account."""
    declined = [post(path, {**TOP_UP, "card": "tok_declined"}, key="k-1") for _ in range(2)]

    assert [answer.status_code for answer in declined] == [402, 402]
    assert [payment["asked"] for payment in gateway.listed()] == [1]
    assert balance(account) == 10_000


@pytest.mark.usefixtures("breaks")
def test_a_client_that_does_not_come_back(post, path, gateway, account):
    """The resumer puts the money of the charged card on the account."""
    with pytest.raises(RuntimeError):
        post(path, TOP_UP, key="k-1")
    assert (balance(account), len(gateway.listed())) == (10_000, 1)
    out = StringIO()
    call_command("idempotency_resume", "--database", "default", stdout=out)

    assert out.getvalue() == "Resumed 1 run in 'default': 1 finished.\n"
    assert [payment["asked"] for payment in gateway.listed()] == [1]
    assert balance(account) == 15_000
    assert not PhasedRun.objects.exists()
    assert post(path, TOP_UP, key="k-1").status_code == 201
    assert balance(account) == 15_000


def test_a_late_answer_is_asked_for_again_under_the_same_key(post, path, gateway, account, settings):
    """504: the key stays taken, and the next attempt learns what became of the card."""
    settings.GATEWAY_TIMEOUT = (2, 0.1)
    late = post(path, {**TOP_UP, "card": "tok_slow"}, key="k-1")
    assert (late.status_code, len(gateway.listed())) == (504, 1)
    settings.GATEWAY_TIMEOUT = (2, 4)
    retry = post(path, {**TOP_UP, "card": "tok_slow"}, key="k-1")

    assert (retry.status_code, "Idempotency-Replayed" in retry) == (201, False)
    assert [payment["asked"] for payment in gateway.listed()] == [2]
    assert balance(account) == 15_000
