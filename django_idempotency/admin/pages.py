"""What the pages of records share: URLs, breadcrumbs, and the way back if there is no record to show."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import django
from django.contrib import messages
from django.contrib.admin import ModelAdmin
from django.contrib.admin.utils import quote
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import mark_safe
from django.utils.text import capfirst
from django.utils.translation import gettext

from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations import locations
from django_idempotency.operations.presentation import Presented
from django_idempotency.stores.stored import Location, StoredRecord

logger = logging.getLogger("django_idempotency")

View = TypeVar("View", bound=Callable[..., HttpResponse])
SHORT = 12  # of the identity's hexadecimal digits, in titles

if TYPE_CHECKING:
    Base = ModelAdmin[IdempotencyRecord]
else:
    Base = object


@dataclass(frozen=True, slots=True)
class Link:
    """What Django's templates need for a link to a record, even one that is gone: its `pk` and a short title."""

    pk: str

    def __str__(self) -> str:
        return f"{self.pk[:SHORT]}…"


@dataclass(frozen=True, slots=True)
class Page:
    """A record with its presentation. Django's views and templates take it for an instance of the model."""

    stored: StoredRecord
    shown: Presented

    _meta: ClassVar[Any] = IdempotencyRecord._meta

    @property
    def pk(self) -> str:
        return self.stored.pk

    @property
    def store(self) -> str:
        """The alias of a store outside the databases; empty for a row."""
        return "" if self.stored.location.using is not None else self.stored.location.store.alias

    @property
    def executed_at(self) -> datetime:
        return timezone.localtime(self.stored.executed_at)

    @property
    def expires_at(self) -> datetime | None:
        return self.stored.expires_at and timezone.localtime(self.stored.expires_at)


class StoreAway(Exception):
    """The server of *location* does not answer. Its error is logged, and `back_if_away` shows a message."""

    def __init__(self, location: Location, error: Exception) -> None:
        self.alias = location.store.alias
        logger.warning("The %s does not answer: %s", location, error)
        super().__init__(self.alias)


class RecordPagesMixin(Base):
    """URLs, pages and messages that the views of records share."""

    def url_name(self, page: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{page}"

    def url(self, page: str, pk: str | None = None) -> str:
        """The URL of one of this admin's pages, in the admin site that it is registered with."""
        args = () if pk is None else (quote(pk),)
        return reverse(f"admin:{self.url_name(page)}", args=args, current_app=self.admin_site.name)

    def render(
        self, request: HttpRequest, template: str, *, page: Page | None = None, **context: Any
    ) -> TemplateResponse:
        """Render *template* as a page below the list, or below the record of *page*."""
        crumbs = [(self.url("changelist"), capfirst(self.opts.verbose_name_plural))]
        if page is not None:
            crumbs.append((self.url("change", page.pk), str(Link(page.pk))))
        request.current_app = self.admin_site.name
        frame = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            "page": page,
            "crumbs": crumbs,
            "breadcrumbs_are_a_list": django.VERSION >= (6, 1),
        }
        return TemplateResponse(request, template, {**frame, **context})

    def find(self, location: Location, digest: bytes) -> StoredRecord | None:
        """The record of the identity *digest* in *location*, or None. Raises `StoreAway` if that does not answer."""
        try:
            return location.find(digest)
        except Exception as error:  # of any store; it is logged
            raise StoreAway(location, error) from error

    def gone(self, request: HttpRequest, pk: str) -> HttpResponse:
        """Go back to the list: there is no record of *pk*."""
        messages.warning(request, gettext("There is no record of “%s”. Perhaps it was freed or purged.") % pk[:100])
        found = locations.parse(pk)
        if found is not None and found[0].using is None:
            messages.warning(request, gettext("Or its request is in flight again: then leave it alone."))
        return HttpResponseRedirect(self.url("changelist"))


def make_breakable(path: str) -> str:
    """*path* as HTML that may be broken after each slash."""
    return format_html_join(mark_safe("/<wbr>"), "{}", [(part,) for part in path.split("/")])


def back_if_away(view: View) -> View:
    """Make a *view* of a record go back to the list, with a message, if the record's store does not answer."""

    @wraps(view)
    def wrapper(self: RecordPagesMixin, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return view(self, request, *args, **kwargs)
        except StoreAway as away:
            messages.error(request, gettext("The store “%s” does not answer. The log says why.") % away.alias)
            return HttpResponseRedirect(self.url("changelist"))

    return wrapper  # type: ignore[return-value]
