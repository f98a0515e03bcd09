"""Refunds: an action of a nested route."""

import pytest

from sample_project.payments.models import Charge, Refund


@pytest.fixture
def charge(post, account):
    post(
        f"/api/accounts/{account.pk}/charges/",
        {"amount": 3000, "currency": "EUR", "reference": "order 1"},
        key="charge",
    )
    return Charge.objects.get()


@pytest.fixture
def path(charge):
    return f"/api/accounts/{charge.account_id}/charges/{charge.pk}/refund/"


def test_a_refund_gives_money_back_once(post, path, account, charge):
    first = post(path, {"amount": 1000, "reason": "damaged"}, key="r-1")
    again = post(path, {"amount": 1000, "reason": "damaged"}, key="r-1")

    account.refresh_from_db()
    charge.refresh_from_db()
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
    assert again["Idempotency-Replayed"] == "true"
    assert (account.balance, charge.amount_refunded, Refund.objects.count()) == (8000, 1000, 1)


def test_without_an_amount_all_that_is_left_is_refunded(post, path, account):
    post(path, {"amount": 1000}, key="r-1")
    rest = post(path, {}, key="r-2")

    account.refresh_from_db()
    assert (rest.json()["amount"], account.balance) == (2000, 10_000)


def test_no_more_than_the_charge_can_be_refunded(post, path, account):
    """A refusal, not an answer: a smaller amount may keep the key."""
    refused = post(path, {"amount": 3001}, key="r-1")
    assert refused.status_code == 400
    assert "3000 EUR" in refused.json()["amount"][0]
    assert not Refund.objects.exists()

    assert post(path, {"amount": 3000}, key="r-1").status_code == 201
    assert post(path, {}, key="r-2").status_code == 400
    account.refresh_from_db()
    assert account.balance == 10_000


def test_a_decline_has_nothing_to_refund(post, account):
    charges = f"/api/accounts/{account.pk}/charges/"
    declined = post(charges, {"amount": 10_001, "currency": "EUR", "reference": "order 2"}, key="declined")

    assert post(f"{charges}{declined.json()['id']}/refund/", {}, key="r-1").status_code == 400


def test_a_refund_needs_a_key_like_its_class(post, path):
    """The decorator on the action sets how long keys live; that they are required, the class says."""
    refused = post(path, {})

    assert (refused.status_code, refused.json()["code"]) == (400, "key-missing")
    assert not Refund.objects.exists()


def test_a_key_belongs_to_one_charge(post, path, account):
    """A refund belongs to the charge in its URL: another one with the same key is refused, not confused."""
    charges = f"/api/accounts/{account.pk}/charges/"
    other = post(charges, {"amount": 500, "currency": "EUR", "reference": "order 2"}, key="other").json()
    post(path, {}, key="r-1")
    refused = post(f"{charges}{other['id']}/refund/", {}, key="r-1")

    assert (refused.status_code, refused.json()["code"]) == (422, "key-reused")
    assert Refund.objects.count() == 1


def test_a_charge_of_another_account_is_not_found(post, charge, savings):
    response = post(f"/api/accounts/{savings.pk}/charges/{charge.pk}/refund/", {}, key="r-1")

    assert response.status_code == 404
    assert not Refund.objects.exists()
