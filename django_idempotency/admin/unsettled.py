"""Unsettled outcomes of all databases and stores, and the search in stores outside the databases."""

import logging
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from django_idempotency.admin.pages import RecordPagesMixin, make_breakable
from django_idempotency.operations import locations
from django_idempotency.operations.policies import Policies
from django_idempotency.operations.presentation import present, state, time_left
from django_idempotency.stores.stored import Location, StoredRecord

logger = logging.getLogger("django_idempotency")

LISTED = 100  # of each database and store, the oldest


class UnsettledViewMixin(RecordPagesMixin):
    """The page of unsettled outcomes, and the search in stores outside the databases."""

    unsettled_template = "admin/django_idempotency/idempotencyrecord/unsettled.html"

    def has_settle_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        raise NotImplementedError  # defined by `DecisionViewsMixin`

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [path("unsettled/", view(self.unsettled_view), name=self.url_name("unsettled")), *super().get_urls()]

    def unsettled_view(self, request: HttpRequest) -> HttpResponse:
        """The unsettled outcomes of each database and store. One that does not answer is named, and hides no other."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        asked = [place for using in locations.possible_databases() if (place := locations.database(using))]
        asked += locations.others().values()
        answers, errors = locations.ask(asked, _unsettled)
        _log(errors)
        found = {place: records for place, records in answers if records is not None}
        away = {place for place, _error in errors}
        may_settle = self.has_settle_permission(request)
        policies = Policies()
        sections = [
            {
                "is_store": place.using is None,
                "alias": place.using or place.store.alias,
                "is_away": place in away,
                "records": [self._row(record, policies, may_settle) for record in found.get(place, ())][:LISTED],
                "listed": LISTED if len(found.get(place, ())) > LISTED else None,
            }
            for place in asked
            if place in found or place in away
        ]
        return self.render(request, self.unsettled_template, title=_("Unsettled outcomes"), sections=sections)

    def _row(self, record: StoredRecord, policies: Policies, may_settle: bool) -> dict[str, Any]:
        shown = present(record, response=False, policies=policies)
        return {
            "shown": shown,
            "operation": make_breakable(shown.operation),
            "request": make_breakable(shown.request),
            "executed_at": timezone.localtime(record.executed_at),
            "url": self.url("change", record.pk),
            "settle_url": self.url("settle", record.pk) if may_settle else "",
            "time_left": time_left(record),
        }

    def find_elsewhere(self, request: HttpRequest, text: str) -> dict[str, Any]:
        """The records of the identity *text* outside the databases, and the stores that do not answer."""
        if not locations.IDENTITY.fullmatch(text) or not self.has_view_permission(request):
            return {}
        digest = bytes.fromhex(text)
        answers, errors = locations.ask(locations.others().values(), lambda place: place.find(digest))
        _log(errors)
        return {
            "found": [
                (self.url("change", record.pk), place.store.alias, state(record).label)
                for place, record in answers
                if record is not None
            ],
            "away": [place.store.alias for place, _error in errors],
        }


def _unsettled(place: Location) -> list[StoredRecord] | None:
    """None for a database that may have the table and does not."""
    if place.using is not None and not locations.has_table(place.using):
        return None
    return place.unsettled(LISTED + 1)


def _log(errors: Iterable[tuple[Location, Exception]]) -> None:
    for place, error in errors:
        logger.warning("The %s does not answer: %s", place, error)
