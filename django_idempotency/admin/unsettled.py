"""Of all databases and stores: the executions whose outcome is not known, and the records that have no table."""

import logging
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.timesince import timeuntil
from django.utils.translation import gettext_lazy as _

from django_idempotency.admin.addresses import IDENTITY, Address, databases, has_records
from django_idempotency.admin.decisions import DecisionViews
from django_idempotency.admin.pages import breakable
from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations import locations
from django_idempotency.operations.locations import Place
from django_idempotency.operations.presentation import present, state

logger = logging.getLogger("django_idempotency")

LISTED = 100  # of each database and store, the oldest


class UnsettledPage(DecisionViews):
    """The page of unsettled outcomes, and the search in stores that no list can show."""

    unsettled_template = "admin/django_idempotency/idempotencyrecord/unsettled.html"

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [path("unsettled/", view(self.unsettled_view), name=self.url_name("unsettled")), *super().get_urls()]

    def unsettled_view(self, request: HttpRequest) -> HttpResponse:
        """What is unsettled, for each database and store. One that does not answer is told, and harms no other."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        asked = [*locations.tables(databases()), *locations.others().values()]
        answers, errors = locations.asked(asked, _unsettled)
        _log(errors)
        found = {place: self._shown(request, place, records) for place, records in answers if records is not None}
        away = [place for place, _error in errors]
        context = {
            **self.admin_site.each_context(request),
            "title": _("Unsettled outcomes"),
            "opts": self.opts,
            "sections": [
                {
                    "place": place,
                    "alias": place.using or place.alias,
                    "is_away": place in away,
                    "records": found.get(place, [])[:LISTED],
                    "listed": LISTED if len(found.get(place, [])) > LISTED else None,
                }
                for place in asked
                if place in found or place in away
            ],
            **self.breadcrumbs(),
            "media": self.media,
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, self.unsettled_template, context)

    def _shown(self, request: HttpRequest, place: Place, records: list[IdempotencyRecord]) -> list[dict[str, Any]]:
        return [self._row(request, _address(place, record), record) for record in records]

    def _row(self, request: HttpRequest, address: Address, record: IdempotencyRecord) -> dict[str, Any]:
        said = present(record, response=False)
        asked = " ".join([part for part in (said.method, said.host, said.route) if part])
        may_settle = self.has_settle_permission(request, record)
        return {
            "said": said,
            "operation": breakable(said.operation),
            "asked": breakable(asked),
            "url": self.url("change", address),
            "settle_url": self.url("settle", address) if may_settle else "",
            "time_left": timeuntil(said.expires_at, said.now),
        }

    def elsewhere(self, request: HttpRequest, text: str) -> dict[str, Any]:
        """What stores that have no table know of the identity *text*, if it is one: found, and which do not answer."""
        if not IDENTITY.fullmatch(text) or not self.has_view_permission(request):
            return {}
        digest = bytes.fromhex(text)
        answers, errors = locations.asked(locations.others().values(), lambda place: place.find(digest))
        _log(errors)
        return {
            "found": [
                (self.url("change", _address(place, record)), place.alias, state(record).label)
                for place, record in answers
                if record is not None
            ],
            "away": [place.alias for place, _error in errors],
        }


def _unsettled(place: Place) -> list[IdempotencyRecord] | None:
    """None for a database that may have the table, and has not."""
    if place.using is not None and not has_records(place.using):
        return None
    return place.unsettled(LISTED + 1)


def _address(place: Place, record: IdempotencyRecord) -> Address:
    return Address(place.using or "", bytes(record.digest), "" if place.using else place.alias)


def _log(errors: list[tuple[Place, Exception]]) -> None:
    for place, error in errors:
        logger.warning("The %s does not answer: %s", place, error)
