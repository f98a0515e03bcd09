"""What an operator decides about a key in the admin: with a permission, a confirmation and a reason, and on the log."""

from datetime import timedelta
from html import unescape

import pytest
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.test import Client
from django.urls import reverse

from django_idempotency.models import IdempotencyRecord
from tests.operations.pages import address, decide, make_record, make_unsettled, page, text

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.operations.admin_urls")]

ANY_DATABASE = pytest.mark.django_db(databases=["default", "other"])


def test_a_freed_key_runs_again(admin_client, api):
    """The action runs a second time, which is what the confirmation says."""
    headers = {"Idempotency-Key": "key-1"}
    first = api.post("/pay/", {"amount": 10}, headers=headers)
    record = IdempotencyRecord.objects.get()

    response = decide(admin_client, "free", record, reason="The customer was refunded, ticket 17.")

    assert "The key is free" in text(response)
    assert not IdempotencyRecord.objects.exists()
    second = api.post("/pay/", {"amount": 10}, headers=headers)
    assert second.status_code == 201
    assert second.json() != first.json()


def test_it_is_kept_in_the_log(admin_client, admin_user):
    """Who, which identity, which operation, why; never the key."""
    record = make_record("secret-key-1", operation="POST refunds/")

    decide(admin_client, "free", record, reason="[1] was a mistake")

    entry = LogEntry.objects.get()
    assert (entry.user, entry.action_flag) == (admin_user, DELETION)
    assert (entry.object_id, entry.object_repr) == (str(record), f"{str(record)[:12]}… POST refunds/")
    assert entry.content_type.model_class() is IdempotencyRecord
    assert "POST refunds/" in entry.get_change_message()
    assert entry.get_change_message().endswith("Reason: [1] was a mistake")
    assert "secret-key-1" not in f"{entry} {entry.change_message} {entry.object_repr}"


def test_the_log_outlives_the_record(admin_client):
    """The index lists it, and the history of the identity is still there to be read."""
    record = make_record()
    decide(admin_client, "free", record, reason="Ticket 18")

    assert f"{str(record)[:12]}… POST pay/" in text(admin_client.get(reverse("admin:index")))
    shown = text(admin_client.get(page("history", record)))
    assert "Ticket 18" in shown
    assert page("change", record) in shown
    assert "There is no record" not in shown


def test_the_page_leads_to_the_decision(operator):
    """A button, for those with the permission, where there is something to decide."""
    free, settle = operator("free_key", name="free"), operator("settle_outcome", name="settle")
    record, unsettled = make_record("a"), make_unsettled("b")
    expired = make_record("c", ttl=timedelta(seconds=-1))

    def offered(client: Client, of: IdempotencyRecord) -> list[str]:
        shown = text(client.get(page("change", of)))
        return [name for name in ("free", "settle") if f'href="{page(name, of)}"' in shown]

    assert [offered(free, each) for each in (record, unsettled, expired)] == [["free"], [], []]
    assert [offered(settle, each) for each in (record, unsettled, expired)] == [[], ["settle"], []]


@pytest.mark.parametrize("permission", [None, "view_stored_response", "settle_outcome"])
def test_free_needs_its_own_permission(operator, permission):
    client = operator(*([permission] if permission else []))
    record = make_record()

    assert client.get(page("free", record)).status_code == 403
    assert client.post(page("free", record), {"reason": "x"}).status_code == 403
    assert IdempotencyRecord.objects.exists()


@pytest.mark.parametrize("permission", [None, "view_stored_response", "free_key"])
def test_settle_needs_its_own_permission(operator, permission):
    client = operator(*([permission] if permission else []))
    record = make_unsettled()

    assert client.get(page("settle", record)).status_code == 403
    assert client.post(page("settle", record), {"choice": "run-again", "reason": "x"}).status_code == 403
    assert IdempotencyRecord.objects.exists()


@pytest.mark.parametrize("reason", ["", "   ", "x" * 1001, "a\x00b"])
def test_a_reason_is_asked_for(admin_client, reason):
    record = make_record()

    response = decide(admin_client, "free", record, reason=reason)

    assert "Please correct the error below." in text(response)
    assert IdempotencyRecord.objects.exists()
    assert not LogEntry.objects.exists()


def test_looking_frees_nothing(admin_client):
    """The confirmation page says what it means; GET does nothing."""
    record = make_record()

    shown = text(admin_client.get(page("free", record), {"reason": "x"}))

    assert "runs the action again" in shown
    assert record.key in shown
    assert IdempotencyRecord.objects.exists()


def test_another_execution_is_not_freed_by_mistake(admin_client):
    """Between the page and the button the key expired and was used again: that record was not looked at."""
    record = make_record()
    hidden = admin_client.get(page("free", record)).context["adminform"].form.initial
    IdempotencyRecord.objects.all().delete()
    make_record(executed_at=record.executed_at + timedelta(seconds=1))

    response = admin_client.post(page("free", record), {**hidden, "reason": "x"}, follow=True)

    assert "the key has been used again since" in text(response)
    assert IdempotencyRecord.objects.exists()
    assert not LogEntry.objects.exists()


def test_what_is_settled_by_time_is_not_decided(admin_client):
    """Expired, or completed where an outcome was to be settled: the page says what the record is now."""
    expired, completed = make_record("a", ttl=timedelta(seconds=-1)), make_record("b")

    assert "the record is now expired" in text(admin_client.get(page("free", expired), follow=True))
    assert "the record is now completed" in text(admin_client.get(page("settle", completed), follow=True))
    assert IdempotencyRecord.objects.count() == 2


def test_settled_to_keep_refusing(admin_client):
    """The claim stays until it expires; the decision is in its history, in words."""
    record = make_unsettled()

    response = decide(admin_client, "settle", record, choice="keep-refusing", reason="Paid, answered by e-mail.")

    assert "stays refused" in text(response)
    record.refresh_from_db()
    assert (record.status, LogEntry.objects.get().action_flag) == (0, CHANGE)
    assert "Paid, answered by e-mail." in text(admin_client.get(page("history", record)))


@pytest.mark.parametrize("choice", ["", "refuse", "run-again\x00"])
def test_a_decision_is_one_of_those_offered(admin_client, choice):
    record = make_unsettled()

    assert "Please correct the error below." in text(
        decide(admin_client, "settle", record, choice=choice, reason="because")
    )
    assert IdempotencyRecord.objects.exists()


def test_a_reason_is_text(admin_client):
    """Markup in a reason is shown as it was typed."""
    record = make_unsettled()
    reason = "<script>alert(1)</script>"

    decide(admin_client, "settle", record, choice="keep-refusing", reason=reason)

    for url in (page("history", record), reverse("admin:index")):
        assert reason not in text(admin_client.get(url))
    assert reason in unescape(text(admin_client.get(page("history", record))))


@ANY_DATABASE
def test_a_key_of_another_database(admin_client):
    """It is freed there, and the log's address of it names that database."""
    here, there = make_record(), make_record(using="other")

    decide(admin_client, "free", there, reason="Moved")

    assert LogEntry.objects.get().object_id == address(there) == f"{there}@other"
    assert not IdempotencyRecord.objects.using("other").exists()
    assert IdempotencyRecord.objects.get() == here
    assert "Moved" in text(admin_client.get(page("history", address(there))))


def test_a_failing_log_frees_nothing(admin_client, monkeypatch):
    """No key is freed without a trace: both are one transaction."""
    record = make_record()

    def fail(**kwargs):
        raise RuntimeError("no log")

    monkeypatch.setattr(LogEntry.objects, "create", fail)
    with pytest.raises(RuntimeError, match="no log"):
        decide(admin_client, "free", record, reason="x")

    assert IdempotencyRecord.objects.exists()
