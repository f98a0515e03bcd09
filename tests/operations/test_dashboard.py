"""The dashboard: its numbers, its time, its words, and who sees it."""

import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.db import connection
from django.http import QueryDict
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path, reverse
from django.utils import timezone, translation

from django_idempotency.admin import charts
from django_idempotency.admin import dashboard as page
from django_idempotency.models import DecisionCount, StorageSample
from django_idempotency.operations import counts as statistics
from django_idempotency.operations import table_size
from tests.app.serving import VENDOR, without_table
from tests.operations.records import live

NOW = datetime(2026, 11, 25, 12, 34, 56, tzinfo=UTC)
HOUR = statistics.hour_of(NOW.timestamp())


def counted(age=0, operation="POST payments/", using="default", **numbers):
    """Counts of the hour that is *age* hours before NOW's."""
    return DecisionCount.objects.using(using).create(hour=HOUR - age, operation=operation, **numbers)


def shown(query="", zone="UTC", now=NOW):
    """The data of the page."""
    with timezone.override(zone):
        return page.dashboard(QueryDict(query), now)


@pytest.fixture
def site(serve):
    """The admin, at its URL."""
    serve(path("admin/", admin.site.urls))


@pytest.fixture
def staff(django_user_model):
    return django_user_model.objects.create_user("operator", password="secret", is_staff=True)


@pytest.fixture
def operator(site, staff):
    """A client of somebody who may view records."""
    return allowed(staff, "view_idempotencyrecord")


def allowed(user, *permissions):
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def opened(client, query=""):
    return client.get(reverse("admin:django_idempotency_idempotencyrecord_dashboard") + query)


def pictures(response):
    """The charts, as XML: whatever they contain is well formed."""
    found = re.findall(r"(<svg[^>]*role=\"img\".*?</svg>)\s*</div>", response.content.decode(), re.DOTALL)
    return [ElementTree.fromstring(each) for each in found]  # noqa: S314 our own


# --- numbers ---


@pytest.mark.django_db
def test_duplicates_that_did_no_harm_are_replays_and_refused_ones():
    """Not what the handler itself refused, nor what never reached the store."""
    counted(executions=1000, replays=4, conflicts=2, mismatches=1, forgotten=50, unavailable=7, unknown_outcomes=3)
    counted(age=30, replays=100)

    data = shown()

    assert data["headline"] == ("7", "duplicates did no harm")
    assert page.headline(1) == ("1", "duplicate did no harm")
    assert data["harmless_in_all"] == "107"
    assert data["share"] == "0.7"
    assert data["total"]["executions"] == "1,000"
    assert [(str(name), value) for name, value in data["others"]] == [
        ("unknown outcomes", "3"),
        ("store unavailable", "7"),
        ("forgotten", "50"),
    ]


@pytest.mark.django_db
@pytest.mark.parametrize(("query", "hours"), [("", 24), ("period=24h", 24), ("period=7d", 168), ("period=other", 24)])
def test_a_period_of_hours_ends_with_the_one_that_runs(query, hours):
    """And has as many as it says."""
    for age in (0, hours - 1, hours):
        counted(age=age, executions=1)
    counted(age=-1, executions=1)  # of a process whose clock is ahead

    data = shown(query)

    assert data["total"]["executions"] == "3"
    assert len(data["charts"][0].bars) == hours


@pytest.mark.django_db
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/St_Johns", "Europe/Berlin", "Pacific/Apia"])
def test_days_are_those_of_the_time_zone(zone):
    """Every hour is in one day and none in two, whatever the offset; Berlin and St John's change theirs meanwhile."""
    now = datetime(2026, 11, 10, 12, 34, tzinfo=UTC)
    last = statistics.hour_of(now.timestamp())
    DecisionCount.objects.bulk_create(
        DecisionCount(hour=last - age, operation="a", executions=1) for age in range(24 * 32)
    )

    data = shown("period=30d", zone, now)

    with timezone.override(zone):
        today = timezone.localdate(now)
        begin = timezone.make_aware(datetime(today.year, today.month, today.day) - timedelta(days=29))
    within = sum((last - age) * 3600 >= begin.timestamp() for age in range(24 * 32))
    assert data["total"]["executions"] == str(within)
    assert len(data["charts"][0].bars) == 30
    change = {"Europe/Berlin": {"25"}, "America/St_Johns": {"25"}}.get(zone, set())
    assert {row["executions"] for _, row in data["rows"][1:-1]} == {"24"} | change


@pytest.mark.django_db
def test_an_hour_is_shown_in_the_time_zone():
    """On the axis and in what a pointer is told."""
    counted(executions=1)
    bar = shown(zone="Asia/Kolkata")["charts"][0].bars[-1]
    assert bar.title.splitlines() == ["Nov. 25, 2026, 5:30 p.m.", "Executions: 1"]
    assert {text for _x, _anchor, text in shown()["charts"][0].labels} == {"6 p.m.", "midnight", "6 a.m.", "noon"}


@pytest.mark.django_db
def test_operations_by_traffic_and_one_alone():
    """The busiest first; a link shows one alone."""
    counted(operation="quiet", executions=1)
    counted(operation="busy & <loud>", executions=5, replays=10)
    counted(operation="refused", conflicts=9)

    listed = shown()["operations"]
    assert [row["name"] for row in listed["rows"]] == ["busy & <loud>", "refused", "quiet"]
    alone = shown(listed["rows"][0]["query"].removeprefix("?"))
    assert alone["total"]["executions"] == "5"
    assert [row["name"] for row in alone["operations"]["rows"]] == ["busy & <loud>"]


@pytest.mark.django_db
def test_many_operations_are_cut_and_the_rest_can_be_asked_for(monkeypatch):
    """A page does not grow with the names that a callable makes up."""
    monkeypatch.setattr(page, "LISTED", 2)
    monkeypatch.setattr(page, "ALL_LISTED", 3)
    for number in range(4):
        counted(operation=str(number), executions=number + 1)

    some = shown()["operations"]
    assert ([row["name"] for row in some["rows"]], some["listed"]) == (["3", "2"], "2")
    more = shown(some["all"].removeprefix("?"))["operations"]
    assert ([row["name"] for row in more["rows"]], more["listed"], more["all"]) == (["3", "2", "1"], "3", "")


@pytest.mark.django_db
def test_stored_records_are_counted_while_they_are_few(monkeypatch):
    """Beyond that the database's own estimate serves, and no statement goes through the table."""
    live(3)
    few = page.measure("default")
    monkeypatch.setattr(table_size, "COUNTED", 2)
    monkeypatch.setattr(table_size, "COUNTED_WITHOUT_ESTIMATE", 2)
    many = page.measure("default")

    assert (few["count"], few["is_estimate"]) == ("3", False)
    assert many["is_estimate"]
    assert int(many["count"].replace(",", "")) >= 2
    assert (few["size"] == "") == (VENDOR == "sqlite")


@pytest.mark.django_db
def test_the_statements_do_not_grow_with_the_data(operator):
    """And each reads counts by their hour."""
    counted(executions=1)
    opened(operator)
    with CaptureQueriesContext(connection) as few:
        opened(operator, "?period=30d")
    for age in range(50):
        counted(age=age, operation=f"operation {age}", executions=1)
    with CaptureQueriesContext(connection) as many:
        opened(operator, "?period=30d")
    assert len(many) == len(few) <= 12


@pytest.mark.django_db(databases=["default", "other"])
def test_each_database_has_its_own_page(operator):
    """Where the project has several."""
    now = statistics.hour_of(timezone.now().timestamp())
    DecisionCount.objects.using("other").create(hour=now, operation="POST ledger/", executions=41)

    assert b"POST ledger/" not in opened(operator).content
    response = opened(operator, "?database=other")
    assert b"POST ledger/" in response.content
    assert '<a href="?period=24h&amp;database=other" aria-current="true">other</a>' in response.content.decode()
    assert opened(operator, "?database=nowhere").status_code == 200


# --- storage ---


def sampled(age, records, size=None):
    return StorageSample.objects.create(hour=HOUR - age, records=records, size=size)


def storage_chart(data):
    (chart,) = [chart for chart in data["charts"] if chart.name == "storage"]
    return chart


@pytest.mark.django_db
def test_stored_records_over_hours():
    """Each hour with a sample has its place, the others are gaps; in numbers, too, with the size."""
    counted(executions=1)
    for age, records in ((23, 1000), (22, 3000), (2, 500), (-1, 600), (24, 9_000_000)):
        sampled(age, records, size=records * 1024)

    data = shown()

    chart = storage_chart(data)
    assert [text for *_y, text in chart.ticks] == ["0", "1,000", "2,000", "3,000"]
    assert chart.line.split(" M") == [
        "M0,106.7 L0.5,106.7 L1.5,0.0 L2,0.0",
        "21,133.3 L21.5,133.3 L22,133.3",
        "23,128.0 L23.5,128.0 L24,128.0",
    ]
    assert chart.area.startswith("M0,160.0 L0,106.7 ")
    assert chart.bars[0].title.splitlines()[1].replace("\xa0", " ") == "Stored records: 1,000 (1000.0 KB)"
    assert chart.bars[5].title.splitlines()[1] == "Not measured"
    assert "From 1,000 to 600" in chart.description
    assert "at most 3,000" in chart.description
    assert {chart.axis for chart in data["charts"]} == {chart.axis}
    rows = [(row["stored"], row["size"].replace("\xa0", " "), row["executions"]) for _, row in data["rows"]]
    assert rows == [
        ("1,000", "1000.0 KB", "0"),
        ("3,000", "2.9 MB", "0"),
        ("500", "500.0 KB", "0"),
        ("600", "600.0 KB", "1"),
    ]


@pytest.mark.django_db
def test_a_day_has_its_last_sample():
    """A level has no sum."""
    counted(executions=1)
    for age, records in ((0, 5), (1, 50), (24, 70), (25, 700)):
        sampled(age, records)

    data = shown("period=30d")

    assert [row["stored"] for _, row in data["rows"]] == ["70", "5"]
    assert [row["size"] for _, row in data["rows"]] == ["", ""]
    assert not data["sizes_are_known"]  # and has no column in the table
    assert storage_chart(data).line.count("M") == 1
    assert len(storage_chart(shown("period=7d")).bars) == 168


@pytest.mark.django_db
def test_no_chart_of_storage_without_a_sample_nor_for_one_operation():
    """Records are not told apart by their operation."""
    counted(executions=1)
    assert [chart.name for chart in shown()["charts"]] == ["executions", "duplicates"]
    sampled(0, 1)
    assert [chart.name for chart in shown()["charts"]] == ["executions", "duplicates", "storage"]
    assert [chart.name for chart in shown("operation=POST payments/")["charts"]] == ["executions", "duplicates"]


@pytest.mark.django_db
def test_a_quiet_period_shows_what_is_stored(operator):
    """A purge takes a sample where nobody asks for anything."""
    DecisionCount.objects.create(hour=0, operation="a", executions=5)
    StorageSample.objects.create(hour=statistics.hour_of(timezone.now().timestamp()), records=1234, size=2**20)

    response = opened(operator)

    assert "Nothing was counted in this period" in response.content.decode()
    (picture,) = pictures(response)
    assert picture.find("title").text == "Stored records"
    assert "1,234" in picture.find("desc").text
    assert "<td>1,234</td><td>1.0\xa0MB</td>" in response.content.decode()


# --- charts ---


@pytest.mark.parametrize(
    ("highest", "step"), [(0, 1), (1, 1), (4, 1), (5, 2), (9, 5), (21, 10), (100, 50), (12_345_678, 5_000_000)]
)
def test_ticks_are_round_numbers(highest, step):
    """1, 2 or 5 times a power of ten, and at most four of them."""
    assert charts.tick_step(highest) == step
    assert -(-highest // step) <= charts.TICKS


def test_columns_stand_on_the_base_line_and_within_the_scale():
    """Each segment on the one before; what is not zero can be seen."""
    columns = [charts.Column(values=values, title="") for values in ((1_000_000, 1, 0), (0, 0, 0), (10, 20, 3))]

    drawn = charts.draw("name", "title", "description", columns, str, {name: name for name in "abc"})

    first, second, third = drawn.bars
    assert [name for name, *_ in first.rectangles] == ["a", "b"]
    assert second.rectangles == ()
    for bar in (first, third):
        bottom = float(drawn.base)
        for _name, y, height in bar.rectangles:
            assert float(y) + float(height) == pytest.approx(bottom, abs=0.1)
            assert float(height) >= charts.LEAST
            bottom = float(y)
        assert bottom >= drawn.top - charts.LEAST
    assert [text for *_y, text in drawn.ticks] == ["0", "500000", "1000000", "1500000"]


@pytest.mark.django_db
@pytest.mark.parametrize("period", ["24h", "7d", "30d"])
def test_the_pictures_are_well_formed_and_say_what_they_show(operator, period):
    """SVG without a script, with a title and a description for those who do not see it."""
    now = statistics.hour_of(timezone.now().timestamp())
    DecisionCount.objects.create(hour=now, operation="a", executions=1234, replays=3, mismatches=1)

    response = opened(operator, f"?period={period}")

    executions, duplicates = pictures(response)
    for picture in (executions, duplicates):
        by_id = {each.get("id"): each for each in picture.iter() if each.get("id")}
        named = picture.get("aria-labelledby").split()
        assert all(by_id[name].text for name in named)
        assert not list(picture.iter("script"))
    assert "1,234" in executions.find("desc").text
    drawn = [rect.get("class") for rect in duplicates.iter("rect") if rect.get("class") != "space"]
    assert drawn == ["replays", "mismatches"]


@pytest.mark.django_db
def test_numbers_are_the_readers_and_coordinates_are_not(operator):
    """A decimal comma in an attribute would break the picture."""
    now = statistics.hour_of(timezone.now().timestamp())
    DecisionCount.objects.create(hour=now, operation="a", executions=1234567, replays=3)
    StorageSample.objects.create(hour=now, records=7654321)

    with translation.override("de"):
        response = operator.get(
            reverse("admin:django_idempotency_idempotencyrecord_dashboard"), headers={"Accept-Language": "de"}
        )

    drawn = [shape for picture in pictures(response) for shape in picture.iter()]
    places = [shape.get(name) for shape in drawn for name in ("x", "y", "x1", "y2", "width", "height")]
    assert all(re.fullmatch(r"\d+(\.\d+)?%?", place) for place in places if place)
    assert any(place and "." in place for place in places)
    assert "1.234.567" in response.content.decode()
    assert "7.654.321" in response.content.decode()
    paths = [shape.get("d") for shape in drawn if shape.get("d")]
    assert len(paths) == 2
    assert all(re.fullmatch(r"([ML][\d.]+,[\d.]+ ?)+", path) for path in paths)


# --- words ---


@pytest.mark.django_db
def test_an_empty_page_says_what_will_be_there(operator):
    """And why it may be empty."""
    content = opened(operator).content.decode()
    assert "Nothing has been counted yet" in content
    assert "<svg" not in content.partition('id="content-main"')[2].partition("<!-- END Content")[0]


@pytest.mark.django_db
def test_a_quiet_period_names_the_last_count(operator):
    """Rather than to draw nothing."""
    DecisionCount.objects.create(hour=0, operation="a", executions=5, replays=2)
    content = opened(operator).content.decode()
    assert "Nothing was counted in this period" in content
    assert "Jan. 1, 1970, 9 a.m." in content  # in the time zone of the project, Asia/Tokyo


@pytest.mark.django_db
def test_that_counting_is_off_is_said(operator, settings):
    settings.IDEMPOTENCY = {"COUNTS": False}
    assert "Counting is switched off" in opened(operator).content.decode()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("table", ["django_idempotency_count", "django_idempotency_storage"])
def test_a_missing_table_names_the_remedy(operator, table):
    """No error page: the table comes with a migration that may not have been run."""
    with without_table(table):
        response = opened(operator)
    assert response.status_code == 200
    assert "manage.py migrate" in response.content.decode()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "query",
    ["?operation=%00", "?operation=%ff", "?operation=" + "x" * 5000, "?period=%00&database=%00", "?operation=%0A%22"],
)
def test_strange_queries_are_answered(operator, query):
    """Never a 500."""
    counted(executions=1)
    assert opened(operator, query).status_code == 200


@pytest.mark.django_db
def test_names_are_escaped(operator):
    """Operations come from a project's code, and what is asked for from anywhere."""
    script = "<script>alert(1)</script>"
    now = statistics.hour_of(timezone.now().timestamp())
    DecisionCount.objects.create(hour=now, operation=f"POST {script}", executions=1)

    for query in ("", f"?operation={script}", f"?operation=POST {script}"):
        content = opened(operator, query).content.decode()
        assert script not in content
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in content


# --- who ---


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("permissions", "status"),
    [((), 403), (("view_idempotencyrecord",), 200), (("view_decisioncount",), 200), (("free_key",), 403)],
)
def test_who_may_view_records_or_counts_sees_it(site, staff, permissions, status):
    """Counts tell less than records: their permission is enough."""
    assert opened(allowed(staff, *permissions)).status_code == status


@pytest.mark.django_db
def test_nobody_else_sees_it(site, user):
    """A visitor is sent to the login, and so is a user who is no staff."""
    assert opened(Client()).status_code == 302
    assert opened(allowed(user, "view_idempotencyrecord")).status_code == 302


# --- observe mode ---


@pytest.mark.django_db
def test_observe_mode_tells_how_many_requests_ran_twice(operator):
    """In a part of its own, so that nothing is taken for protected: a week, its chart, its operations."""
    now = statistics.hour_of(timezone.now().timestamp())
    for age, twice in ((1, 2), (100, 3), (400, 7)):
        DecisionCount.objects.create(
            hour=now - age, operation="POST pay/", observed=100, ran_twice=twice, would_replay=twice, would_mismatch=1
        )
    DecisionCount.objects.create(hour=now, operation="POST keyless/", would_refuse=9)

    response = opened(operator, "?period=7d")

    text = " ".join(response.content.decode().split())
    assert "<strong>5</strong> requests ran twice" in text
    assert "2.5 % of them" in text
    assert "did no harm</h2>" not in text
    assert text.count("POST pay/</a>") == text.count("POST keyless/</a>") == 1
    assert "<td>200</td><td>5</td><td>5</td><td>0</td><td>2</td><td>0</td>" in text
    assert "<td>0</td><td>0</td><td>0</td><td>0</td><td>0</td><td>9</td>" in text
    (picture,) = pictures(response)
    assert picture.find("title").text == "Ran twice, per hour"

    DecisionCount.objects.create(hour=now, operation="POST refund/", executions=41)
    text = " ".join(opened(operator, "?period=7d").content.decode().split())
    assert "did no harm</h2>" in text
    assert text.count("POST pay/</a>") == text.count("POST refund/</a>") == 1
