"""Counts and samples over time: the columns of the dashboard's charts, and their numbers."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from django.db.models import QuerySet, Sum
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy

from django_idempotency.models import DecisionCount, HourQuerySet, StorageSample
from django_idempotency.operations.counts import hour_of
from django_idempotency.operations.tally import COLUMNS, HOUR

Numbers = dict[str, int]  # of each of COLUMNS


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A period that the page can show."""

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
    """A column of the charts, from *hour* to that of the next slot."""

    hour: int
    title: str
    label: str


Filled = list[tuple[Slot, Numbers]]
Samples = Sequence[StorageSample | None]  # one for each slot, or none at all


def sums(columns: Iterable[str]) -> dict[str, Sum]:
    return {name: Sum(name) for name in columns}


def find_samples(slots: Sequence[Slot], database: str) -> Samples:
    """The last sample in each of *slots*. As in `fill`, the last slot takes those of a clock that is ahead."""
    begins = [slot.hour for slot in slots]
    samples: list[StorageSample | None] = [None] * len(slots)
    for sample in StorageSample.objects.using(database).since(begins[0]).order_by("hour"):
        samples[bisect_right(begins, sample.hour) - 1] = sample
    return samples


def fill(slots: Sequence[Slot], counts: "HourQuerySet[DecisionCount]") -> Filled:
    """Each slot with the sums of its hours. The last slot takes later hours too, from a clock that is ahead."""
    begins = [slot.hour for slot in slots]
    filled: Filled = [(slot, dict.fromkeys(COLUMNS, 0)) for slot in slots]
    by_hour: QuerySet[Any, Any] = counts.order_by().values("hour")
    for row in by_hour.annotate(**sums(COLUMNS)):
        numbers = filled[bisect_right(begins, row["hour"]) - 1][1]
        for name in COLUMNS:
            numbers[name] += int(row[name])
    return filled


def make_slots(period: Period, now: datetime) -> Iterator[Slot]:
    """The hours, or the days of the current time zone, that end with the present one."""
    if period.daily:
        today = timezone.localtime(now).date()
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
    """The first hour that begins on *day*: midnight is within an hour if the offset from UTC is no whole number."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=timezone.get_current_timezone())
    return -(-int(midnight.timestamp()) // HOUR)


def moment(hour: int) -> datetime:
    """When *hour* begins, in the current time zone."""
    return datetime.fromtimestamp(hour * HOUR, timezone.get_current_timezone())
