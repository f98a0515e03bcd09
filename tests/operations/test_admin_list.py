"""The admin's list of records: what it finds, by which index, and that its size costs nothing."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from django_idempotency.admin import IdempotencyRecordAdmin, changelist, filters
from django_idempotency.core.record import TOMBSTONE
from django_idempotency.models import AnswerEnd, DecisionCount, IdempotencyRecord
from django_idempotency.testing.clock import LONG_AGO
from tests.operations.pages import make_record, make_unsettled, page, text
from tests.operations.records import live, record, save

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.operations.admin_urls")]

# Committed, because MariaDB's ANALYZE commits.
BIG = pytest.mark.parametrize("many", [3000], indirect=True)


def listed(client: Client, **query: Any) -> list[str]:
    """The keys on the list, in its order."""
    response = client.get(page("changelist"), query)
    assert response.status_code == 200
    return [found.key for found in response.context["cl"].result_list]


def plan(sql: str, params: Any) -> str:
    """How the database executes a query, as it says."""
    prefix = "EXPLAIN QUERY PLAN " if connection.vendor == "sqlite" else "EXPLAIN "
    with connection.cursor() as cursor:
        cursor.execute(prefix + sql, params)
        return "\n".join(str(row) for row in cursor.fetchall())


SCANS = {
    "postgresql": re.compile(r"Seq Scan on django_idempotency_record"),
    "sqlite": re.compile(r"SCAN django_idempotency_record(?! USING)"),
    "mysql": re.compile(r"'django_idempotency_record', 'ALL'"),
}


@pytest.fixture
def queries() -> Callable[..., list[tuple[str, Any]]]:
    """What a request asks of the table of records: each statement with its parameters."""

    def run(client: Client, **query: Any) -> list[tuple[str, Any]]:
        found = []

        def note(execute, sql, params, many, context):
            if IdempotencyRecord._meta.db_table in sql:
                found.append((sql, params))
            return execute(sql, params, many, context)

        with connection.execute_wrapper(note):
            assert client.get(page("changelist"), query).status_code == 200
        return found

    return run


@pytest.fixture
def many(request, transactional_db) -> None:
    """As many records as let every planner prefer its indexes, and statistics of them."""
    live(request.param)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE" if connection.vendor != "mysql" else "ANALYZE TABLE django_idempotency_record")


# --- search ---


def test_an_exact_key_is_found(admin_client):
    """As it is, with space around it, and as the header quotes it; in every scope."""
    make_record("key-1")
    make_record("key-1", scope="auth.user:2")
    make_record("key-12")

    for spelled in ("key-1", " key-1\n", '"key-1"', '"key-1";v=1'):
        assert listed(admin_client, q=spelled) == ["key-1", "key-1"]


def test_an_identity_is_found(admin_client):
    """Logs show it."""
    found, _other = make_record("key-1"), make_record("key-2")

    assert listed(admin_client, q=str(found)) == ["key-1"]
    assert listed(admin_client, q=str(found).upper()) == ["key-1"]


def test_a_key_that_looks_like_an_identity_is_found(admin_client):
    make_record("ab" * 32)

    assert listed(admin_client, q="ab" * 32) == ["ab" * 32]


@pytest.mark.parametrize(
    "term",
    ["key", "ey-1", "KEY-1", "key-%", "auth.user:1", "kéy-1", "k" * 256, "'; --", '"key-1', "\U0001f600", "00" * 32],
)
def test_anything_else_finds_nothing(admin_client, term):
    """No part of a key, no other case, no pattern; and no error."""
    make_record("key-1")

    assert listed(admin_client, q=term) == []


def test_the_help_says_what_a_search_takes(admin_client):
    assert "An exact idempotency key" in text(admin_client.get(page("changelist")))


@BIG
def test_a_search_goes_by_an_index(many, admin_client, queries):
    """Of the key, or the primary key, in every query that looks for it."""
    target = IdempotencyRecord.objects.all()[1500]

    for term, index in ((target.key, "idempotency_record_key"), (str(target), None)):
        searches = [(sql, params) for sql, params in queries(admin_client, q=term) if "WHERE" in sql]
        assert searches
        for sql, params in searches:
            shown = plan(sql, params)
            assert not SCANS[connection.vendor].search(shown), shown
            assert index is None or "IN" not in sql.split("digest")[0] or index in shown, shown
        assert any("idempotency_record_key" in plan(*query) for query in searches)


# --- the list ---


@BIG
def test_a_list_of_many_goes_by_an_index(many, admin_client, queries, monkeypatch):
    """Ordered by that of `expires_at`; nothing is counted to its end, no body is read."""
    monkeypatch.setattr(changelist, "REACHABLE", 500)
    # So few of so many that no planner would rather read and sort them all.
    monkeypatch.setattr(filters, "SAMPLED", 5)
    monkeypatch.setattr(IdempotencyRecordAdmin, "list_per_page", 5)

    asked = queries(admin_client) + queries(admin_client, o="6") + queries(admin_client, o="-6")

    assert asked
    for sql, params in asked:
        assert " LIMIT " in sql, sql
        assert not re.search(r"[`\"](body|head)[`\"]", sql), sql
        if "ORDER BY" in sql:
            shown = plan(sql, params)
            assert "idempotency_record_expires" in shown, shown
            assert not SCANS[connection.vendor].search(shown), shown


@BIG
def test_the_size_of_the_table_costs_no_query(many, admin_client, queries):
    before = len(queries(admin_client))
    live(500)

    assert len(queries(admin_client)) == before <= 10


@BIG
def test_pages_end_and_say_so(many, admin_client, monkeypatch):
    """Past their end an OFFSET would walk over all that it skips: there are filters and the search instead."""
    monkeypatch.setattr(changelist, "REACHABLE", 250)

    response = admin_client.get(page("changelist"))

    assert (response.context["cl"].result_count, response.context["cl"].paginator.num_pages) == (250, 3)
    total = "; there are more" if connection.vendor == "sqlite" else " of about [23],\\d+"
    assert re.search(rf"These pages hold the first 250{total}", text(response).replace("250 records;", "250;"))
    assert len(listed(admin_client, p="3")) == 50
    # `e=1` says that the page was not there.
    assert admin_client.get(page("changelist"), {"p": "4"})["Location"].endswith("?e=1")
    filtered = text(admin_client.get(page("changelist"), {"state": "completed"}))
    assert "These pages hold the first 250 records; there are more." in filtered


def test_newest_expiry_first_on_every_page(admin_client, monkeypatch):
    """In the order of `expires_at`, whichever way pages are found; the other way round where that is asked for."""
    save(record(f"key-{number:03}", expires_in=3600 + number * 7) for number in range(230))
    expected = [f"key-{number:03}" for number in reversed(range(230))]

    for reachable in (10_000, 229):
        monkeypatch.setattr(changelist, "REACHABLE", reachable)
        found = [key for number in "123" for key in listed(admin_client, p=number)]
        assert found == expected[:reachable]
    monkeypatch.undo()
    assert listed(admin_client, o="6") == [f"key-{number:03}" for number in range(100)]
    assert listed(admin_client, o="0") == listed(admin_client)  # no other column has an index to sort by


def test_columns(admin_client):
    make_record("done", ttl=timedelta(hours=23, minutes=59, seconds=59))
    make_record("gone", ttl=timedelta(seconds=-1))
    make_unsettled("unknown")

    shown = text(admin_client.get(page("changelist")))

    rows = dict(re.findall(r'<tr><th class="field-key">.*?>([a-z]+)</a></th>(.*?)</tr>', shown, re.DOTALL))
    assert re.search(r"completed.*201.*23\xa0hours, 59\xa0minutes", rows["done"], re.DOTALL)
    assert re.search(r"expired.*201.*>-<", rows["gone"], re.DOTALL)
    assert re.search(r"unsettled.*>-<", rows["unknown"], re.DOTALL)


# --- filters ---


def test_filters(admin_client):
    """By what the next request meets, by the class of the status, by operation."""
    ttl = timedelta(hours=23)  # PostgreSQL's clock stands still at the beginning of the test's transaction
    make_record("created", ttl=ttl)
    make_record("moved", status=303, ttl=ttl)
    make_record("declined", status=402, operation="POST charges/", ttl=ttl)
    make_record("expired", ttl=timedelta(seconds=-1))
    make_unsettled("unsettled", ttl=timedelta(minutes=30))
    make_unsettled("not-by-time", ttl=timedelta(seconds=-1), uncertain_until=None)
    make_unsettled("settled-by-time", ttl=timedelta(seconds=-1))
    make_record("late", status=404, ttl=timedelta(days=6))
    make_record("tombstone", status=TOMBSTONE, ttl=timedelta(days=60))
    ended = make_record("ended", ttl=timedelta(days=60))
    AnswerEnd.objects.create(digest=ended.digest, executed_at=ended.executed_at, ends_at=ended.executed_at)
    other = make_record("used again", ttl=timedelta(days=60))
    AnswerEnd.objects.create(digest=other.digest, executed_at=LONG_AGO, ends_at=LONG_AGO)

    def found(**query: str) -> set[str]:
        return set(listed(admin_client, **query))

    assert found(state="completed") == {"created", "moved", "declined", "late", "used again"}
    assert found(state="tombstone") == {"tombstone", "ended"}
    assert found(state="expired") == {"expired", "settled-by-time"}
    assert found(state="unsettled") == {"unsettled", "not-by-time"}
    assert found(expires="hour") == set()
    assert found(expires="day") == {"created", "moved", "declined"}
    assert found(expires="week") == found(expires="day") | {"late"}
    assert found(answer="2xx") == {"created", "expired", "ended", "used again"}
    assert found(answer="3xx") == {"moved"}
    assert found(answer="4xx") == {"declined", "late"}
    assert found(answer="5xx") == set()
    assert found(operation="POST charges/") == {"declined"}
    assert found(state="completed", answer="2xx", operation="POST pay/", q="created") == {"created"}


@pytest.mark.parametrize(
    "query",
    [
        {"state": "x"}, {"expires": "x"}, {"answer": "9xx"}, {"answer": "x\x00"}, {"operation": "a\x00b"},
        {"operation": "x" * 9000}, {"database": "nowhere"}, {"database": "\x00"}, {"o": "99.x.-"}, {"state": ""},
        {"q": "a\x00b"}, {"p": "99"},
    ],
)  # fmt: skip
def test_a_filter_of_nonsense_finds_nothing_or_all(admin_client, query):
    make_record()

    assert len(listed(admin_client, **query)) <= 1


def test_a_parameter_that_no_filter_has_leads_back(admin_client):
    """To the whole list, with Django's own mark that something was wrong."""
    response = admin_client.get(page("changelist"), {"unknown": "1"})

    assert response.status_code == 302
    assert response["Location"].endswith("?e=1")
    assert admin_client.get(response["Location"]).status_code == 200


def test_operations_on_offer(admin_client):
    """Those of the newest records and those that were counted this week; the chosen one is among them."""
    make_record(operation="POST charges/")
    this_hour = int(timezone.now().timestamp()) // 3600
    DecisionCount.objects.create(hour=this_hour - 1, operation="POST refused/", replays=1)
    DecisionCount.objects.create(hour=this_hour - 24 * 30, operation="POST old/", replays=1)

    def offered(**query: str) -> list[str]:
        response = admin_client.get(page("changelist"), query)
        spec = next(each for each in response.context["cl"].filter_specs if each.parameter_name == "operation")
        return [title for _value, title in spec.lookup_choices]

    assert offered() == ["POST charges/", "POST refused/"]
    assert offered(operation="POST rare/") == ["POST charges/", "POST rare/", "POST refused/"]
