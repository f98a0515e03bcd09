"""The list of records, as fast on ten million of them as on a thousand."""

from typing import Any

from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Page, Paginator
from django.http import HttpRequest
from django.utils.formats import number_format
from django.utils.functional import cached_property

from django_idempotency.operations import locations, table_size

REACHABLE = 10_000  # records on the pages of one list: an OFFSET walks over all that it skips


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """
    Counts no further than `REACHABLE`.

    Matches are fetched without an order. With one, a planner may walk along the index of that order to find the few
    rows that a filter leaves, which on a large table of MariaDB takes minutes. A few matches are sorted here; if there
    are many, a page of them is soon found along the index.
    """

    @cached_property
    def _matching(self) -> list[tuple[Any, Any]]:
        """The sort value and primary key of each match, up to one more than `REACHABLE`."""
        queryset: Any = self.object_list
        return list(queryset.order_by().values_list(self._order.lstrip("-") or "pk", "pk")[: REACHABLE + 1])

    @property
    def _order(self) -> str:
        """The first field of the order, with its sign; empty if that is an expression."""
        first = next(iter(self.object_list.query.order_by), "")  # type: ignore[attr-defined]
        return first if isinstance(first, str) else ""

    @property
    def count(self) -> int:
        return min(len(self._matching), REACHABLE)

    def page(self, number: int | str) -> Page[Any]:
        """A page of records: of a few, by their primary keys; of many, by Django's own query."""
        number = self.validate_number(number)
        if self.is_cut or not self._order:
            return super().page(number)
        queryset: Any = self.object_list
        ordered = [pk for _by, pk in sorted(self._matching, reverse=self._order.startswith("-"))]
        wanted = ordered[(number - 1) * self.per_page : number * self.per_page]
        return Page(queryset.filter(pk__in=wanted), number, self)

    @property
    def is_cut(self) -> bool:
        """Are there more records than these pages hold?"""
        return len(self._matching) > REACHABLE

    @cached_property
    def estimate(self) -> int | None:
        """The server's own estimate of the number of records; None if the pages may hold them all."""
        guess, _size = table_size.estimate(self.object_list.db)  # type: ignore[attr-defined]
        return guess if guess and guess > REACHABLE else None


class RecordChangeList(ChangeList):
    """Lists the newest expiry first, by its index, without heads and bodies. Rows have the database's time as `now`."""

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> Any:
        rows: Any = super().get_queryset(request, exclude_parameters)
        return rows.defer("fingerprint", "head", "body").with_state()

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not self.multi_page:
            self.result_list = self.paginator.page(1).object_list

    def get_ordering(self, request: HttpRequest, queryset: Any) -> list[Any]:
        """Break ties by primary key in the same direction, so that MariaDB can use the index on `expires_at`."""
        ordering = list(super().get_ordering(request, queryset))
        return ["expires_at", "pk"] if ordering[0] == "expires_at" else ordering

    def get_ordering_field(self, field_name: Any) -> Any:
        """Refuse a column without an index, which a URL may name although no heading offers it."""
        return super().get_ordering_field(field_name) if field_name in (self.sortable_by or ()) else None

    def url_for_result(self, result: Any) -> str:
        location = locations.database(result._state.db)
        pk = str(result) if location is None else location.pk(bytes(result.digest))
        return str(self.model_admin.url("change", pk))  # type: ignore[attr-defined]

    @property
    def reachable(self) -> str:
        """How many records the pages lead to, in the reader's language."""
        return format_number(self.result_count)

    @property
    def estimate(self) -> str:
        """About how many records there are in all; empty if the list is filtered, or if there is no estimate."""
        estimate = None if self.query or self.get_filters_params() else self.paginator.estimate
        return "" if estimate is None else format_number(estimate)


def format_number(number: int) -> str:
    """*number* in the reader's language."""
    return number_format(number, use_l10n=True, force_grouping=True)
