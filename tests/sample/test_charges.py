"""Charges, as a caller of the API sees them."""

import pytest
from django.db import IntegrityError, transaction

from sample_project.payments.models import Account, Charge

ORDER = {"amount": 1250, "currency": "EUR", "reference": "order 1"}


@pytest.fixture
def path(account):
    return f"/api/accounts/{account.pk}/charges/"


def test_a_charge_takes_the_money(post, path, account):
    """A charge is 201, a row, and so much less on the account."""
    response = post(path, ORDER, key="k-1")

    account.refresh_from_db()
    charge = Charge.objects.get()
    assert response.status_code == 201
    assert response["Location"] == f"http://testserver{path}{charge.pk}/"
    assert response.json()["status"] == "succeeded"
    assert (charge.amount, charge.currency, account.balance) == (1250, "EUR", 8750)


def test_a_retry_gets_the_first_answer(post, path, account):
    """The same request again: the same bytes and headers, marked, and nothing moves."""
    first = post(path, ORDER, key="k-1")
    again = post(path, ORDER, key="k-1")

    account.refresh_from_db()
    assert "Idempotency-Replayed" not in first
    assert again["Idempotency-Replayed"] == "true"
    assert (again.status_code, again.content, again["Location"]) == (201, first.content, first["Location"])
    assert (Charge.objects.count(), account.balance) == (1, 8750)


def test_another_payload_with_its_key_is_refused(post, path, account):
    """422, and nothing of the first answer."""
    post(path, ORDER, key="k-1")
    refused = post(path, {**ORDER, "amount": 9900}, key="k-1")

    account.refresh_from_db()
    assert (refused.status_code, refused.json()["code"]) == (422, "key-reused")
    assert (Charge.objects.count(), account.balance) == (1, 8750)


def test_a_charge_without_a_key_is_refused(post, path):
    """Nobody can retry it safely, so nobody may send it."""
    refused = post(path, ORDER)

    assert (refused.status_code, refused.json()["code"]) == (400, "key-missing")
    assert not Charge.objects.exists()


def test_a_decline_is_written_down_and_replayed(post, path, account):
    """402 is an answer: the row stays, and a retry gets the same even when there is money by then."""
    declined = post(path, {**ORDER, "amount": 10_001}, key="k-1")
    Account.objects.update(balance=50_000)
    again = post(path, {**ORDER, "amount": 10_001}, key="k-1")

    charge = Charge.objects.get()
    assert (charge.status, charge.decline_code) == ("declined", "insufficient_funds")
    assert (declined.status_code, again.status_code, again.content) == (402, 402, declined.content)
    assert again["Idempotency-Replayed"] == "true"
    assert Account.objects.get().balance == 50_000


def test_the_whole_balance_can_be_charged(post, path, account):
    assert post(path, {**ORDER, "amount": 10_000}, key="k-1").status_code == 201
    account.refresh_from_db()
    assert account.balance == 0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"amount": 0}, "amount"),
        ({"amount": -1}, "amount"),
        ({"amount": 12.5}, "amount"),
        ({"amount": 10**13}, "amount"),
        ({"amount": "many"}, "amount"),
        ({"currency": "USD"}, "currency"),
        ({"currency": "XXX"}, "currency"),
        ({"reference": ""}, "reference"),
        ({"reference": "r" * 65}, "reference"),
    ],
)
def test_a_payload_that_is_refused_can_be_mended(post, path, change, field):
    """The serializer's 400 leaves nothing behind: the mended payload may keep its key."""
    refused = post(path, {**ORDER, **change}, key="k-1")
    assert (refused.status_code, list(refused.json())) == (400, [field])
    assert not Charge.objects.exists()

    assert post(path, ORDER, key="k-1").status_code == 201
    assert Charge.objects.count() == 1


def test_charges_are_listed(post, path, client_of, ann):
    """The newest first; reading needs no key."""
    for number in (1, 2):
        post(path, {**ORDER, "reference": f"order {number}"}, key=f"k-{number}")

    listed = client_of(ann).get(path).json()["results"]
    assert [charge["reference"] for charge in listed] == ["order 2", "order 1"]


@pytest.mark.parametrize(
    "break_it",
    [
        lambda account: Account.objects.filter(pk=account.pk).update(balance=-1),
        lambda account: Account.objects.filter(pk=account.pk).update(currency="XXX"),
        lambda account: Charge.objects.update(amount=0),
        lambda account: Charge.objects.update(amount_refunded=1251),
        lambda account: Charge.objects.update(amount_refunded=-1),
        lambda account: Charge.objects.update(status="declined"),
        lambda account: Charge.objects.update(decline_code="insufficient_funds"),
    ],
    ids=["overdrawn", "currency", "nothing", "refunded-more", "refunded-less", "no-code", "code"],
)
def test_the_database_refuses_what_must_not_be(post, path, account, break_it):
    """The constraints hold whatever the code does."""
    post(path, ORDER, key="k-1")

    with pytest.raises(IntegrityError), transaction.atomic():
        break_it(account)
