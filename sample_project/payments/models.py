"""
Accounts and the ledger rows that explain their balances.

Money is whole minor units (cents; yen) with a currency beside it: no rounding, no fractions. What must never
be untrue of it is a constraint of the database, so that a mistake in the code is an error, not a loss.
"""

from typing import TYPE_CHECKING

from django.conf import settings
from django.db import models
from django.db.models import F, Q

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser, User


class Currency(models.TextChoices):
    EUR = "EUR", "Euro"
    USD = "USD", "US dollar"
    JPY = "JPY", "Yen"


class AccountQuerySet(models.QuerySet["Account"]):
    def visible_to(self, user: "User | AnonymousUser") -> "AccountQuerySet":
        """The accounts that *user* may know of: one's own, and all of them for staff."""
        if user.is_staff:
            return self
        return self.filter(owner_id=user.pk)


class Account(models.Model):
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="accounts")
    name = models.CharField(max_length=64)
    currency = models.CharField(max_length=3, choices=Currency)
    balance = models.BigIntegerField(default=0, help_text="In minor units of the currency.")

    objects = AccountQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(balance__gte=0), name="account_balance_not_negative"),
            models.CheckConstraint(condition=Q(currency__in=Currency.values), name="account_currency_known"),
            models.UniqueConstraint(fields=["owner", "name"], name="account_name_once_per_owner"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.currency})"


class Charge(models.Model):
    """An attempt to take money from an account. A decline is a fact too, and is kept."""

    class Status(models.TextChoices):
        SUCCEEDED = "succeeded"
        DECLINED = "declined"

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="charges")
    amount = models.BigIntegerField(help_text="In minor units of the currency.")
    currency = models.CharField(max_length=3, choices=Currency)
    reference = models.CharField(max_length=64, help_text="The caller's own name for it, such as an order.")
    status = models.CharField(max_length=16, choices=Status)
    decline_code = models.CharField(max_length=32, blank=True)
    amount_refunded = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="charge_amount_positive"),
            models.CheckConstraint(
                condition=Q(amount_refunded__gte=0, amount_refunded__lte=F("amount")),
                name="charge_refunded_within_amount",
            ),
            models.CheckConstraint(
                condition=Q(status="succeeded", decline_code="")
                | (Q(status="declined", amount_refunded=0) & ~Q(decline_code="")),
                name="charge_decline_has_code",
            ),
        ]

    def __str__(self) -> str:
        return f"Charge {self.pk} of {self.amount} {self.currency}"

    @property
    def refundable(self) -> int:
        """What can still be given back, in minor units."""
        return self.amount - self.amount_refunded if self.status == self.Status.SUCCEEDED else 0


class Refund(models.Model):
    charge = models.ForeignKey(Charge, on_delete=models.PROTECT, related_name="refunds")
    amount = models.BigIntegerField(help_text="In minor units of the charge's currency.")
    reason = models.CharField(max_length=128, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [models.CheckConstraint(condition=Q(amount__gt=0), name="refund_amount_positive")]

    def __str__(self) -> str:
        return f"Refund {self.pk} of {self.charge}"


class Transfer(models.Model):
    source = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="transfers_out")
    target = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="transfers_in")
    amount = models.BigIntegerField(help_text="In minor units of the accounts' currency.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="transfer_amount_positive"),
            models.CheckConstraint(condition=~Q(source=F("target")), name="transfer_between_two_accounts"),
        ]

    def __str__(self) -> str:
        return f"Transfer {self.pk} of {self.amount}"


class Deposit(models.Model):
    """Money that came in because an invoice was paid."""

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="deposits")
    amount = models.BigIntegerField(help_text="In minor units of the account's currency.")
    invoice = models.CharField(max_length=64)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [models.CheckConstraint(condition=Q(amount__gt=0), name="deposit_amount_positive")]

    def __str__(self) -> str:
        return f"Deposit {self.pk} for {self.invoice}"
