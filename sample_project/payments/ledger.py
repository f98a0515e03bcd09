"""
Everything that moves money, whoever asks: a view, a queue consumer, a shell.

Each function is one transaction of its own, or a part of the caller's. Balances change by statements that
the database computes (`F`) and conditions that it checks, never by a value that Python read earlier.
"""

from django.db import transaction
from django.db.models import F

from .models import Account, Charge, Deposit, Refund, Transfer
from .receipts import send_receipt


class LedgerRefusal(Exception):
    """The ledger refuses this. Nothing was changed; the message is for the caller."""


@transaction.atomic
def charge(account: Account, *, amount: int, reference: str) -> Charge:
    """Take *amount* minor units from *account*; if the balance is too low, that is a decline, which is recorded."""
    # One conditional UPDATE: of two simultaneous charges, the second sees the balance that the first has left.
    debited = Account.objects.filter(pk=account.pk, balance__gte=amount).update(balance=F("balance") - amount)
    charge = Charge.objects.create(
        account=account,
        amount=amount,
        currency=account.currency,
        reference=reference,
        status=Charge.Status.SUCCEEDED if debited else Charge.Status.DECLINED,
        decline_code="" if debited else "insufficient_funds",
    )
    if debited and account.owner.email:
        send_receipt.enqueue(charge.pk)  # an INSERT in this transaction
    return charge


@transaction.atomic
def refund(charge: Charge, *, amount: int | None = None, reason: str = "") -> Refund:
    """Give back *amount* minor units of *charge*, or all that is left of it. Raises `LedgerRefusal`."""
    # Locked: what is left must still be true when it is given back.
    locked = Charge.objects.select_for_update().get(pk=charge.pk)
    if locked.refundable == 0:
        raise LedgerRefusal("Nothing of this charge is left to refund.")
    if amount is None:
        amount = locked.refundable
    if amount > locked.refundable:
        raise LedgerRefusal(f"Only {locked.refundable} {locked.currency} of this charge can be refunded.")
    Charge.objects.filter(pk=locked.pk).update(amount_refunded=F("amount_refunded") + amount)
    Account.objects.filter(pk=locked.account_id).update(balance=F("balance") + amount)
    return Refund.objects.create(charge=locked, amount=amount, reason=reason)


@transaction.atomic
def transfer(source: Account, target: Account, *, amount: int) -> Transfer:
    """Move *amount* minor units between two accounts of one currency. Raises `LedgerRefusal`."""
    # Locked in the order of their keys, so that two transfers in opposite directions cannot deadlock.
    accounts = Account.objects.select_for_update().filter(pk__in=[source.pk, target.pk]).order_by("pk")
    locked = {account.pk: account for account in accounts}
    if len(locked) < 2:
        raise LedgerRefusal("A transfer needs two accounts.")
    if locked[source.pk].currency != locked[target.pk].currency:
        raise LedgerRefusal("The two accounts hold different currencies.")
    if locked[source.pk].balance < amount:
        raise LedgerRefusal("There is not enough on the account.")
    Account.objects.filter(pk=source.pk).update(balance=F("balance") - amount)
    Account.objects.filter(pk=target.pk).update(balance=F("balance") + amount)
    return Transfer.objects.create(source=source, target=target, amount=amount)


@transaction.atomic
def deposit(account: Account, *, amount: int, invoice: str) -> Deposit:
    """Put *amount* minor units on *account*, for *invoice*."""
    Account.objects.filter(pk=account.pk).update(balance=F("balance") + amount)
    return Deposit.objects.create(account=account, amount=amount, invoice=invoice)
