"""What operators see under settings that projects have: without time zones, in another zone, in another language."""

import json
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.utils import formats, timezone

from django_idempotency import once
from django_idempotency.models import DecisionCount, IdempotencyRecord
from django_idempotency.operations import records
from django_idempotency.operations.counts import hour_of
from django_idempotency.operations.purging import purge
from django_idempotency.stores import stores
from django_idempotency.testing import expire
from tests.operations.pages import page, text

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls("tests.operations.admin_urls")]

MINUTE = timedelta(minutes=1)


@pytest.fixture(params=[("Asia/Tokyo", True), ("Asia/Tokyo", False), ("America/New_York", False)], ids=str)
def zone(request, settings):
    """The project's time zone, with `USE_TZ` and without."""
    settings.TIME_ZONE, settings.USE_TZ = request.param
    return timezone.get_default_timezone()


@once("settings.pay", key=str, scope=lambda event: "shop")
def pay(event):
    return event


def run(*arguments):
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def unsettle(key):
    """Let the outcome of this key be unsettled, by the store's own claim; its digest."""
    pay(key)
    IdempotencyRecord.objects.filter(key=key).update(status=0, head=b"", body=b"")
    return bytes(IdempotencyRecord.objects.get(key=key).digest)


def test_a_record_has_the_times_of_its_server(zone):
    """In UTC, whatever Django makes of them."""
    pay("key-1")
    [stored] = stores["default"].of_scope(None, "shop")
    until = stored.expires_at - timedelta(days=1)
    now = datetime.now(UTC)

    for moment in (stored.executed_at, stored.now, until):
        assert moment.utcoffset() == timedelta(0)
        assert abs(moment - now) < 10 * MINUTE


def test_unsettled_outcomes_of_databases_and_stores_are_one_list(zone, keys):
    """In the order of their times, which are told in UTC."""
    keys.unsettle(keys.attempt("redis-1"))
    unsettle("row-1")
    keys.unsettle(keys.attempt("redis-2"))

    listed = json.loads(run("idempotency_unsettled", "--json"))

    assert [each["key"] for each in listed] == ["redis-1", "row-1", "redis-2"]
    for each in listed:
        assert abs(datetime.fromisoformat(each["executed_at"]) - datetime.now(UTC)) < 10 * MINUTE
    assert f"executed     {datetime.now(UTC):%Y-%m-%d}" in run("idempotency_show", "row-1")


@pytest.mark.parametrize("decision", ["free", "settle"])
def test_what_was_read_is_what_is_changed(zone, decision):
    """The execution is compared to the microsecond."""
    stored = stores["default"].find(None, unsettle("key-1"))
    answer = records.CompletionRecord(status=204)

    assert records.free(stored) if decision == "free" else records.settle(stored, answer)


def test_the_admins_pages_are_in_the_projects_zone(zone, admin_client):
    """The list, the record, the decision and the unsettled outcomes."""
    digest = unsettle("key-1")
    executed_at = timezone.localtime(stores["default"].find(None, digest).executed_at)
    shown = formats.date_format(executed_at, "DATETIME_FORMAT")

    for url in (page("changelist"), page("unsettled"), page("settle", digest.hex()), page("change", digest.hex())):
        assert shown in text(admin_client.get(url)), url


@pytest.mark.parametrize("period", ["24h", "7d", "30d"])
def test_the_dashboard(zone, admin_client, period):
    """Counts of this hour are in the last column of each period."""
    DecisionCount.objects.create(hour=hour_of(datetime.now(UTC).timestamp()), operation="a", executions=41)

    response = admin_client.get(page("dashboard"), {"period": period})

    assert response.context["charts"][0].bars[-1].title.endswith("Executions: 41")


def test_a_purge(zone):
    pay("key-1")
    assert purge().count == 0
    IdempotencyRecord.objects.update(expires_at=timezone.now() - timedelta(days=2))

    assert purge().count == 1


def test_a_record_expires_for_a_test(zone):
    """`expire` of the testing kit, which moves the record."""
    pay("key-1")

    assert expire("key-1") == 1
    assert purge().count == 1


def test_another_language(settings, admin_client):
    """Numbers, dates and Django's own words are its; nothing breaks for it."""
    settings.LANGUAGE_CODE = "de"
    digest = unsettle("key-1")

    for url in (page("changelist"), page("unsettled"), page("settle", digest.hex()), page("dashboard")):
        assert admin_client.get(url).status_code == 200
    assert "key-1" in run("idempotency_unsettled")
