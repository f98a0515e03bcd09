"""What the pages of records share: their URLs, their breadcrumbs, and what is said where there is no record."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import django
from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html_join
from django.utils.safestring import mark_safe
from django.utils.text import capfirst
from django.utils.translation import gettext

from django_idempotency.admin.addresses import Address
from django_idempotency.models import IdempotencyRecord

logger = logging.getLogger("django_idempotency")

View = TypeVar("View", bound=Callable[..., HttpResponse])


class StoreAway(Exception):
    """The store *alias* does not answer, which the log has; `told_if_away` makes a message of it."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        super().__init__(alias)


class RecordPages(admin.ModelAdmin):  # type: ignore[type-arg]
    """What each view of the admin of records needs to lead to another."""

    def url_name(self, page: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{page}"

    def url(self, page: str, address: Address | None = None) -> str:
        """The URL of one of this admin's pages, in the admin site that it is registered with."""
        args = () if address is None else (quote(address.pk),)
        return reverse(f"admin:{self.url_name(page)}", args=args, current_app=self.admin_site.name)

    def breadcrumbs(self, address: Address | None = None) -> dict[str, Any]:
        """
        What the template `breadcrumbs.html` needs for a page below the list, or below a record's: URL and name of those
        above it.
        """
        crumbs = [(self.url("changelist"), capfirst(self.opts.verbose_name_plural))]
        if address is not None:
            crumbs.append((self.url("change", address), str(address)))
        return {"crumbs": crumbs, "breadcrumbs_are_a_list": django.VERSION >= (6, 1)}

    def stored(self, address: Address) -> IdempotencyRecord | None:
        """What the store of *address* has there. Raises `StoreAway` where it does not answer."""
        place = address.place
        if place is None:
            return None
        try:
            record = place.find(address.digest)
        except Exception as error:  # whatever a store raises, the page is to say that it has no answer
            logger.warning("The %s does not answer: %s", place, error)
            raise StoreAway(address.store) from error
        if record is not None:
            record.store = address.store  # type: ignore[attr-defined]
        return record

    def gone(self, request: HttpRequest, text: str) -> HttpResponse:
        """Back to the list: there is no record at the address *text*."""
        messages.warning(request, gettext("There is no record of “%s”. Perhaps it was freed or purged.") % text[:100])
        address = Address.parse(text)
        if address is not None and address.store:
            messages.warning(request, gettext("Or its request is in flight again: then it is to be left alone."))
        return HttpResponseRedirect(self.url("changelist"))


def breakable(path: str) -> str:
    """*path* as HTML that may be broken after each slash."""
    return format_html_join(mark_safe("/<wbr>"), "{}", [(part,) for part in path.split("/")])


def told_if_away(view: View) -> View:
    """Let a *view* of a record lead back to the list, with a word, where the record's store does not answer."""

    @wraps(view)
    def told(self: RecordPages, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return view(self, request, *args, **kwargs)
        except StoreAway as away:
            messages.error(request, gettext("The store “%s” does not answer. The log says why.") % away.alias)
            return HttpResponseRedirect(self.url("changelist"))

    return told  # type: ignore[return-value]
