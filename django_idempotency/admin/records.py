"""The admin of records: its list and its pages."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin import ShowFacets
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import SEARCH_VAR
from django.core.exceptions import PermissionDenied
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_idempotency.admin.changelist import BoundedPaginator, RecordChangeList
from django_idempotency.admin.dashboard import dashboard_view
from django_idempotency.admin.decisions import DecisionViewsMixin
from django_idempotency.admin.filters import (
    DATABASE,
    DatabaseFilter,
    ExpiryFilter,
    OperationFilter,
    StateFilter,
    StatusFilter,
)
from django_idempotency.admin.pages import Link, Page, back_if_away, make_breakable
from django_idempotency.admin.runs import RunFieldsMixin
from django_idempotency.admin.unsettled import UnsettledViewMixin
from django_idempotency.core.keys import check_key, parse_key
from django_idempotency.core.record import LEFT_OUT, TOMBSTONE
from django_idempotency.exceptions import KeyInvalid
from django_idempotency.models import IdempotencyRecord, RecordQuerySet
from django_idempotency.operations import locations
from django_idempotency.operations.policies import Policies
from django_idempotency.operations.presentation import BodyKind, Presented, State, present, state, time_left
from django_idempotency.stores.database.clock import in_utc
from django_idempotency.stores.database.rows import read_rows

SUFFIXES = {BodyKind.JSON: "json", BodyKind.TEXT: "txt"}  # of a download; never one that opens in a browser


def request_field(name: str, label: Any) -> Callable[[Any, Page], str]:
    """Make a method that shows one string of the request."""

    @admin.display(description=label)
    def show(self: Any, page: Page) -> str:
        return str(getattr(page.shown, name) or self.get_empty_value_display())

    return show


@admin.register(IdempotencyRecord)
class IdempotencyRecordAdmin(DecisionViewsMixin, UnsettledViewMixin, RunFieldsMixin, admin.ModelAdmin):  # type: ignore[type-arg]
    """
    Stored records, which cannot be edited. They are found by exact key or identity, and by filters.

    Users who may view records see the request; headers and bodies need the permission `view_stored_response`. Users
    with `free_key` or `settle_outcome` can let a key run again.
    """

    list_display = ("key", "operation_path", "scope", "shown_state", "shown_status", "executed", "time_left")
    list_filter = (DatabaseFilter, StateFilter, StatusFilter, ExpiryFilter, OperationFilter)
    search_fields = ("key",)
    search_help_text = _(
        "An exact idempotency key, or an identity as logs show it (64 hexadecimal digits). Parts of a key find nothing."
        " Stores outside the databases are asked for identities alone."
    )
    ordering = ("-expires_at",)
    sortable_by = ("time_left",)  # by an index
    actions = None
    show_full_result_count = False
    show_facets = ShowFacets.NEVER  # a count for each choice of each filter
    paginator = BoundedPaginator
    view_on_site = False
    fieldsets = (
        (None, {"fields": (("shown_state", "time_left"),)}),
        (
            _("What was asked"),
            {
                "fields": (
                    ("asked_method", "asked_host", "asked_route"),
                    ("asked_operation", "asked_scope"),
                    "asked_key",
                    ("asked_request_id", "executed_at"),
                    "asked_fingerprint",
                    "identity",
                )
            },
        ),
        (_("What was answered"), {"fields": ("answered_status", "answered_headers", "answered_body")}),
    )

    class Media:
        css = {"all": ("django_idempotency/admin.css",)}

    # --- permissions ---

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_response_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """May this user see headers and bodies?"""
        return request.user.has_perm(f"{self.opts.app_label}.view_stored_response")

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Allow no columns but those of filters: `?body__startswith=` would let users guess bodies."""
        if lookup in {each.parameter_name for each in self.list_filter}:
            return True
        columns = {"pk", *[field.name for field in self.opts.get_fields()]}
        return lookup.partition("__")[0] not in columns and super().lookup_allowed(lookup, value, request)

    # --- the list ---

    def get_queryset(self, request: HttpRequest) -> RecordQuerySet:
        """Read from the database that records are written to, or from the one that the list's URL names."""
        named = request.GET.get(DATABASE, "")
        using = named if locations.has_table(named) else locations.usual_database()
        return super().get_queryset(request).using(using)  # type: ignore[return-value]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[RecordChangeList]:
        return RecordChangeList

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Find an exact key, as it is or as a header quotes it, or an identity; each by its index."""
        if not search_term:
            return queryset, False
        keys = set()
        for spell in (check_key, parse_key):
            for text in (search_term, search_term.strip()):
                try:
                    keys.add(spell(text))
                except KeyInvalid:
                    pass  # not a key, so there is no record of it
        wanted = Q(key__in=keys)
        if locations.IDENTITY.fullmatch(search_term.strip()):
            wanted |= Q(digest=bytes.fromhex(search_term.strip()))
        # They are few. No index serves this order, so no planner walks along one over all records.
        return queryset.filter(wanted).order_by("-executed_at", "-pk"), False

    @admin.display(description=_("operation"))
    def operation_path(self, row: Any) -> str:
        return make_breakable(row.operation)

    @admin.display(description=_("state"))
    def shown_state(self, record: Any) -> str:
        found = record.shown.state if isinstance(record, Page) else state(record)
        return format_html('<span class="idempotency-state {}">{}</span>', found.value, found.label)

    @admin.display(description=_("status"))
    def shown_status(self, row: Any) -> int | None:
        return row.status if state(row) in (State.COMPLETED, State.EXPIRED) and row.status > TOMBSTONE else None

    @admin.display(description=_("executed at"))
    def executed(self, row: Any) -> datetime:
        return timezone.localtime(in_utc(row._state.db, row.executed_at))

    @admin.display(description=_("time left"), ordering="expires_at")
    def time_left(self, record: Any) -> str | None:
        record = record.stored if isinstance(record, Page) else record
        return time_left(record)

    # --- a record's page ---

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """
        A `Page` with what this user may see of the record whose `pk` is *object_id*, or None. For the history page it
        is a `Link`: the decisions about a key outlive its record.
        """
        found = locations.parse(object_id)
        if found is None or from_field is not None:
            return None
        location, digest = found
        if request.resolver_match and request.resolver_match.url_name == self.url_name("history"):
            return Link(location.pk(digest))
        if not self.has_view_permission(request):
            raise PermissionDenied  # before a server is asked: this user may not even learn that it is away
        may_see = self.has_response_permission(request)
        if location.store.has_table:
            rows: Any = self.get_queryset(request).using(location.using).filter(pk=digest)
            stored = next(iter(read_rows(location, rows, response=may_see)), None)
        else:
            stored = self.find(location, digest)
        return stored and Page(stored, present(stored, response=may_see, policies=Policies()))

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Add the run, or the store of a record outside the databases. Of a foreign record show nothing but that."""
        if obj is not None and obj.shown.run is not None:
            return [*super().get_fieldsets(request, obj)[:-1], self.run_fieldset]
        if obj is None or not obj.store:
            return super().get_fieldsets(request, obj)
        if obj.shown.is_foreign:
            return [(None, {"fields": ("shown_state", "kept_in", "identity", "answered_status")})]
        [(_, first), *others] = super().get_fieldsets(request, obj)
        return [(None, {**first, "fields": (*first["fields"], "kept_in")}), *others]

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("dashboard/", view(self.dashboard_view), name=self.url_name("dashboard")),
            path("<path:object_id>/body/", view(self.body_view), name=self.url_name("body")),
            *super().get_urls(),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        context = {
            "dashboard_url": self.url("dashboard"),
            "unsettled_url": self.url("unsettled"),
            "elsewhere": self.find_elsewhere(request, request.GET.get(SEARCH_VAR, "").strip()),
        }
        return super().changelist_view(request, {**context, **(extra_context or {})})

    @back_if_away
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().change_view(request, object_id, form_url, extra_context)

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], **kwargs: Any) -> HttpResponse:  # type: ignore[override]
        page = kwargs["obj"]
        context |= {
            "original": Link(page.pk),
            "subtitle": page.shown.key,
            "decisions": self.decisions(request, page),
        }
        return super().render_change_form(request, context, **kwargs)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"title": gettext("Change history: %s") % Link(unquote(object_id))}
        return super().history_view(request, object_id, {**context, **(extra_context or {})})

    def dashboard_view(self, request: HttpRequest) -> HttpResponse:
        """The counts of decisions, over time."""
        return dashboard_view(self, request)

    @back_if_away
    def body_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The stored body as a download, which no browser shows or runs."""
        # Before the look-up: without permission a user does not learn whether the record exists.
        if not self.has_view_permission(request) or not self.has_response_permission(request):
            raise PermissionDenied
        page = self.get_object(request, unquote(object_id))
        if page is None:
            return self.gone(request, unquote(object_id))
        body = page.shown.body
        name = f"{page.shown.identity[:16]}.{SUFFIXES.get(body.kind, 'bin') if body else 'bin'}"
        return HttpResponse(
            page.stored.body if body else b"",
            content_type="application/octet-stream",
            headers={
                "Content-Disposition": f'attachment; filename="{name}"',
                "Content-Security-Policy": "sandbox; default-src 'none'",
                "X-Content-Type-Options": "nosniff",
            },
        )

    # The methods behind the fields. None shows a column directly: no string of a row is trusted.

    asked_method = request_field("method", _("method"))
    asked_host = request_field("host", _("host"))
    asked_route = request_field("route", _("route"))
    asked_operation = request_field("operation", _("operation"))
    asked_scope = request_field("scope", _("scope"))
    asked_key = request_field("key", _("idempotency key"))
    asked_request_id = request_field("request_id", _("request id"))
    asked_fingerprint = request_field("fingerprint", _("fingerprint"))
    identity = request_field("identity", _("identity"))

    @admin.display(description=_("store"))
    def kept_in(self, page: Page) -> str:
        return page.store

    @admin.display(description=_("status"))
    def answered_status(self, page: Page) -> str:
        if page.shown.is_foreign:
            return gettext("Unknown: what is stored here was not written by this package, or only in part.")
        if page.shown.state is State.TOMBSTONE:
            return gettext("Not kept any more: the answer has expired. A late retry is refused.")
        if page.shown.status is None and page.store:
            return gettext("Unknown: the handler did not answer, so what it did may have taken effect.")
        if page.shown.status is None:
            return gettext(
                "Unknown: the handler ended the transaction by itself, so what it did may have taken effect."
            )
        return f"{page.shown.status} {page.shown.reason}"

    @admin.display(description=_("headers"))
    def answered_headers(self, page: Page) -> str:
        shown = page.shown
        if shown.headers is None:
            return self._explain_absence(shown)
        computed = gettext("(computed for each replay)")
        rows = [(name, computed if value is None else value) for name, value in shown.headers]
        if not rows:
            return self.get_empty_value_display()
        return format_html(
            '<table class="idempotency-headers"><tbody>{}</tbody></table>',
            format_html_join("", '<tr><th scope="row">{}</th><td>{}</td></tr>', rows),
        )

    @admin.display(description=_("body"))
    def answered_body(self, page: Page) -> str:
        body = page.shown.body
        if body is None:
            return self._explain_absence(page.shown)
        if body.instead == LEFT_OUT:
            return gettext("Not stored: the option store_body of its view leaves it out.")
        reference = gettext("A reference, from which the option replay of its view renders the answer")
        facts = ", ".join(
            filter(None, (reference if body.is_reference else "", body.media_type, filesizeformat(body.size)))
        )
        if body.kind is BodyKind.EMPTY:
            return facts
        url = self.url("body", page.pk)
        download = format_html('<p>{} <a href="{}" download>{}</a></p>', facts, url, _("Download"))
        if body.kind is BodyKind.BINARY:
            return download
        cut = format_html("<p>{}</p>", _("This is the beginning; the rest is in the download.")) if body.cut else ""
        return format_html('{}<pre class="idempotency-body" tabindex="0">{}</pre>{}', download, body.text, cut)

    def _explain_absence(self, shown: Presented) -> str:
        """Why no headers or body are shown."""
        if shown.problems:
            return " ".join(shown.problems)
        if shown.status is None:
            return self.get_empty_value_display()
        return gettext("You have no permission to see stored responses.")
