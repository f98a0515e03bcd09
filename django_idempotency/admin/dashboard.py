"""The admin's page of counts: how many duplicates did no harm, when, and of which operations."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce
from itertools import zip_longest
from operator import add
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
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from django_idempotency import conf
from django_idempotency.admin.changelist import format_number
from django_idempotency.admin.charts import Chart, Column, draw
from django_idempotency.admin.history import (
    PERIODS,
    Filled,
    Numbers,
    Period,
    Samples,
    Slot,
    fill,
    find_samples,
    make_slots,
    moment,
    sums,
)
from django_idempotency.core.keys import UNSTORABLE
from django_idempotency.models import DecisionCount, HourQuerySet, IdempotencyRecord, StorageSample
from django_idempotency.operations import table_size
from django_idempotency.operations.tally import COLUMNS, DECISIONS, OTHER

TEMPLATE = "admin/django_idempotency/dashboard.html"
HARMLESS = ("replays", "conflicts", "mismatches")
LISTED_COLUMNS = ("executions", *HARMLESS, "forgotten")
WOULD_BE = ("would_replay", "would_conflict", "would_mismatch", "would_refuse")  # of observe mode
OBSERVED_COLUMNS = ("observed", "ran_twice", *WOULD_BE)
TRAFFIC = (*DECISIONS, "observed")  # each request once, but for observed ones without an identity
LISTED = 100  # operations in the table, unless all are asked for
ALL_LISTED = 1000  # even then: a callable may make up operations without end


def dashboard_view(model_admin: "ModelAdmin[Any]", request: HttpRequest) -> TemplateResponse:
    """
    The dashboard in the frame of *model_admin*'s site. `?period=`, `?operation=` and `?database=` narrow it.

    Raises `PermissionDenied` without the permission to view records or counts.
    """
    views = [f"{model._meta.app_label}.view_{model._meta.model_name}" for model in (IdempotencyRecord, DecisionCount)]
    if not any(map(request.user.has_perm, views)):
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
        **dashboard(request.GET, timezone.now().astimezone(UTC)),
    }
    return TemplateResponse(request, TEMPLATE, context)


def dashboard(asked: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """The template's context: the counts up to *now*, narrowed by the query string *asked*."""
    period = next((each for each in PERIODS if each.name == asked.get("period")), PERIODS[0])
    operation = asked.get("operation", "").strip()
    databases = find_databases()
    database = asked.get("database", "")
    database = database if database in databases else databases[0]
    given = {"period": period.name, "operation": operation, "database": database if len(databases) > 1 else ""}
    context: dict[str, Any] = {
        "period": period,
        "operation": operation,
        "periods": [(each.label, each == period, query(given, period=each.name)) for each in PERIODS],
        "databases": [(each, each == database, query(given, database=each)) for each in databases[1:] and databases],
        "everything": query(given, operation=""),
        "counts_are_on": conf.counts(),
        "time_zone": timezone.get_current_timezone_name(),
    }
    if not has_tables(database):
        return context | {"table_is_missing": True}
    counts = DecisionCount.objects.using(database)
    if operation:
        counts = counts.none() if UNSTORABLE.search(operation) else counts.filter(operation=operation)
    known = counts.aggregate(first=Min("hour"), last=Max("hour"), **sums(HARMLESS))
    stored = measure(database)
    if known["first"] is None:
        return context | {"stored": stored, "is_empty": True}
    slots = list(make_slots(period, now))
    since = counts.since(slots[0].hour)
    filled = fill(slots, since)
    total = {name: sum(each[name] for _slot, each in filled) for name in COLUMNS}
    samples = [] if operation else find_samples(slots, database)  # records are not counted for each operation
    harmless, requests = sum(total[name] for name in HARMLESS), sum(total[name] for name in DECISIONS)
    is_observed = bool(total["observed"] or total["would_refuse"])
    return (
        context
        | {
            "headline": headline(harmless),
            "share": number_format(round(100 * harmless / requests, 1), 1) if requests else "",
            "harmless_in_all": format_number(sum(int(known[name] or 0) for name in HARMLESS)),
            "first_count": date_format(moment(known["first"]), "DATE_FORMAT"),
            "last_count": date_format(moment(known["last"]), "DATETIME_FORMAT"),
            "total": numbers(total),
            "others": [
                (DecisionCount._meta.get_field(name).verbose_name, format_number(total[name]))  # type: ignore[union-attr]
                for name in DECISIONS[4:]
                if total[name]
            ],
            "is_quiet": not requests and not is_observed,
            "is_observed": is_observed,
            "is_decided": bool(requests) or not is_observed,
            "observed": observed(total),
            "charts": make_charts(period, filled, samples, has_counts=bool(requests), is_observed=is_observed),
            "rows": rows(filled, samples),
            "storage_is_sampled": any(samples),
            "sizes_are_known": any(sample is not None and sample.size is not None for sample in samples),
            "operations": operations(since, given, whole=asked.get("operations") == "all"),
            "stored": stored,
        }
    )


# --- queries ---


def find_databases() -> list[str]:
    """The aliases that may hold counts; first the one where records are written by default."""
    first = router.db_for_write(DecisionCount)
    return [first, *(each for each in connections if each != first and router.allow_migrate_model(each, DecisionCount))]


def has_tables(database: str) -> bool:
    tables = {model._meta.db_table for model in (DecisionCount, StorageSample)}
    return tables <= set(connections[database].introspection.table_names())


def operations(counts: "HourQuerySet[DecisionCount]", given: Mapping[str, str], *, whole: bool) -> dict[str, Any]:
    """The rows of the table of operations, the busiest first."""
    traffic = Sum(reduce(add, map(F, TRAFFIC)))
    grouped: QuerySet[Any, Any] = counts.order_by().values("operation")
    columns = (*LISTED_COLUMNS, *OBSERVED_COLUMNS)
    found = grouped.annotate(traffic=traffic, **sums(columns)).order_by("-traffic", "operation")
    most = ALL_LISTED if whole else LISTED
    rows = list(found[: most + 1])
    return {
        "rows": [
            {
                "name": row["operation"],
                "is_other": row["operation"] == OTHER,
                "is_observed": bool(row["observed"] or row["would_refuse"]),
                "is_decided": row["traffic"] > row["observed"],
                "query": query(given, operation=row["operation"]),
                **{name: format_number(int(row[name])) for name in columns},
            }
            for row in rows[:most]
        ],
        "listed": format_number(most) if len(rows) > most else "",
        "all": "" if whole else query(given, operations="all"),
    }


def measure(database: str) -> dict[str, Any]:
    """How many records there are, and their size, in the reader's language."""
    now = table_size.measure(database)
    return {"count": format_number(now.records), "is_estimate": now.is_estimate, "size": size(now.size)}


# --- formatting ---


def numbers(row: Numbers) -> dict[str, str]:
    return {name: format_number(value) for name, value in row.items()}


def size(value: int | None) -> str:
    """*value*, in bytes, with a fitting unit; empty for None."""
    return "" if value is None else filesizeformat(value)


def rows(filled: Filled, samples: Samples) -> list[tuple[str, dict[str, str]]]:
    """The numbers of the charts, for each slot that has any."""
    found = []
    for (slot, each), sample in zip_longest(filled, samples):
        stored = {"stored": format_number(sample.records), "size": size(sample.size)} if sample else {}
        if sample or any(each.values()):
            found.append((slot.title, numbers(each) | stored))
    return found


def headline(harmless: int) -> tuple[str, str]:
    """The most important number, and its label."""
    return format_number(harmless), ngettext("duplicate did no harm", "duplicates did no harm", harmless)


def observed(total: Numbers) -> dict[str, Any]:
    """What observe mode has seen: the runs that atomic mode would have spared, and what it would have done."""
    twice = total["ran_twice"]
    return {
        "headline": (format_number(twice), ngettext("request ran twice", "requests ran twice", twice)),
        "share": number_format(round(100 * twice / total["observed"], 1), 1) if total["observed"] else "",
    }


def make_charts(
    period: Period, filled: Filled, samples: Samples, *, has_counts: bool, is_observed: bool
) -> list[Chart]:
    """The charts that have something to show: of counts, and of storage."""
    titles = (_("Executions per hour"), _("Duplicates that did no harm, per hour"), _("Ran twice, per hour"))
    if period.daily:
        titles = (_("Executions per day"), _("Duplicates that did no harm, per day"), _("Ran twice, per day"))
    charts = []
    if is_observed:
        charts.append(count_chart("twice", titles[2], ("ran_twice",), period, filled))
    if has_counts:
        charts += [
            count_chart("executions", titles[0], ("executions",), period, filled),
            count_chart("duplicates", titles[1], HARMLESS, period, filled),
        ]
    if any(samples):
        charts.append(storage_chart(period, [slot for slot, _each in filled], samples))
    axis = max((chart.axis for chart in charts), default=0)  # the same hour is at the same place in all charts
    return [replace(chart, axis=axis) for chart in charts]


def count_chart(name: str, title: str, shown: tuple[str, ...], period: Period, filled: Filled) -> Chart:
    labels = {
        "executions": _("Executions"),
        "replays": _("Replays"),
        "conflicts": _("Conflicts"),
        "mismatches": _("Mismatches"),
        "ran_twice": _("Ran twice"),
    }
    columns = [
        Column(
            values=tuple(each[part] for part in shown),
            title="\n".join([slot.title, *(f"{labels[part]}: {format_number(each[part])}" for part in shown)]),
            label=slot.label,
        )
        for slot, each in filled
    ]
    heights = [sum(column.values) for column in columns]
    description = _("%(total)s in the period “%(period)s”, at most %(most)s: %(when)s.") % {
        "total": format_number(sum(heights)),
        "period": period.label,
        "most": format_number(max(heights)),
        "when": filled[heights.index(max(heights))][0].title,
    }
    return draw(name, title, description, columns, format_number, {part: labels[part] for part in shown})


def storage_chart(period: Period, slots: Sequence[Slot], samples: Samples) -> Chart:
    columns = [
        Column(
            values=(sample.records,) if sample else (),
            title="\n".join([slot.title, stored(sample) if sample else _("Not measured")]),
            label=slot.label,
        )
        for slot, sample in zip(slots, samples, strict=True)
    ]
    measured = [(slot, sample) for slot, sample in zip(slots, samples, strict=True) if sample]
    when, most = max(measured, key=lambda each: each[1].records)
    description = _("From %(first)s to %(last)s in the period “%(period)s”, at most %(most)s: %(when)s.") % {
        "first": format_number(measured[0][1].records),
        "last": format_number(measured[-1][1].records),
        "period": period.label,
        "most": format_number(most.records),
        "when": when.title,
    }
    title = _("Stored records, at the end of each day") if period.daily else _("Stored records")
    return draw("storage", title, description, columns, format_number)


def stored(sample: StorageSample) -> str:
    """One line about *sample*."""
    text = f"{_('Stored records')}: {format_number(sample.records)}"
    return text if sample.size is None else f"{text} ({size(sample.size)})"


def query(given: Mapping[str, str], **changes: str) -> str:
    """The query string of this page with *changes*, without empty values."""
    return "?" + urlencode({name: value for name, value in {**given, **changes}.items() if value})
