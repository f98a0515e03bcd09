"""The event consumer: what a queue delivers twice is booked once."""

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from sample_project.payments.invoices import on_invoice_paid
from sample_project.payments.models import Account, Deposit


@pytest.fixture
def event(account):
    return {
        "id": "evt-1",
        "type": "invoice.paid",
        "invoice": "INV-7",
        "account": account.pk,
        "amount": 4200,
    }


def test_a_redelivered_event_is_booked_once(event, account):
    """The second delivery gets the first one's result, and its work is not done again."""
    first = on_invoice_paid(event)
    again = on_invoice_paid(event)

    account.refresh_from_db()
    assert first == again == {"deposit": Deposit.objects.get().pk, "invoice": "INV-7"}
    assert account.balance == 14_200


def test_another_event_is_another_deposit(event, account):
    on_invoice_paid(event)
    on_invoice_paid({**event, "id": "evt-2"})

    account.refresh_from_db()
    assert account.balance == 18_400


def test_an_event_that_fails_is_free_for_its_redelivery(event, account):
    """It came before its account was known; the queue sends it again, and then it is booked."""
    unknown = {**event, "account": account.pk + 1}
    with pytest.raises(Account.DoesNotExist):
        on_invoice_paid(unknown)
    Account.objects.create(pk=account.pk + 1, owner=account.owner, name="New", currency="EUR", balance=0)

    on_invoice_paid(unknown)
    assert Account.objects.get(pk=account.pk + 1).balance == 4200


def test_an_id_names_one_event_whatever_else_a_redelivery_says(event):
    """A queue adds a delivery count, a sender its present state: the event is the one that was booked."""
    first = on_invoice_paid(event)

    assert on_invoice_paid({**event, "deliveries": 2}) == first
    assert Deposit.objects.count() == 1


def test_the_command_feeds_a_file(event, tmp_path):
    """Events without a consumer are named and passed by; the same file again changes nothing."""
    file = tmp_path / "events.jsonl"
    file.write_text(f"{json.dumps(event)}\n\n{json.dumps({'id': 'evt-9', 'type': 'other'})}\n")
    outputs = []
    for _ in range(2):
        out = StringIO()
        call_command("consume_events", str(file), stdout=out)
        outputs.append(out.getvalue())

    deposit = Deposit.objects.get()
    assert outputs[0] == outputs[1]
    assert f'evt-1: {{"deposit": {deposit.pk}, "invoice": "INV-7"}}' in outputs[0]
    assert "evt-9: no consumer for other" in outputs[0]


def test_the_command_tells_what_must_be_delivered_again(event, tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text(json.dumps({**event, "account": event["account"] + 1}))

    with pytest.raises(CommandError, match="evt-1"):
        call_command("consume_events", str(file), stderr=StringIO())
    assert not Deposit.objects.exists()
