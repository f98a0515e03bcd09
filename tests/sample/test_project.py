"""The project as its operators meet it: checks, migrations, seed, request ids, settings per database."""

import logging
from io import StringIO

import pytest
from django.core.management import call_command
from rest_framework.test import APIClient

from django_idempotency.operations.audit import endpoints
from django_idempotency.protection.placement import DECORATOR, MIDDLEWARE
from sample_project.payments.models import Account
from sample_project.request_ids import RequestIdFilter
from sample_project.settings import database


@pytest.mark.django_db
def test_the_project_passes_its_checks():
    """Warnings too: what the package's own checks find in this example, they should not have to."""
    call_command("check", "--database", "default", "--fail-level", "WARNING")


def test_the_middleware_alone_protects_what_has_no_options_of_its_own():
    """Every unsafe endpoint is protected, or left out on purpose; a decorator is there only for its options."""
    found = [each for each in endpoints() if not each.route.startswith("admin/") and each.method in ("POST", "any")]
    own = {each.route for each in found if each.protection == DECORATOR}

    assert {each.route for each in found if each.protection not in (DECORATOR, MIDDLEWARE)} == {
        "api-auth/login/",
        "api-auth/logout/",
        "api/token/",
    }
    assert {route.rstrip("/").rpartition("/")[2] for route in own} == {
        "card-payments",
        "refund",
        "statements",
        "top-ups",
    }
    assert all(each.options for each in found if each.route in own)


@pytest.mark.django_db
def test_the_migrations_are_those_of_the_models():
    call_command("makemigrations", "payments", "--check", "--dry-run", stdout=StringIO())


@pytest.mark.django_db
def test_seed_makes_somebody_who_can_pay():
    """What it prints works, and a second run changes nothing."""
    first, second = StringIO(), StringIO()
    call_command("seed", stdout=first)
    Account.objects.filter(name="Current").update(balance=1)
    call_command("seed", stdout=second)
    login = APIClient().post("/api/token/", {"username": "demo", "password": "sample-password"})
    token = login.json()["token"]

    assert f"TOKEN={token}" in first.getvalue()
    assert f"TOKEN={token}" in second.getvalue()
    accounts = Account.objects.order_by("pk").values_list("name", "balance")
    assert list(accounts) == [("Current", 1), ("Savings", 100_000)]


@pytest.mark.django_db
def test_a_request_keeps_the_id_that_it_came_with(client):
    assert client.get("/api/", headers={"X-Request-ID": "proxy-17"})["X-Request-ID"] == "proxy-17"


@pytest.mark.django_db
@pytest.mark.parametrize("sent", ["", "two words", "line\tbreak", "x" * 65])
def test_an_id_that_does_not_fit_into_a_log_line_is_replaced(client, sent):
    response = client.get("/api/", headers={"X-Request-ID": sent})

    assert len(response["X-Request-ID"]) == 32


def test_log_lines_outside_a_request_have_no_id():
    record = logging.makeLogRecord({})

    assert RequestIdFilter().filter(record)
    assert record.request_id == "-"


@pytest.mark.parametrize(
    ("url", "engine", "option"),
    [
        ("sqlite:///payments.sqlite3", "sqlite3", ("transaction_mode", "IMMEDIATE")),
        ("postgres://user@localhost:5432/payments", "postgresql", None),
        ("mysql://user@localhost:3306/payments", "mysql", ("charset", "utf8mb4")),
    ],
)
def test_each_database_gets_its_options(url, engine, option):
    settings = database(url)

    assert settings["ENGINE"] == f"django.db.backends.{engine}"
    assert option is None or option in settings["OPTIONS"].items()
