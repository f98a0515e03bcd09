"""What the pages of records share: their URLs, their breadcrumbs, and what is said where there is no record."""

from typing import Any

import django
from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.text import capfirst
from django.utils.translation import gettext

from django_idempotency.admin.addresses import Address


class RecordPages(admin.ModelAdmin):  # type: ignore[type-arg]
    """What each view of the admin of records needs to lead to another."""

    def url_name(self, page: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{page}"

    def url(self, page: str, address: Address | None = None) -> str:
        """The URL of one of this admin's pages, in the admin site that it is registered with."""
        args = () if address is None else (quote(address.pk),)
        return reverse(f"admin:{self.url_name(page)}", args=args, current_app=self.admin_site.name)

    def breadcrumbs(self, address: Address) -> dict[str, Any]:
        """What the template `breadcrumbs.html` needs for a page below the record's: URL and name of those above it."""
        return {
            "crumbs": [
                (self.url("changelist"), capfirst(self.opts.verbose_name_plural)),
                (self.url("change", address), str(address)),
            ],
            "breadcrumbs_are_a_list": django.VERSION >= (6, 1),
        }

    def gone(self, request: HttpRequest, text: str) -> HttpResponse:
        """Back to the list: there is no record at the address *text*."""
        messages.warning(request, gettext("There is no record of “%s”. Perhaps it was freed or purged.") % text[:100])
        return HttpResponseRedirect(self.url("changelist"))
