"""The list of records, at the same speed on a thousand and on ten million of them."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Literal

from django.conf import settings
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import quote
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Page, Paginator
from django.http import HttpRequest
from django.urls import reverse
from django.utils import formats, timezone
from django.utils.functional import cached_property
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from django_idempotency.admin.addresses import Address
from django_idempotency.operations import table_size

REACHABLE = 10_000  # records that the pages of one list lead to: an OFFSET walks over all that it skips

Unit = Literal["year", "month", "day"]


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """
    Counts no further than the pages lead.

    What matches is asked for without an order, so that no planner walks along the index of an order to find the few
    that a filter leaves: on a large table of MariaDB that takes minutes. If they are few, they are put in order here;
    if they are many, a page of them is soon found along the index.
    """

    @cached_property
    def _matching(self) -> list[tuple[Any, Any]]:
        """Primary keys and what they are ordered by, of all that match, or of one more than the pages lead to."""
        queryset: Any = self.object_list
        return list(queryset.order_by().values_list(self._order.lstrip("-") or "pk", "pk")[: REACHABLE + 1])

    @property
    def _order(self) -> str:
        """The field that comes first in the order, with its sign; empty where it is an expression."""
        first = next(iter(self.object_list.query.order_by), "")  # type: ignore[attr-defined]
        return first if isinstance(first, str) else ""

    @property
    def count(self) -> int:
        return min(len(self._matching), REACHABLE)

    def page(self, number: int | str) -> Page[Any]:
        """A page of few, found by their primary keys; or one of many."""
        number = self.validate_number(number)
        if self.is_cut or not self._order:
            return super().page(number)
        queryset: Any = self.object_list
        ordered = [pk for _by, pk in sorted(self._matching, reverse=self._order.startswith("-"))]
        wanted = ordered[(number - 1) * self.per_page : number * self.per_page]
        return Page(queryset.filter(pk__in=wanted), number, self)

    @property
    def is_cut(self) -> bool:
        """Are there more records than the pages lead to?"""
        return len(self._matching) > REACHABLE

    @cached_property
    def estimate(self) -> int | None:
        """About how many records the table has, as its server has it at hand; None if it has nothing better."""
        guess, _size = table_size.estimate(self.object_list.db)  # type: ignore[attr-defined]
        return guess if guess and guess > REACHABLE else None


class RecordChangeList(ChangeList):
    """Newest expiry first, by its index. Never loads heads and bodies."""

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> Any:
        return super().get_queryset(request, exclude_parameters).defer("fingerprint", "head", "body")

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not self.multi_page:
            self.result_list = self.paginator.page(1).object_list

    def get_filters(self, request: HttpRequest) -> Any:
        try:
            return super().get_filters(request)
        except (OverflowError, ValueError) as error:  # a year that no calendar has
            raise IncorrectLookupParameters(error) from error

    def get_ordering(self, request: HttpRequest, queryset: Any) -> list[Any]:
        """The primary key in the direction of the rest: MariaDB's index serves no other, and has it at its end."""
        ordering = list(super().get_ordering(request, queryset))
        return ["expires_at", "pk"] if ordering[0] == "expires_at" else ordering

    def get_ordering_field(self, field_name: Any) -> Any:
        """None for a column that no index has in order: a URL may ask for what no heading offers."""
        return super().get_ordering_field(field_name) if field_name in (self.sortable_by or ()) else None

    def url_for_result(self, result: Any) -> str:
        return reverse(
            f"admin:{self.opts.app_label}_{self.opts.model_name}_change",
            args=(quote(Address.of(result).pk),),
            current_app=self.model_admin.admin_site.name,
        )

    @property
    def reachable(self) -> str:
        """How many records the pages lead to, as the reader's language writes it."""
        return _written(self.result_count)

    @property
    def estimate(self) -> str:
        """About how many records there are in all; empty where the list is not of all, and where nobody knows."""
        estimate = None if self.query or self.get_filters_params() else self.paginator.estimate
        return "" if estimate is None else _written(estimate)

    # --- the date hierarchy ---
    # Django's own truncates and sorts the dates of all records. Here each date is one look into the index: the first
    # record at or after the end of the date before.

    @cached_property
    def dates(self) -> dict[str, Any]:
        """What the template `admin/date_hierarchy.html` shows."""
        name = self.date_hierarchy
        given = [self.params.get(f"{name}__{unit}") for unit in ("year", "month", "day")]
        year, month, day = [int(value) if value else None for value in given]
        if not year:
            year, month = self._only_date()

        def link(**parts: int | None) -> str:
            return self.get_query_string({f"{name}__{unit}": value for unit, value in parts.items()}, [f"{name}__"])

        context: dict[str, Any] = {"show": True, "back": None, "field_name": self.opts.get_field(name).verbose_name}  # type: ignore[union-attr]
        if year and month and day:
            date = datetime(year, month, day)
            back = {"link": link(year=year, month=month), "title": _title(date, "YEAR_MONTH_FORMAT")}
            return context | {"back": back, "choices": [{"title": _title(date, "MONTH_DAY_FORMAT")}]}
        if year and month:
            choices = [
                {"link": link(year=year, month=month, day=date.day), "title": _title(date, "MONTH_DAY_FORMAT")}
                for date in self._dates("day", datetime(year, month, 1), _next(datetime(year, month, 1), "month"))
            ]
            return context | {"back": {"link": link(year=year), "title": str(year)}, "choices": choices}
        if year:
            choices = [
                {"link": link(year=year, month=date.month), "title": _title(date, "YEAR_MONTH_FORMAT")}
                for date in self._dates("month", datetime(year, 1, 1), _next(datetime(year, 1, 1), "year"))
            ]
            return context | {"back": {"link": link(), "title": _("All dates")}, "choices": choices}
        years = self._dates("year", datetime.min, None)
        choices = [{"link": link(year=date.year), "title": str(date.year)} for date in years]
        return context | {"choices": choices}

    def _only_date(self) -> tuple[int | None, int | None]:
        """Year and month of all records, where they have them in common."""
        dates = self.root_queryset.order_by(self.date_hierarchy).values_list(self.date_hierarchy, flat=True)
        first, last = dates.first(), dates.last()
        if first is None or last is None:
            return None, None
        first, last = _local(first), _local(last)
        if first.year != last.year:
            return None, None
        return first.year, first.month if first.month == last.month else None

    def _dates(self, unit: Unit, start: datetime, end: datetime | None) -> Iterator[datetime]:
        """The first instants of the years, months or days from *start* to *end* in which some record expires."""
        name = self.date_hierarchy
        moments = self.root_queryset.order_by(name).values_list(name, flat=True)
        upto: datetime | None = start
        while upto is not None and (end is None or upto < end):
            later = moments if upto == datetime.min else moments.filter(**{f"{name}__gte": _aware(upto)})
            moment = later.first()
            if moment is None:
                return
            date = _start(_local(moment), unit)
            if end is not None and date >= end:
                return
            yield date
            upto = _next(date, unit)


def _written(number: int) -> str:
    return formats.number_format(number, use_l10n=True, force_grouping=True)


def _title(date: datetime, format_name: str) -> str:
    return capfirst(formats.date_format(date, format_name))


def _local(moment: datetime) -> datetime:
    """*moment* on the clock on the wall."""
    return timezone.make_naive(moment) if timezone.is_aware(moment) else moment


def _aware(moment: datetime) -> datetime:
    return timezone.make_aware(moment) if settings.USE_TZ else moment


def _start(moment: datetime, unit: Unit) -> datetime:
    first = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit != "day":
        first = first.replace(day=1)
    return first.replace(month=1) if unit == "year" else first


def _next(date: datetime, unit: Unit) -> datetime | None:
    """The first instant of the next year, month or day; None after the last that there is."""
    try:
        if unit == "day":
            return date + timedelta(days=1)
        if unit == "month":
            return (date + timedelta(days=31)).replace(day=1)
        return date.replace(year=date.year + 1)
    except (OverflowError, ValueError):
        return None
