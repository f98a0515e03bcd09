"""What an operator may decide about a key: each decision is confirmed with a reason, and kept in the admin's log."""

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.helpers import AdminForm
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.contrib.admin.utils import unquote
from django.contrib.admin.widgets import AdminRadioSelect, AdminTextareaWidget
from django.core.exceptions import PermissionDenied
from django.db import Error
from django.db.models import TextChoices
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_idempotency import maintenance
from django_idempotency.admin.addresses import Address
from django_idempotency.admin.pages import RecordPages
from django_idempotency.exceptions import Refusal
from django_idempotency.models import IdempotencyRecord
from django_idempotency.presentation import State
from django_idempotency.stores import stores
from django_idempotency.stores.base import Fault
from django_idempotency.transactions import atomic_phase


class Verdict(TextChoices):
    """What becomes of a claim without an outcome."""

    RUN_AGAIN = "run-again", _("Run again: forget the claim, so that the next request with the key runs.")
    KEEP_REFUSING = "keep-refusing", _("Keep refusing: requests with the key get 409 until the claim expires.")


class FreeForm(forms.Form):
    """Asks for the reason. Knows which execution the operator has seen: a key may have been used again since."""

    executed_at = forms.CharField(widget=forms.HiddenInput)
    reason = forms.CharField(
        label=_("Reason"),
        max_length=1000,
        widget=AdminTextareaWidget(attrs={"rows": 3}),
        help_text=_("It is kept in the history of this record, with your name."),
    )

    @property
    def verdict(self) -> str:
        return Verdict.RUN_AGAIN


class SettleForm(FreeForm):
    """Asks for a decision as well."""

    choice = forms.ChoiceField(label=_("Decision"), choices=Verdict.choices, widget=AdminRadioSelect)

    @property
    def verdict(self) -> str:
        return str(self.cleaned_data["choice"])


class DecisionViews(RecordPages):
    """To free the key of a completed record, and to settle a claim without an outcome."""

    free_key_template = "admin/django_idempotency/idempotencyrecord/free_key.html"
    settle_outcome_template = "admin/django_idempotency/idempotencyrecord/settle_outcome.html"

    def has_free_permission(self, request: HttpRequest, obj: IdempotencyRecord | None = None) -> bool:
        """May this user free the key of a completed record?"""
        return request.user.has_perm(f"{self.opts.app_label}.free_key")

    def has_settle_permission(self, request: HttpRequest, obj: IdempotencyRecord | None = None) -> bool:
        """May this user settle a claim without an outcome?"""
        return request.user.has_perm(f"{self.opts.app_label}.settle_outcome")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("<path:object_id>/free/", view(self.free_view), name=self.url_name("free")),
            path("<path:object_id>/settle/", view(self.settle_view), name=self.url_name("settle")),
            *super().get_urls(),
        ]

    def decisions(self, request: HttpRequest, record: Any) -> list[tuple[str, Promise]]:
        """URL and label of what this user may decide about *record* as it is."""
        address = Address.of(record)
        match record.presented.state:
            case State.COMPLETED if self.has_free_permission(request, record):
                return [(self.url("free", address), _("Free this key"))]
            case State.UNSETTLED if self.has_settle_permission(request, record):
                return [(self.url("settle", address), _("Settle the outcome"))]
            case _:
                return []

    def free_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Confirm, with a reason, that the record of a key is to be forgotten; and forget it."""
        return self._decide(
            request,
            object_id,
            State.COMPLETED,
            allowed=self.has_free_permission,
            form_class=FreeForm,
            fields=["reason"],
            template=self.free_key_template,
            title=_("Free this key?"),
        )

    def settle_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Decide, with a reason, what becomes of a claim without an outcome."""
        return self._decide(
            request,
            object_id,
            State.UNSETTLED,
            allowed=self.has_settle_permission,
            form_class=SettleForm,
            fields=["choice", "reason"],
            template=self.settle_outcome_template,
            title=_("Settle the outcome"),
        )

    def _decide(
        self,
        request: HttpRequest,
        object_id: str,
        expected: State,
        *,
        allowed: Any,
        form_class: type[FreeForm],
        fields: list[str],
        template: str,
        title: Promise,
    ) -> HttpResponse:
        record = self.get_object(request, unquote(object_id))
        if not self.has_view_permission(request, record) or not allowed(request, record):
            raise PermissionDenied
        if record is None:
            return self.gone(request, unquote(object_id))
        address = Address.of(record)
        here = HttpResponseRedirect(self.url("change", address))
        if record.presented.state is not expected:
            messages.warning(
                request, gettext("There is nothing to decide: the record is now %s.") % record.presented.state.label
            )
            return here
        seen = record.executed_at.isoformat()
        form = form_class(request.POST or None, initial={"executed_at": seen})
        if form.is_valid():
            if form.cleaned_data["executed_at"] != seen:
                messages.error(
                    request, gettext("Nothing was done: the key was used again since. This is its new record.")
                )
                return here
            if form.verdict == Verdict.KEEP_REFUSING:
                reason = gettext("Decided to keep refusing. Reason: %s") % form.cleaned_data["reason"]
                self._log(request, record, CHANGE, reason)
                messages.success(request, gettext("The key stays refused until the claim expires."))
                return here
            return self._free(request, address, record, form.cleaned_data["reason"])
        form_in_admin = AdminForm(form, [(None, {"fields": fields})], {}, model_admin=self)  # type: ignore[arg-type]
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "subtitle": record.presented.key,
            "opts": self.opts,
            "record": record.presented,
            "record_url": self.url("change", address),
            **self.breadcrumbs(address),
            "adminform": form_in_admin,
            "errors": form.errors,
            "media": self.media + form_in_admin.media,
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, template, context)

    def _free(self, request: HttpRequest, address: Address, record: Any, reason: str) -> HttpResponse:
        said = gettext(
            "Freed the key of %(operation)s in scope %(scope)s: the next request with it runs. Reason: %(reason)s"
        )
        message = said % {"operation": record.presented.operation, "scope": record.presented.scope, "reason": reason}

        committing = False

        def free() -> bool:
            nonlocal committing
            # The record as the operator has seen it: its execution is compared under the lock.
            freed = maintenance.free(record, using=address.using)
            if freed:
                self._log(request, record, DELETION, message)
            committing = True
            return freed

        try:
            freed = atomic_phase(address.using, free)
        except Refusal as refusal:
            messages.error(request, gettext("Nothing was done: %s") % refusal.message)
            return HttpResponseRedirect(self.url("change", address))
        except Error as error:
            # SQLite: another request is writing, and may be the one with this key. Past our COMMIT, nobody knows.
            if committing or stores["default"].classify(address.using, error) is Fault.OTHER:
                raise
            messages.error(request, gettext("Nothing was done: the database is busy. Try again."))
            return HttpResponseRedirect(self.url("change", address))
        if freed:
            messages.success(request, gettext("The key is free: the next request with it runs."))
        else:
            messages.warning(request, gettext("Nothing was left to free: somebody was faster."))
        return HttpResponseRedirect(self.url("changelist"))

    def _log(self, request: HttpRequest, record: Any, flag: int, message: str) -> None:
        address = Address.of(record)
        LogEntry.objects.create(
            user_id=request.user.pk,  # type: ignore[misc]
            content_type_id=get_content_type_for_model(self.model).pk,
            object_id=address.pk,
            object_repr=f"{address} {record.presented.operation}"[:200],
            action_flag=flag,
            change_message=message,
        )
