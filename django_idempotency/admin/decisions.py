"""What an operator may decide about a key: each decision is confirmed with a reason, and kept in the admin's log."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.contrib.admin.helpers import AdminForm
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import router
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_idempotency.admin.addresses import Address
from django_idempotency.admin.forms import FreeForm, SettleForeignForm, SettleForm, Verdict
from django_idempotency.admin.pages import RecordPages, StoreAway, told_if_away
from django_idempotency.engine.transactions import atomic_phase
from django_idempotency.exceptions import Refusal
from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations.locations import Place
from django_idempotency.operations.presentation import State

logger = logging.getLogger("django_idempotency")


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

    @told_if_away
    def free_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Confirm, with a reason, that the record of a key is to be forgotten; and forget it."""
        return self._decide(
            request,
            object_id,
            State.COMPLETED,
            allowed=self.has_free_permission,
            form_class=FreeForm,
            template=self.free_key_template,
            title=_("Free this key?"),
        )

    @told_if_away
    def settle_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Decide, with a reason, what becomes of a claim without an outcome."""
        return self._decide(
            request,
            object_id,
            State.UNSETTLED,
            allowed=self.has_settle_permission,
            form_class=SettleForm,
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
        if form_class is SettleForm and record.presented.is_foreign:
            form_class = SettleForeignForm
        form = form_class(record, request.POST or None, initial={"executed_at": seen})
        if form.is_valid():
            if form.cleaned_data["executed_at"] != seen:
                messages.error(
                    request, gettext("Nothing was done: the key was used again since. This is its new record.")
                )
                return here
            return self._carry_out(request, record, form)
        form_in_admin = AdminForm(
            form,  # type: ignore[arg-type]
            [(None, {"fields": form.layout})],  # type: ignore[dict-item]
            {},
            model_admin=self,
        )
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "subtitle": record.presented.key,
            "opts": self.opts,
            "record": record.presented,
            "store": address.store,
            "record_url": self.url("change", address),
            **self.breadcrumbs(address),
            "adminform": form_in_admin,
            "errors": form.errors,
            "media": self.media + form_in_admin.media,
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, template, context)

    def _carry_out(self, request: HttpRequest, record: Any, form: FreeForm) -> HttpResponse:
        """Do what the valid *form* says."""
        address = Address.of(record)
        reason = form.cleaned_data["reason"]
        asked = {"operation": record.presented.operation, "scope": record.presented.scope, "reason": reason}
        match form.verdict:
            case Verdict.KEEP_REFUSING:
                self._log(request, record, CHANGE, gettext("Decided to keep refusing. Reason: %s") % reason)
                messages.success(request, gettext("The key stays refused until the claim expires."))
                return HttpResponseRedirect(self.url("change", address))
            case Verdict.STORE_ANSWER if form.answer is not None:
                answer = form.answer
                said = gettext(
                    "Stored an answer of status %(status)d for %(operation)s in scope %(scope)s: retries get it."
                    " Reason: %(reason)s"
                )
                done = gettext("The answer is stored: requests with the key get it.")
                change = _Change(CHANGE, said % {**asked, "status": answer.status}, done, "change")
                return self._make(request, record, change, lambda place: place.settle(record, answer))
            case _:
                said = gettext(
                    "Freed the key of %(operation)s in scope %(scope)s: the next request with it runs."
                    " Reason: %(reason)s"
                )
                done = gettext("The key is free: the next request with it runs.")
                page = "changelist" if record.presented.state is State.COMPLETED else "unsettled"
                change = _Change(DELETION, said % asked, done, page)
                return self._make(request, record, change, lambda place: place.free(record))

    def _make(
        self, request: HttpRequest, record: Any, change: "_Change", make: Callable[[Place], bool]
    ) -> HttpResponse:
        """*make* the *change* and keep it in the log, or neither."""
        address = Address.of(record)
        place = address.place
        here = HttpResponseRedirect(self.url("change", address))
        if place is None:
            messages.error(request, gettext("Nothing was done: no store keeps records in this database any more."))
            return here
        committing = False

        def changed() -> bool:
            nonlocal committing
            # A store that has no table knows of no transaction: what is done there last is done with the log's entry.
            if address.store:
                self._log(request, record, change.flag, change.said)
            # The record as the operator has seen it: its execution is compared under the lock.
            if not make(place):
                raise _NothingLeft
            if not address.store:
                self._log(request, record, change.flag, change.said)
            committing = True
            return True

        try:
            atomic_phase(address.using or router.db_for_write(LogEntry), changed)
        except _NothingLeft:
            messages.warning(request, gettext("Nothing was left to decide: somebody was faster."))
            return HttpResponseRedirect(self.url(change.page if change.flag == DELETION else "unsettled"))
        except Refusal as refusal:
            self._tell_refusal(request, place, record, refusal)
            return here
        except Exception as error:  # of whatever store; a defect propagates
            # SQLite: another request is writing, and may be the one with this key. Past our COMMIT, nobody knows.
            if committing or not place.is_away(error):
                raise
            if not address.store:
                messages.error(request, gettext("Nothing was done: the database is busy. Try again."))
                return here
            # The call may have been carried out: no key is freed without a trace.
            logger.warning("The %s does not answer: %s", place, error)
            doubt = gettext("The store did not answer, so whether this was done is not known: %s")
            self._log(request, record, CHANGE, doubt % change.said)
            raise StoreAway(address.store) from error
        messages.success(request, change.done)
        return HttpResponseRedirect(self.url(change.page, address if change.page == "change" else None))

    def _tell_refusal(self, request: HttpRequest, place: Place, record: Any, refusal: Refusal) -> None:
        why = place.meanwhile(record) if record.presented.state is State.UNSETTLED else ""
        messages.error(request, gettext("Nothing was done: %s") % (why or refusal.message))

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


@dataclass(frozen=True, slots=True)
class _Change:
    """What is to be done: how the log has it, by flag and in words; what the operator is told, and on which page."""

    flag: int
    said: str
    done: str
    page: str


class _NothingLeft(Exception):
    """There is nothing stored that could be changed, so nothing is to be logged."""
