"""Transfers: the function view, for which a key is welcome and not required."""

import pytest

from sample_project.payments.models import Account, Transfer

PATH = "/api/transfers/"


@pytest.fixture
def payload(account, savings):
    return {"source": account.pk, "target": savings.pk, "amount": 2500}


def balances():
    return list(Account.objects.order_by("pk").values_list("balance", flat=True))


def test_a_transfer_moves_money_once(post, payload):
    first = post(PATH, payload, key="t-1")
    again = post(PATH, payload, key="t-1")

    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
    assert again["Idempotency-Replayed"] == "true"
    assert (balances(), Transfer.objects.count()) == ([7500, 2500], 1)


def test_without_a_key_each_one_counts(post, payload):
    for _ in range(2):
        assert post(PATH, payload).status_code == 201

    assert (balances(), Transfer.objects.count()) == ([5000, 5000], 2)


@pytest.mark.parametrize("key", [None, "t-1"])
def test_too_little_money_moves_nothing(post, payload, key):
    """Here a refusal is no fact to keep: once there is enough, the same request succeeds."""
    refused = post(PATH, {**payload, "amount": 10_001}, key=key)
    assert (refused.status_code, balances()) == (400, [10_000, 0])

    Account.objects.filter(pk=payload["source"]).update(balance=10_001)
    assert post(PATH, {**payload, "amount": 10_001}, key=key).status_code == 201
    assert balances() == [0, 10_001]


def test_accounts_of_two_currencies_do_not_mix(post, payload):
    Account.objects.filter(pk=payload["target"]).update(currency="JPY")

    assert post(PATH, payload, key="t-1").status_code == 400
    assert balances() == [10_000, 0]


def test_an_account_cannot_pay_itself(post, payload):
    assert post(PATH, {**payload, "target": payload["source"]}, key="t-1").status_code == 400
    assert not Transfer.objects.exists()


@pytest.mark.parametrize("side", ["source", "target"])
def test_both_accounts_must_be_the_callers(post, payload, bob, side):
    """Another's account is refused like one that does not exist."""
    theirs = Account.objects.create(owner=bob, name="Current", currency="EUR", balance=10_000)
    refused = post(PATH, {**payload, side: theirs.pk}, key="t-1")

    assert (refused.status_code, list(refused.json())) == (400, [side])
    assert not Transfer.objects.exists()
