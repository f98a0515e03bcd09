"""
The consumer of `invoice.paid` events.

A queue delivers an event at least once: again after a crash, a timeout, a rebalance. Its own id is the key
under which the work is done once; a redelivery returns what the first delivery returned.
"""

from typing import TypedDict

from django_idempotency import once

from . import ledger
from .models import Account


class InvoicePaid(TypedDict):
    """An event as the billing system sends it."""

    id: str
    type: str
    invoice: str
    account: int
    amount: int  # minor units of the account's currency


class Booked(TypedDict):
    deposit: int
    invoice: str


@once("invoice.paid", key=lambda event: event["id"])
def on_invoice_paid(event: InvoicePaid) -> Booked:
    """Credit the account that the invoice belongs to."""
    account = Account.objects.get(pk=event["account"])
    deposit = ledger.deposit(account, amount=event["amount"], invoice=event["invoice"])
    return {"deposit": deposit.pk, "invoice": deposit.invoice}
