"""
Carries the requests out, at moments that are past: the ledger's rows, and what was answered.

The ledger books as it does for the API, and the project's own serializers write the answers.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from random import Random
from typing import Any

from django.contrib.auth.models import User
from django.test import RequestFactory
from django.urls import reverse
from rest_framework.renderers import JSONRenderer

from django_idempotency import Policy
from django_idempotency.core.fingerprint import canonical_json
from django_idempotency.core.keys import Attempt
from sample_project.payments import ledger, statements
from sample_project.payments.models import Account, Charge, Currency
from sample_project.payments.serializers import ChargeSerializer, RefundSerializer, TransferSerializer

from . import rhythm
from .kept import FOR_A_DAY, FOR_A_WEEK, HOST, Kept, event_attempt, request_attempt
from .rhythm import Repeats

CUSTOMERS: Mapping[str, Currency] = {
    "amara": Currency.EUR,
    "bruno": Currency.EUR,
    "chiara": Currency.EUR,
    "dmitri": Currency.USD,
    "elif": Currency.EUR,
    "farah": Currency.EUR,
    "goran": Currency.USD,
    "hana": Currency.JPY,
    "ines": Currency.EUR,
    "jonas": Currency.EUR,
    "kwame": Currency.USD,
    "linnea": Currency.EUR,
}
REASONS = ("", "", "damaged", "wrong size", "came too late", "ordered twice")
JSON = ("Content-Type", "application/json")
ONLY_POST = (("Vary", "Accept"), ("Allow", "POST, OPTIONS"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    user: User
    current: Account
    savings: Account


@dataclass(slots=True)
class History:
    """
    The *days* that end at *until*, with some *per_day* requests. On an empty database the same three make the same.

    Moments and amounts are drawn by lot; what a small history must have, too, comes in turn.
    """

    until: datetime
    days: int
    per_day: int
    kept: Kept = field(default_factory=Kept)
    random: Random = field(default_factory=lambda: Random(8))  # noqa: S311 - made-up data is no secret
    customers: list[Customer] = field(default_factory=list)
    refundable: list[tuple[Customer, Charge, str]] = field(default_factory=list)  # with the charge's key
    orders: int = 1000
    invoices: int = 400
    statements: int = 0

    @property
    def begins(self) -> datetime:
        return self.until - timedelta(days=self.days)

    def carry_out(self) -> None:
        """Write the whole history. Needs a database without these customers, and a transaction around it."""
        self.customers = [self.open_accounts(name, currency) for name, currency in CUSTOMERS.items()]
        actions: Mapping[str, Callable[[datetime, Repeats], None]] = {
            rhythm.CHARGES: self.charge,
            rhythm.TRANSFERS: self.transfer,
            rhythm.INVOICES: self.pay_invoice,
            rhythm.REFUNDS: self.refund,
            rhythm.STATEMENTS: self.order_statement,
        }
        released = rhythm.release(self.until)
        broken = [released + timedelta(seconds=48), released + timedelta(seconds=171)]
        operations = rhythm.operations(self.random)
        for hour in rhythm.hours(self.begins, self.until, self.per_day):
            for moment in hour.firsts(self.random):
                while broken and self.begins <= broken[0] <= moment:
                    self.order_broken_statement(broken.pop(0))
                if self.begins <= moment < self.until:
                    operation = next(operations)
                    actions[operation](moment, hour.repeats_of(operation))
        self.kept.save()

    def open_accounts(self, name: str, currency: Currency) -> Customer:
        user = User.objects.create_user(name)
        balance = self.random.randrange(80_000, 400_000)
        current = Account.objects.create(owner=user, name="Current", currency=currency, balance=balance)
        savings = Account.objects.create(owner=user, name="Savings", currency=currency, balance=balance)
        return Customer(user=user, current=current, savings=savings)

    def charge(self, moment: datetime, repeats: Repeats) -> None:
        customer = self.random.choice(self.customers)
        account = customer.current
        self.orders += 1
        amount = self.amount(3_500 if self.orders % 60 else 500_000)  # more than the balance: a decline
        payload = {"amount": amount, "currency": account.currency, "reference": f"order {self.orders}"}
        charge = ledger.charge(account, amount=amount, reference=payload["reference"])
        date(charge, moment)
        declined = charge.status == Charge.Status.DECLINED
        key = self.random.choice([self.uuid(), f"order-{self.orders}"])
        if not declined:
            self.refundable.append((customer, charge, key))
        self.kept.answer(
            self.attempt(customer, reverse("charge-list", args=[account.pk]), payload, key),
            moment,
            status=HTTPStatus.PAYMENT_REQUIRED if declined else HTTPStatus.CREATED,
            headers=(
                JSON,
                ("Location", f"http://{HOST}{reverse('charge-detail', args=[account.pk, charge.pk])}"),
                ("Vary", "Accept"),
                ("Allow", "GET, POST, HEAD, OPTIONS"),
            ),
            body=JSONRenderer().render(ChargeSerializer(charge).data),
            repeats=repeats,
        )

    def refund(self, moment: datetime, repeats: Repeats) -> None:
        if not self.refundable:
            self.charge(moment, repeats)
            return
        customer, charge, key = self.refundable.pop(self.random.randrange(len(self.refundable)))
        reason = self.random.choice(REASONS)
        refund = ledger.refund(charge, reason=reason)
        date(refund, moment)
        # A client that names keys after orders sends the same key here: another operation, so another identity.
        key = key if key.startswith("order-") else self.uuid()
        path = reverse("charge-refund", args=[customer.current.pk, charge.pk])
        self.kept.answer(
            self.attempt(customer, path, {"reason": reason}, key, FOR_A_WEEK),
            moment,
            status=HTTPStatus.CREATED,
            headers=(JSON, *ONLY_POST),
            body=JSONRenderer().render(RefundSerializer(refund).data),
            repeats=repeats,
        )

    def transfer(self, moment: datetime, repeats: Repeats) -> None:
        customer = self.random.choice(self.customers)
        source, target = customer.current, customer.savings
        if self.random.random() < 0.4:
            source, target = target, source
        amount = self.amount(6_000)
        try:
            transfer = ledger.transfer(source, target, amount=amount)
        except ledger.LedgerRefusal:  # a 400, which leaves nothing: the customer charges instead
            self.charge(moment, repeats)
            return
        date(transfer, moment)
        request = RequestFactory().get("/")
        request.user = customer.user
        self.kept.answer(
            self.attempt(
                customer,
                reverse("transfer-create"),
                {"source": source.pk, "target": target.pk, "amount": amount},
                self.uuid(),
            ),
            moment,
            status=HTTPStatus.CREATED,
            headers=(JSON, *ONLY_POST),
            body=JSONRenderer().render(TransferSerializer(transfer, context={"request": request}).data),
            repeats=repeats,
        )

    def pay_invoice(self, moment: datetime, repeats: Repeats) -> None:
        account = self.random.choice(self.customers).current
        self.invoices += 1
        event = {
            "id": f"evt_{self.random.getrandbits(64):016x}",
            "type": "invoice.paid",
            "invoice": f"INV-{moment:%Y}-{self.invoices:05}",
            "account": account.pk,
            "amount": self.amount(18_000),
        }
        deposit = ledger.deposit(account, amount=event["amount"], invoice=event["invoice"])
        date(deposit, moment)
        self.kept.answer(
            event_attempt("invoice.paid", event),
            moment,
            status=HTTPStatus.OK,
            reason="",
            headers=(JSON,),
            body=canonical_json({"deposit": deposit.pk, "invoice": deposit.invoice}),
            repeats=repeats,
        )

    def order_statement(self, moment: datetime, repeats: Repeats) -> None:
        customer = self.random.choice(self.customers)
        self.statements += 1
        month = f"{moment:%Y-%m}" if self.statements % 6 else f"{moment.replace(day=1) - timedelta(days=1):%Y-%m}"
        file = sorted(statements.FILES)[self.statements % 2]
        bookings = statements.bookings(customer.current, month)
        headers: tuple[tuple[str, str], ...] = (JSON,)
        if not bookings:
            status = HTTPStatus.NOT_FOUND
            body = JSONRenderer().render({"detail": f"Nothing was booked in {month}."})
        elif self.take_fee(customer, month, moment):
            status = HTTPStatus.CREATED
            content_type, write = statements.FILES[file]
            headers = (("Content-Disposition", statements.disposition(month, file)), ("Content-Type", content_type))
            body = write(bookings)
        else:
            status = HTTPStatus.PAYMENT_REQUIRED
            body = JSONRenderer().render({"detail": "The fee cannot be paid."})
        self.kept.answer(
            self.statement_attempt(customer, month, file),
            moment,
            status=status,
            headers=(*headers, *ONLY_POST),
            body=body,
            repeats=repeats,
        )

    def order_broken_statement(self, moment: datetime) -> None:
        """
        An order without an outcome.

        The release of that day made a table for statements inside the handler, which ends the transaction on MariaDB:
        the fee was taken, and the answer could not be stored. A person has to say what becomes of it.
        """
        customer = self.random.choice(self.customers)
        month = f"{moment:%Y-%m}"
        self.take_fee(customer, month, moment)
        attempt = self.statement_attempt(customer, month, "zip")
        self.kept.no_outcome(attempt, moment, refused=self.random.randrange(2, 5))

    def take_fee(self, customer: Customer, month: str, moment: datetime) -> bool:
        fee = ledger.charge(customer.current, amount=statements.FEE, reference=statements.reference(month))
        date(fee, moment)
        return fee.status == Charge.Status.SUCCEEDED

    def attempt(
        self, customer: Customer, path: str, payload: dict[str, Any], key: str, policy: Policy = FOR_A_DAY
    ) -> Attempt:
        request_id = self.uuid().replace("-", "")
        return request_attempt(customer.user, path, payload, key=key, request_id=request_id, policy=policy)

    def statement_attempt(self, customer: Customer, month: str, file: str) -> Attempt:
        path = reverse("statement-order", args=[customer.current.pk])
        key = f"statement-{self.uuid()[:8]}"
        return self.attempt(customer, path, {"month": month, "file": file}, key, FOR_A_WEEK)

    def uuid(self) -> str:
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def amount(self, usual: int) -> int:
        """Around *usual* minor units; a cent and a yen are worth about the same."""
        return max(1, round(self.random.lognormvariate(0, 0.8) * usual))


def date(booked: Any, moment: datetime) -> None:
    """The ledger dates by the clock; this booking was at *moment*."""
    booked.created_at = moment
    booked.save(update_fields=["created_at"])
