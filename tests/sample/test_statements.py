"""Statements: an answer that is a file, and costs a fee."""

import io
import zipfile
from datetime import UTC, datetime

import pytest

from sample_project.payments import ledger
from sample_project.payments.models import Account, Charge

MONTH = "2024-12"


@pytest.fixture
def path(account):
    return f"/api/accounts/{account.pk}/statements/"


@pytest.fixture
def booked(account, savings):
    """One booking of each kind, in the last second of a month, and one in the first of the next."""
    charge = ledger.charge(account, amount=1250, reference="order 1")
    rows = [
        charge,
        ledger.refund(charge, amount=250),
        ledger.transfer(account, savings, amount=3000),
        ledger.transfer(savings, account, amount=1000),
        ledger.deposit(account, amount=500, invoice="INV-1"),
        ledger.charge(account, amount=10**9, reference="declined"),
    ]
    for microsecond, row in enumerate(rows):
        row.created_at = datetime(2024, 12, 31, 23, 59, 59, microsecond, tzinfo=UTC)
        row.save()
    later = ledger.charge(account, amount=1, reference="next month")
    later.created_at = datetime(2025, 1, 1, tzinfo=UTC)
    later.save()


def test_a_statement_lists_what_moved(post, path, booked):
    """Every kind of booking with its sign, in its order; a decline moved nothing."""
    response = post(path, {"month": MONTH}, key="s-1")

    assert (response.status_code, response["Content-Type"]) == (201, "text/csv; charset=utf-8")
    assert response["Content-Disposition"] == f'attachment; filename="statement-{MONTH}.csv"'
    lines = [line.split(",")[1:] for line in response.content.decode().splitlines()]
    assert lines == [
        ["text", "amount"],
        ["order 1", "-1250"],
        ["refund of order 1", "250"],
        ["transfer out", "-3000"],
        ["transfer in", "1000"],
        ["INV-1", "500"],
    ]


def test_a_retry_gets_the_same_file_for_one_fee(post, path, booked):
    """Bytes that are no text, too; the fee is taken once."""
    first = post(path, {"month": MONTH, "file": "zip"}, key="s-1")
    again = post(path, {"month": MONTH, "file": "zip"}, key="s-1")

    assert (first.status_code, first["Content-Type"]) == (201, "application/zip")
    assert zipfile.ZipFile(io.BytesIO(first.content)).namelist() == ["statement.csv"]
    assert (again.status_code, again.content, again["Idempotency-Replayed"]) == (201, first.content, "true")
    assert Charge.objects.filter(reference=f"statement {MONTH}", amount=100).count() == 1


def test_a_month_without_bookings_costs_nothing(post, path, booked):
    """404 is an answer: a retry gets it again."""
    first = post(path, {"month": "2001-12"}, key="s-1")
    again = post(path, {"month": "2001-12"}, key="s-1")

    assert (first.status_code, first.json()) == (404, {"detail": "Nothing was booked in 2001-12."})
    assert (again.content, again["Idempotency-Replayed"]) == (first.content, "true")
    assert not Charge.objects.filter(reference="statement 2001-12").exists()


def test_a_fee_that_cannot_be_paid_is_declined(post, path, booked):
    Account.objects.update(balance=99)

    assert post(path, {"month": MONTH}, key="s-1").status_code == 402


@pytest.mark.parametrize("change", [{"month": "2026-13"}, {"month": "soon"}, {"file": "exe"}])
def test_a_statement_that_cannot_be_is_refused(post, path, booked, change):
    refused = post(path, {"month": MONTH, **change}, key="s-1")

    assert (refused.status_code, list(refused.json())) == (400, list(change))


def test_statements_are_the_owners(post, path, booked, client_of, bob, support):
    """Not even staff orders one, since it costs the owner's money."""
    for user in (bob, support):
        assert post(path, {"month": MONTH}, key="s-1", client=client_of(user)).status_code == 404
