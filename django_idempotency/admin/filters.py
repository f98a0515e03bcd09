"""The filters beside the list of records."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, ClassVar

from django.contrib.admin import SimpleListFilter
from django.contrib.admin.views.main import ChangeList
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from django_idempotency.core.keys import UNSTORABLE
from django_idempotency.core.record import TOMBSTONE
from django_idempotency.models import UNSETTLED, DatabaseNow, DecisionCount
from django_idempotency.operations.counts import hour_of
from django_idempotency.operations.locations import possible_databases, usual_database
from django_idempotency.operations.presentation import State

DATABASE = "database"  # the parameter of the list's URL
SAMPLED = 500  # of the newest records, whose operations may not be counted yet
COUNTED = 7 * 24  # hours whose counts name operations
OFFERED = 50  # operations; a longer list is no help
WITHIN = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}


class DatabaseFilter(SimpleListFilter):
    """By database, if several may hold records. The admin's queryset applies it."""

    title = _("database")
    parameter_name = DATABASE

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, Any]]:
        aliases = possible_databases()
        return [(alias, alias) for alias in aliases] if len(aliases) > 1 else []

    def queryset(self, request: HttpRequest, queryset: Any) -> None:
        """The admin's queryset is filtered already."""

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        listed = changelist.root_queryset.db
        for alias, title in self.lookup_choices:
            yield {
                "selected": alias == listed,
                "query_string": changelist.get_query_string({DATABASE: None if alias == usual_database() else alias}),
                "display": title,
            }


class ChoiceFilter(SimpleListFilter):
    """Offers a few choices. Any other value in the URL matches nothing."""

    offered: ClassVar[list[tuple[Any, Any]]] = []

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, Any]]:
        return self.offered

    def narrow(self, queryset: Any, chosen: str) -> Any:
        raise NotImplementedError

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        chosen = self.value()
        if chosen is None:
            return queryset
        return self.narrow(queryset, chosen) if chosen in dict(self.lookup_choices) else queryset.none()


class StateFilter(ChoiceFilter):
    """By what the next request with the key gets, by the database's clock."""

    title = _("state")
    parameter_name = "state"
    offered = State.choices

    def narrow(self, queryset: Any, chosen: str) -> Any:
        if chosen == State.EXPIRED:
            return queryset.expired()
        # Not by the index on expires_at: it leads to every live record, in an order that is not the table's.
        if chosen == State.UNSETTLED:
            return queryset.unsettled().live()
        if chosen == State.RUNNING:
            return queryset.running()
        if chosen == State.INTERRUPTED:
            return queryset.interrupted()
        live = queryset.alias(until=Coalesce("expires_at", "expires_at")).filter(until__gt=DatabaseNow())
        if chosen == State.TOMBSTONE:
            return live.ended()
        return live.with_state().filter(status__gt=TOMBSTONE, ended=False)


class StatusFilter(ChoiceFilter):
    """By the class of the answer's status."""

    title = _("status")
    parameter_name = "answer"
    offered = [
        ("2xx", _("2xx, success")),
        ("3xx", _("3xx, redirect")),
        ("4xx", _("4xx, an answer that says no")),
        ("5xx", _("5xx, failure")),
    ]

    def narrow(self, queryset: Any, chosen: str) -> Any:
        first = int(chosen[0]) * 100
        return queryset.filter(status__gte=first, status__lt=first + 100)


class ExpiryFilter(ChoiceFilter):
    """By the time that is left, by the database's clock and the index on `expires_at`."""

    title = _("expiry")
    parameter_name = "expires"
    offered = [("hour", _("within an hour")), ("day", _("within a day")), ("week", _("within a week"))]

    def narrow(self, queryset: Any, chosen: str) -> Any:
        now = DatabaseNow()
        return queryset.filter(status__gt=UNSETTLED, expires_at__gt=now, expires_at__lte=now + WITHIN[chosen])


class OperationFilter(ChoiceFilter):
    """
    By the exact operation. The choices are those that were counted within a week and those of the newest records: a
    query for all would read every record.
    """

    title = _("operation")
    parameter_name = "operation"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, Any]]:
        this_hour = hour_of(time.time())
        counted = DecisionCount.objects.since(this_hour - COUNTED).order_by().values_list("operation", flat=True)
        newest = model_admin.get_queryset(request).order_by("-expires_at").values_list("operation", flat=True)
        found = {*counted.distinct()[:OFFERED], *newest[:SAMPLED]}
        offered = set(sorted(found)[:OFFERED])
        chosen = self.value()
        if chosen is not None:
            offered.add(chosen)
        return [(operation, operation) for operation in sorted(offered)]

    def narrow(self, queryset: Any, chosen: str) -> Any:
        return queryset.none() if UNSTORABLE.search(chosen) else queryset.filter(operation=chosen)
