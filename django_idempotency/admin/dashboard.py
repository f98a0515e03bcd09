"""The admin's page of counts: how many duplicates did no harm, when, and to which operations."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import reduce
from itertools import zip_longest
from operator import add as add_up
from typing import Any
from urllib.parse import urlencode

import django
from django.contrib.admin import ModelAdmin
from django.core.exceptions import PermissionDenied
from django.db import connections, router
from django.db.models import F, Max, Min, QuerySet, Sum
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format, number_format
from django.utils.functional import Promise
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from django_idempotency import conf
from django_idempotency.admin.charts import Chart, Column, Series, line, stacked
from django_idempotency.core.keys import UNSTORABLE
from django_idempotency.models import DecisionCount, HourQuerySet, IdempotencyRecord, StorageSample
from django_idempotency.operations import table_size
from django_idempotency.operations.counts import COLUMNS, HOUR, OTHER, hour_of

TEMPLATE = "admin/django_idempotency/dashboard.html"
HARMLESS = ("replays", "conflicts", "mismatches")
LISTED_COLUMNS = ("executions", *HARMLESS, "forgotten")
LISTED = 100  # operations in the table, unless all are asked for
ALL_LISTED = 1000  # even then: names that a callable makes up have no end

Numbers = dict[str, int]  # of each of COLUMNS


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """What a link of the page narrows it to."""

    name: str
    label: Promise
    days: int
    daily: bool = False  # a column for each day, not for each hour


PERIODS = (
    Period(name="24h", label=gettext_lazy("Last 24 hours"), days=1),
    Period(name="7d", label=gettext_lazy("Last 7 days"), days=7),
    Period(name="30d", label=gettext_lazy("Last 30 days"), days=30, daily=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A column of the charts: from *hour* to the next slot's."""

    hour: int
    title: str
    label: str


def dashboard_view(model_admin: "ModelAdmin[Any]", request: HttpRequest) -> TemplateResponse:
    """
    The dashboard in the frame of *model_admin*'s site. `?period=`, `?operation=` and `?database=` narrow it.

    Raises `PermissionDenied` without the permission to view records or counts.
    """
    if not may_view(request):
        raise PermissionDenied
    request.current_app = model_admin.admin_site.name
    opts = IdempotencyRecord._meta
    records = reverse(f"admin:{opts.app_label}_{opts.model_name}_changelist", current_app=request.current_app)
    context = {
        **model_admin.admin_site.each_context(request),
        "title": _("Dashboard"),
        "opts": opts,
        "crumbs": [(records, capfirst(opts.verbose_name_plural))],
        "breadcrumbs_are_a_list": django.VERSION >= (6, 1),
        **dashboard(request.GET, timezone.now()),
    }
    return TemplateResponse(request, TEMPLATE, context)


def may_view(request: HttpRequest) -> bool:
    """May the user of *request* see counts?"""
    return any(
        request.user.has_perm(f"{model._meta.app_label}.view_{model._meta.model_name}")
        for model in (IdempotencyRecord, DecisionCount)
    )


def dashboard(asked: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """What the template shows of the counts up to *now*, as the query string *asked*, in the current time zone."""
    period = next((each for each in PERIODS if each.name == asked.get("period")), PERIODS[0])
    operation = asked.get("operation", "").strip()
    databases = databases_with_counts()
    database = asked.get("database", "")
    database = database if database in databases else databases[0]
    given = {"period": period.name, "operation": operation, "database": database if len(databases) > 1 else ""}
    context: dict[str, Any] = {
        "period": period,
        "operation": operation,
        "database": database if len(databases) > 1 else "",
        "query": given,
        "periods": [(each.label, each == period, query(given, period=each.name)) for each in PERIODS],
        "databases": [(each, each == database, query(given, database=each)) for each in databases[1:] and databases],
        "everything": query(given, operation=""),
        "counts_are_on": conf.counts(),
        "time_zone": timezone.get_current_timezone_name(),
    }
    if not has_table(database):
        return context | {"table_is_missing": True}
    counts = DecisionCount.objects.using(database)
    if operation:
        counts = counts.none() if UNSTORABLE.search(operation) else counts.filter(operation=operation)
    known = counts.aggregate(first=Min("hour"), last=Max("hour"), **sums(HARMLESS))
    if known["first"] is None:
        return context | {"stored": stored_now(database), "is_empty": True}
    slots = list(slots_of(period, now))
    since = counts.since(slots[0].hour)
    by_hour = {row["hour"]: numbers(row) for row in since.order_by().values("hour").annotate(**sums(COLUMNS))}
    filled = filled_slots(slots, by_hour)
    total = add(each for _, each in filled)
    samples = [] if operation else samples_of(slots, database)  # records are not counted for each operation
    harmless, requests = sum(total[name] for name in HARMLESS), sum(total.values())
    context |= {
        "headline": headline(harmless),
        "share": number_format(round(100 * harmless / requests, 1), 1) if requests else "",
        "harmless_in_all": number(sum(int(known[name] or 0) for name in HARMLESS)),
        "first_count": date_format(moment(known["first"]), "DATE_FORMAT"),
        "last_count": date_format(moment(known["last"]), "DATETIME_FORMAT"),
        "total": written(total),
        "others": [
            (DecisionCount._meta.get_field(name).verbose_name, number(total[name]))  # type: ignore[union-attr]
            for name in COLUMNS[4:]
            if total[name]
        ],
        "is_quiet": not requests,
        "charts": charts(period, filled if requests else [], slots, samples),
        "rows": rows(filled, samples),
        "storage_is_sampled": any(samples),
        "sizes_are_known": any(sample is not None and sample.size is not None for sample in samples),
        "operations": operations(since, given, whole=asked.get("operations") == "all"),
        "stored": stored_now(database),
    }
    return context


# --- what is asked of the database ---


def sums(columns: Iterable[str]) -> dict[str, Sum]:
    return {name: Sum(name) for name in columns}


def databases_with_counts() -> list[str]:
    """The aliases that may hold counts: first the one where records are written by default."""
    first = router.db_for_write(DecisionCount)
    return [first, *(each for each in connections if each != first and router.allow_migrate_model(each, DecisionCount))]


def has_table(database: str) -> bool:
    tables = {model._meta.db_table for model in (DecisionCount, StorageSample)}
    return tables <= set(connections[database].introspection.table_names())


def operations(counts: "HourQuerySet[DecisionCount]", given: Mapping[str, str], *, whole: bool) -> dict[str, Any]:
    """The rows of the table of operations, the busiest first."""
    traffic = Sum(reduce(add_up, map(F, COLUMNS)))
    grouped: QuerySet[Any, Any] = counts.order_by().values("operation")
    found = grouped.annotate(traffic=traffic, **sums(LISTED_COLUMNS)).order_by("-traffic", "operation")
    most = ALL_LISTED if whole else LISTED
    rows = list(found[: most + 1])
    return {
        "rows": [
            {
                "name": row["operation"],
                "is_other": row["operation"] == OTHER,
                "query": query(given, operation=row["operation"]),
                **{name: number(int(row[name])) for name in LISTED_COLUMNS},
            }
            for row in rows[:most]
        ],
        "listed": number(most) if len(rows) > most else "",
        "all": "" if whole else query(given, operations="all"),
    }


def stored_now(database: str) -> dict[str, Any]:
    """How many records there are, and their size, as the reader's language writes it."""
    now = table_size.measure(database)
    return {"count": number(now.records), "is_estimate": now.is_estimate, "size": size(now.size)}


def samples_of(slots: Sequence[Slot], database: str) -> list[StorageSample | None]:
    """The last sample in each of *slots*; like counts, those of a clock ahead are in the last."""
    begins = [slot.hour for slot in slots]
    samples: list[StorageSample | None] = [None] * len(slots)
    for sample in StorageSample.objects.using(database).since(begins[0]).order_by("hour"):
        samples[bisect_right(begins, sample.hour) - 1] = sample
    return samples


# --- time ---


def slots_of(period: Period, now: datetime) -> Iterator[Slot]:
    """The hours, or the days of the current time zone, that end with the one that *now* is in."""
    if period.daily:
        today = timezone.localtime(now, timezone.get_current_timezone()).date()
        for age in reversed(range(period.days)):
            day = today - timedelta(days=age)
            label = "" if age % 7 else date_format(day, "j M")
            yield Slot(hour=first_hour(day), title=date_format(day, "DATE_FORMAT"), label=label)
        return
    last = hour_of(now.timestamp())
    for hour in range(last - 24 * period.days + 1, last + 1):
        begin = moment(hour)
        label = ""
        if period.days == 1 and begin.hour % 6 == 0:
            label = date_format(begin, "TIME_FORMAT")
        elif period.days > 1 and begin.hour == 0:
            label = date_format(begin, "D")
        yield Slot(hour=hour, title=date_format(begin, "DATETIME_FORMAT"), label=label)


def first_hour(day: date) -> int:
    """The first hour that begins on *day*: where the offset from UTC is not whole, its midnight is within one."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=timezone.get_current_timezone())
    return -(-int(midnight.timestamp()) // HOUR)


def moment(hour: int) -> datetime:
    """When *hour* begins, in the current time zone."""
    return datetime.fromtimestamp(hour * HOUR, timezone.get_current_timezone())


# --- numbers ---


def filled_slots(slots: list[Slot], by_hour: Mapping[int, Numbers]) -> list[tuple[Slot, Numbers]]:
    """Each slot with the sum of its hours. The last one takes those to come, too, which a clock ahead has counted."""
    ends = [slot.hour for slot in slots[1:]]
    filled = []
    hours = sorted(by_hour)
    for slot, end in zip(slots, [*ends, max([*hours, slots[-1].hour]) + 1], strict=True):
        filled.append((slot, add(by_hour[hour] for hour in hours if slot.hour <= hour < end)))
    return filled


def numbers(row: Mapping[str, Any]) -> Numbers:
    return {name: int(row[name]) for name in COLUMNS}


def add(rows: Iterable[Numbers]) -> Numbers:
    total = dict.fromkeys(COLUMNS, 0)
    for row in rows:
        for name, value in row.items():
            total[name] += value
    return total


def number(value: int) -> str:
    """*value* as the reader's language writes it."""
    return number_format(value, use_l10n=True, force_grouping=True)


def written(row: Numbers) -> dict[str, str]:
    return {name: number(value) for name, value in row.items()}


def size(value: int | None) -> str:
    """Bytes, in a unit that suits; nothing where there is no number."""
    return "" if value is None else filesizeformat(value)


def rows(
    filled: list[tuple[Slot, Numbers]], samples: Sequence[StorageSample | None]
) -> list[tuple[str, dict[str, str]]]:
    """What the charts show, in words: the slots in which there is something."""
    return [
        (slot.title, {**written(each), "stored": number(sample.records), "size": size(sample.size)})
        if sample
        else (slot.title, written(each))
        for (slot, each), sample in zip_longest(filled, samples)
        if sample or any(each.values())
    ]


# --- words ---


def headline(harmless: int) -> tuple[str, str]:
    """The number that matters, and what it is the number of."""
    return number(harmless), ngettext("duplicate did no harm", "duplicates did no harm", harmless)


def charts(
    period: Period,
    filled: list[tuple[Slot, Numbers]],
    slots: Sequence[Slot],
    samples: Sequence[StorageSample | None],
) -> list[Chart]:
    """Those of which there is something to see: of the counts in *filled*, and of storage."""
    if period.daily:
        titles = _("Executions per day"), _("Duplicates that did no harm, per day")
    else:
        titles = _("Executions per hour"), _("Duplicates that did no harm, per hour")
    shown = (("executions", titles[0], ("executions",)), ("duplicates", titles[1], HARMLESS))
    drawn = [_chart(name, title, each, period, filled) for name, title, each in shown if filled]
    if any(samples):
        drawn.append(_storage_chart(period, slots, samples))
    axis = max((chart.axis for chart in drawn), default=0)  # so that an hour stands under the same hour
    return [replace(chart, axis=axis) for chart in drawn]


def _chart(name: str, title: str, shown: tuple[str, ...], period: Period, filled: list[tuple[Slot, Numbers]]) -> Chart:
    series = [Series(name=each, label=_labels()[each]) for each in shown]
    columns = [
        Column(
            values=tuple(each[part.name] for part in series),
            title="\n".join([slot.title, *(f"{part.label}: {number(each[part.name])}" for part in series)]),
            label=slot.label,
        )
        for slot, each in filled
    ]
    highest = max(range(len(columns)), key=lambda place: sum(columns[place].values))
    description = _("%(total)s in the period “%(period)s”, at most %(most)s: %(when)s.") % {
        "total": number(sum(sum(column.values) for column in columns)),
        "period": period.label,
        "most": number(sum(columns[highest].values)),
        "when": filled[highest][0].title,
    }
    return stacked(name, title, description, series, columns, number)


def _storage_chart(period: Period, slots: Sequence[Slot], samples: Sequence[StorageSample | None]) -> Chart:
    columns = [
        Column(
            values=(sample.records,) if sample else (),
            title="\n".join([slot.title, stored(sample) if sample else _("Not measured")]),
            label=slot.label,
        )
        for slot, sample in zip(slots, samples, strict=True)
    ]
    measured = [(slot, sample) for slot, sample in zip(slots, samples, strict=True) if sample]
    most = max(measured, key=lambda each: each[1].records)
    description = _("From %(first)s to %(last)s in the period “%(period)s”, at most %(most)s: %(when)s.") % {
        "first": number(measured[0][1].records),
        "last": number(measured[-1][1].records),
        "period": period.label,
        "most": number(most[1].records),
        "when": most[0].title,
    }
    title = _("Stored records, at the end of each day") if period.daily else _("Stored records")
    return line("storage", title, description, columns, number)


def stored(sample: StorageSample) -> str:
    """One line about *sample*."""
    text = f"{_('Stored records')}: {number(sample.records)}"
    return text if sample.size is None else f"{text} ({size(sample.size)})"


def _labels() -> dict[str, str]:
    return {
        "executions": _("Executions"),
        "replays": _("Replays"),
        "conflicts": _("Conflicts"),
        "mismatches": _("Mismatches"),
    }


def query(given: Mapping[str, str], **changes: str) -> str:
    """The query string of this page with *changes*; what is empty is left out."""
    return "?" + urlencode({name: value for name, value in {**given, **changes}.items() if value})
