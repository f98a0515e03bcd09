"""The made-up traffic is what the API would have left: it holds together, and its requests are replayed."""

import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from io import StringIO
from itertools import islice
from random import Random

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import TestCase
from rest_framework.test import APIClient

from django_idempotency.models import DecisionCount, IdempotencyRecord, StorageSample
from sample_project.payments.invoices import on_invoice_paid
from sample_project.payments.models import Account, Charge, Deposit, Refund, Transfer
from sample_project.traffic import rhythm
from sample_project.traffic.kept import HOST

CHARGES = "POST api/accounts/<int:account_pk>/charges/"
REFUNDS = "POST api/accounts/<int:account_pk>/charges/<int:pk>/refund/"
TRANSFERS = "POST api/transfers/"
STATEMENTS = "POST api/accounts/<int:account_pk>/statements/"
INVOICES = "invoice.paid"


def seed():
    output = StringIO()
    call_command("seed_traffic", days=3, per_day=200, stdout=output)
    return output.getvalue()


def newest(operation, status=201):
    return IdempotencyRecord.objects.live().filter(operation=operation, status=status).latest("executed_at")


def answer(record):
    return json.loads(bytes(record.body))


def send(user, path, payload, key):
    client = APIClient()
    client.force_authenticate(user)
    headers = {"Idempotency-Key": key, "Host": HOST}
    return client.post(path, json.dumps(payload), content_type="application/json", headers=headers)


def request_of(record):
    """Who sent what where, put together from the answer and the ledger."""
    user = User.objects.get(pk=record.scope.removeprefix("auth.user:"))
    account = user.accounts.get(name="Current")
    if record.operation == CHARGES:
        charge = Charge.objects.get(pk=answer(record)["id"])
        payload = {"amount": charge.amount, "currency": charge.currency, "reference": charge.reference}
        return user, f"/api/accounts/{account.pk}/charges/", payload
    if record.operation == REFUNDS:
        refund = Refund.objects.get(pk=answer(record)["id"])
        return user, f"/api/accounts/{account.pk}/charges/{refund.charge_id}/refund/", {"reason": refund.reason}
    if record.operation == TRANSFERS:
        transfer = Transfer.objects.get(pk=answer(record)["id"])
        payload = {"source": transfer.source_id, "target": transfer.target_id, "amount": transfer.amount}
        return user, "/api/transfers/", payload
    name = re.search(r"statement-(\d{4}-\d\d)\.(\w+)", bytes(record.head).decode())
    return user, f"/api/accounts/{account.pk}/statements/", {"month": name[1], "file": name[2]}


class TestTraffic(TestCase):  # seeded once for all of its tests
    @classmethod
    def setUpTestData(cls):
        cls.output = seed()

    def test_seeding_again_changes_nothing(self):
        models = [Account, Charge, DecisionCount, Deposit, IdempotencyRecord, Refund, StorageSample, Transfer, User]
        before = [list(model.objects.order_by("pk").values()) for model in models]

        assert "already" in seed()
        assert [list(model.objects.order_by("pk").values()) for model in models] == before

    def test_there_is_something_of_everything(self):
        """Each operation, each kind of answer, live and expired, and two without an outcome."""
        records = IdempotencyRecord.objects
        operations = Counter(records.values_list("operation", flat=True))
        statuses = set(records.values_list("status", flat=True))
        heads = b" ".join(bytes(head) for head in records.filter(operation=STATEMENTS).values_list("head", flat=True))

        assert set(operations) == {CHARGES, REFUNDS, TRANSFERS, STATEMENTS, INVOICES}
        assert min(operations.values()) > 3
        assert {0, 200, 201, 402} <= statuses <= {0, 200, 201, 402, 404}
        assert all(kind in heads for kind in (b"text/csv", b"application/zip"))
        assert records.live().count() > 50
        assert records.expired().count() > 50
        assert records.unsettled().count() == 2
        assert f"{records.count()} records" in self.output

    def test_the_counts_are_those_of_the_records(self):
        """An hour has as many executions as it has records, and something came again in every way."""
        records = Counter()
        unsettled = Counter()
        for record in IdempotencyRecord.objects.defer("head", "body"):
            counter = records if record.status else unsettled
            counter[int(record.executed_at.timestamp()) // 3600, record.operation] += 1
        counts = list(DecisionCount.objects.all())

        assert StorageSample.objects.latest("hour").records == (records + unsettled).total()
        assert {(each.hour, each.operation): each.executions for each in counts if each.executions} == records
        assert {(each.hour, each.operation): each.unsettled for each in counts if each.unsettled} == unsettled
        for name in ("replays", "conflicts", "mismatches", "forgotten", "unknown_outcomes"):
            assert any(getattr(each, name) for each in counts), name

    def test_the_ledger_is_that_of_the_records(self):
        """Each answer tells of a row that was booked at that moment, and no row is without an answer but the fees."""
        told = Counter()
        for record in IdempotencyRecord.objects.filter(operation=CHARGES):
            charge = Charge.objects.get(pk=answer(record)["id"])
            told[charge.pk] += 1
            assert (charge.amount, charge.status) == (answer(record)["amount"], answer(record)["status"])
            assert charge.status == ("declined" if record.status == 402 else "succeeded")
            assert charge.created_at == record.executed_at
            assert record.scope == f"auth.user:{charge.account.owner_id}"
        fees = Charge.objects.filter(reference__startswith="statement ").values_list("pk", flat=True)

        assert set(told.values()) == {1}
        assert set(Charge.objects.values_list("pk", flat=True)) == {*told, *fees}
        assert fees.count() == IdempotencyRecord.objects.filter(operation=STATEMENTS).exclude(status=404).count()

    def test_a_seeded_request_is_replayed(self):
        """Sent again, each kind of request gets its record, byte for byte, and nothing is booked."""
        charges = Charge.objects.count()
        for operation in (CHARGES, REFUNDS, TRANSFERS, STATEMENTS):
            record = newest(operation)
            response = send(*request_of(record), record.key)

            assert response.get("Idempotency-Replayed") == "true", operation
            assert (response.status_code, response.content) == (record.status, bytes(record.body))
        assert Charge.objects.count() == charges

    def test_a_seeded_event_is_replayed(self):
        record = newest(INVOICES, 200)
        deposit = Deposit.objects.get(pk=answer(record)["deposit"])
        event = {"id": record.key, "type": INVOICES, "invoice": deposit.invoice}

        assert on_invoice_paid({**event, "account": deposit.account_id, "amount": deposit.amount}) == answer(record)
        assert Deposit.objects.filter(invoice=deposit.invoice).count() == 1

    def test_a_record_is_like_the_apis_own(self):
        """What a new request of each kind leaves differs from a seeded record in values only."""
        Account.objects.update(balance=10**9)
        for operation in (CHARGES, TRANSFERS, STATEMENTS, REFUNDS):
            seeded = newest(operation)
            user, path, payload = request_of(seeded)
            if operation == REFUNDS:
                paid = Charge.objects.filter(account__owner=user, status="succeeded", amount_refunded=0).first()
                path = re.sub(r"charges/\d+", f"charges/{paid.pk}", path)
            response = send(user, path, payload, "new-1")
            assert (response.status_code, response.get("Idempotency-Replayed")) == (201, None), operation
            fresh = IdempotencyRecord.objects.get(operation=operation, key="new-1")

            for name in ("scope", "request", "status"):
                assert getattr(fresh, name) == getattr(seeded, name), (operation, name)
            lifetimes = [each.expires_at - each.executed_at for each in (fresh, seeded)]
            assert abs(lifetimes[0] - lifetimes[1]) < timedelta(minutes=1)
            shown, expected = fresh.record.headers, seeded.record.headers
            assert [name for name, _ in shown] == [name for name, _ in expected], operation
            allowed = [set(dict(headers)["Allow"].split(", ")) for headers in (shown, expected)]
            assert allowed[0] == allowed[1], operation
            assert seeded.request_id

    def test_the_two_users_may_what_the_manual_says(self):
        """The operator everything, support only look."""
        operator, support = (User.objects.get(username=name) for name in ("operator", "support"))

        assert operator.is_superuser
        assert support.is_staff
        assert {permission.partition(".")[2].partition("_")[0] for permission in support.get_all_permissions()} == {
            "view"
        }
        assert support.has_perm("django_idempotency.view_idempotencyrecord")
        assert not support.has_perm("django_idempotency.view_stored_response")
        assert all(
            APIClient().login(username=user.username, password="sample-password") for user in (operator, support)
        )


@pytest.mark.parametrize("hour", [0, 9, 23])
def test_the_release_is_within_the_last_three_days(hour):
    """Whatever the hour at which the history ends."""
    until = datetime(2026, 3, 1, hour, 40, tzinfo=UTC)

    assert until - timedelta(days=3) < rhythm.release(until) < until - timedelta(days=1)


def test_the_same_end_makes_the_same_requests():
    """The manual's pictures stay as they are until the project changes."""
    until = datetime(2026, 3, 1, 9, 40, tzinfo=UTC)

    def requests():
        random = Random(8)
        hours = rhythm.hours(until - timedelta(days=7), until, per_day=400)
        return [(hour.firsts(random), list(islice(rhythm.operations(random), 9))) for hour in hours]

    assert requests() == requests()
    assert len(requests()) == 7 * 24 + 1
