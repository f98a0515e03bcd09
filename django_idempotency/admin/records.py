"""The admin of records: what its list and its pages show."""

from collections.abc import Callable
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
from django.utils.html import format_html, format_html_join
from django.utils.timesince import timeuntil
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_idempotency.admin.addresses import Address, has_records, usual
from django_idempotency.admin.changelist import BoundedPaginator, RecordChangeList
from django_idempotency.admin.dashboard import dashboard_view
from django_idempotency.admin.filters import DATABASE, DatabaseFilter, OperationFilter, StateFilter, StatusFilter
from django_idempotency.admin.pages import breakable, told_if_away
from django_idempotency.admin.unsettled import UnsettledPage
from django_idempotency.core.keys import check_key, parse_key
from django_idempotency.exceptions import KeyInvalid
from django_idempotency.models import IdempotencyRecord, RecordQuerySet
from django_idempotency.operations.presentation import Body, BodyKind, Presented, State, present, state, timed

SUFFIXES = {BodyKind.JSON: "json", BodyKind.TEXT: "txt"}  # of a download; never one that opens in a browser


def asked(name: str, label: Any) -> Callable[[Any, Any], str]:
    """A method that shows one text of what was asked."""

    @admin.display(description=label)
    def show(self: Any, record: Any) -> str:
        return str(getattr(record.presented, name) or self.get_empty_value_display())

    return show


@admin.register(IdempotencyRecord)
class IdempotencyRecordAdmin(UnsettledPage):
    """
    Stored records, to be read. They are found by exact key or identity, by filters, and by the date of their expiry.

    Who may view records sees what was asked; headers and bodies are for those with the permission
    `view_stored_response`. With `free_key` and `settle_outcome` one may let a key run again.
    """

    list_display = ("key", "shown_operation", "scope", "shown_state", "shown_status", "executed_at", "time_left")
    list_filter = (DatabaseFilter, StateFilter, StatusFilter, OperationFilter)
    search_fields = ("key",)
    search_help_text = _(
        "An exact idempotency key, or an identity as logs show it (64 hexadecimal digits). Parts of a key find nothing."
        " Stores outside the databases are asked for identities alone."
    )
    ordering = ("-expires_at",)
    sortable_by = ("time_left",)  # by an index
    date_hierarchy = "expires_at"
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

    # --- who may do what ---

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_response_permission(self, request: HttpRequest, obj: IdempotencyRecord | None = None) -> bool:
        """May this user see headers and bodies?"""
        return request.user.has_perm(f"{self.opts.app_label}.view_stored_response")

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Of the columns, those alone that a filter is for: by `?body__startswith=` one could guess at bodies."""
        name, _separator, transform = lookup.partition("__")
        if name == self.date_hierarchy:
            return transform in {"year", "month", "day"}
        if lookup in {each.parameter_name for each in self.list_filter}:
            return True
        columns = {"pk", *[field.name for field in self.opts.get_fields()]}
        return name not in columns and super().lookup_allowed(lookup, value, request)

    # --- the list ---

    def get_queryset(self, request: HttpRequest) -> RecordQuerySet:
        """Where records are written, or in the database that the list's URL names."""
        named = request.GET.get(DATABASE)
        using = named if has_records(named) else usual()
        return timed(super().get_queryset(request).using(using))  # type: ignore[arg-type]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[RecordChangeList]:
        return RecordChangeList

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """By exact key, as it is or as a header quotes it, or by identity; each by its index."""
        if not search_term:
            return queryset, False
        keys = set()
        for spell in (check_key, parse_key):
            for text in (search_term, search_term.strip()):
                try:
                    keys.add(spell(text))
                except KeyInvalid:
                    pass  # no key, so no record of it
        found = Q(key__in=keys)
        address = Address.parse(search_term.strip())
        if address is not None:
            found |= Q(digest=address.digest)
        # Few at most, and by another order than the index of all would serve, so that no planner walks along that.
        return queryset.filter(found).order_by("-executed_at", "-pk"), False

    @admin.display(description=_("operation"))
    def shown_operation(self, record: IdempotencyRecord) -> str:
        return breakable(record.operation)

    @admin.display(description=_("state"))
    def shown_state(self, record: IdempotencyRecord) -> str:
        found = state(record)
        return format_html('<span class="idempotency-state {}">{}</span>', found.value, found.label)

    @admin.display(description=_("status"))
    def shown_status(self, record: IdempotencyRecord) -> int | None:
        return record.status or None

    @admin.display(description=_("time left"), ordering="expires_at")
    def time_left(self, record: IdempotencyRecord) -> str | None:
        if state(record) is State.EXPIRED:
            return None
        return timeuntil(record.expires_at, record.now)  # type: ignore[attr-defined]

    # --- a record's page ---

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """
        The record at the address *object_id*, or None. Its attribute `presented` is what this user may see of it.

        What was decided about a key outlives its record: a history is shown of every address.
        """
        address = Address.parse(object_id)
        if address is None or from_field is not None:
            return None
        of_history = request.resolver_match and request.resolver_match.url_name == self.url_name("history")
        may_see = self.has_response_permission(request)
        if address.store:
            if not self.has_view_permission(request):
                raise PermissionDenied  # before a server is asked, whose being away would be told
            record = None if of_history else self.stored(address)
        else:
            hidden = () if may_see else ("head", "body")
            records = self.get_queryset(request).using(address.using).defer(*hidden)
            record = records.filter(pk=address.digest).first()
        if record is not None:
            record.presented = present(record, response=may_see)  # type: ignore[attr-defined]
        elif of_history:
            return IdempotencyRecord(digest=address.digest)
        return record

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Of a record in a store that has no table, its store too; of what is not ours, nothing more than that."""
        if obj is None or not Address.of(obj).store:
            return super().get_fieldsets(request, obj)
        if obj.presented.is_foreign:
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
            "elsewhere": self.elsewhere(request, request.GET.get(SEARCH_VAR, "").strip()),
        }
        return super().changelist_view(request, {**context, **(extra_context or {})})

    @told_if_away
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().change_view(request, object_id, form_url, extra_context)

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        context |= {
            "original": Address.of(obj),
            "subtitle": obj.presented.key,
            "decisions": self.decisions(request, obj),
        }
        return super().render_change_form(request, context, add, change, form_url, obj)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        address = Address.parse(unquote(object_id))
        context = {"title": gettext("Change history: %s") % address, "object": address}
        return super().history_view(request, object_id, {**context, **(extra_context or {})})

    def dashboard_view(self, request: HttpRequest) -> HttpResponse:
        """The counts of what was decided, over time."""
        return dashboard_view(self, request)

    @told_if_away
    def body_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The stored body as bytes to be kept, whatever they are: nothing that a browser would show or run."""
        # Before anything is looked for: who may not see it is not told whether it is there.
        if not self.has_view_permission(request) or not self.has_response_permission(request):
            raise PermissionDenied
        record = self.get_object(request, unquote(object_id))
        if record is None:
            return self.gone(request, unquote(object_id))
        body = record.presented.body
        name = f"{record.presented.identity[:16]}.{SUFFIXES.get(body.kind, 'bin') if body else 'bin'}"
        return HttpResponse(
            bytes(record.body),
            content_type="application/octet-stream",
            headers={
                "Content-Disposition": f'attachment; filename="{name}"',
                "Content-Security-Policy": "sandbox; default-src 'none'",
                "X-Content-Type-Options": "nosniff",
            },
        )

    # The methods behind the fields. None shows a column as it is: no text of a row is to be trusted.

    asked_method = asked("method", _("method"))
    asked_host = asked("host", _("host"))
    asked_route = asked("route", _("route"))
    asked_operation = asked("operation", _("operation"))
    asked_scope = asked("scope", _("scope"))
    asked_key = asked("key", _("idempotency key"))
    asked_request_id = asked("request_id", _("request id"))
    asked_fingerprint = asked("fingerprint", _("fingerprint"))
    identity = asked("identity", _("identity"))

    @admin.display(description=_("store"))
    def kept_in(self, record: Any) -> str:
        return Address.of(record).store

    @admin.display(description=_("status"))
    def answered_status(self, record: Any) -> str:
        shown: Presented = record.presented
        if shown.is_foreign:
            return gettext("Unknown: what is stored here was not written by this package, or only in part.")
        if shown.status is None and Address.of(record).store:
            return gettext("Unknown: the handler did not answer, so what it did may have taken effect.")
        if shown.status is None:
            return gettext(
                "Unknown: the handler ended the transaction by itself, so what it did may have taken effect."
            )
        return f"{shown.status} {shown.reason}"

    @admin.display(description=_("headers"))
    def answered_headers(self, record: Any) -> str:
        shown: Presented = record.presented
        if shown.headers is None:
            return " ".join(shown.problems) or self._unseen(shown)
        rows = [
            (name, gettext("(computed for each replay)") if value is None else value) for name, value in shown.headers
        ]
        if not rows:
            return self.get_empty_value_display()
        return format_html(
            '<table class="idempotency-headers"><tbody>{}</tbody></table>',
            format_html_join("", '<tr><th scope="row">{}</th><td>{}</td></tr>', rows),
        )

    @admin.display(description=_("body"))
    def answered_body(self, record: Any) -> str:
        body: Body | None = record.presented.body
        if body is None:
            return self._unseen(record.presented)
        facts = ", ".join([text for text in (body.media_type, filesizeformat(body.size)) if text])
        if body.kind is BodyKind.EMPTY:
            return facts
        url = self.url("body", Address.of(record))
        download = format_html('<p>{} <a href="{}" download>{}</a></p>', facts, url, _("Download"))
        if body.kind is BodyKind.BINARY:
            return download
        cut = format_html("<p>{}</p>", _("This is the beginning; the rest is in the download.")) if body.cut else ""
        return format_html('{}<pre class="idempotency-body" tabindex="0">{}</pre>{}', download, body.text, cut)

    def _unseen(self, shown: Presented) -> str:
        """Why there are no headers or body to be seen."""
        if shown.status is None:
            return self.get_empty_value_display()
        return gettext("You have no permission to see stored responses.")
