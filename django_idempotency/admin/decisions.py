"""An operator's decisions about keys: each is confirmed with a reason and kept in the admin's log."""

from collections.abc import Callable
from functools import partial
from typing import Any

from django.contrib import messages
from django.contrib.admin.helpers import AdminForm
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import router
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_idempotency.admin.forms import (
    GIVE_UP,
    FreeForm,
    GiveUpForm,
    SettleForeignForm,
    SettleForm,
    SettleRunForm,
    Verdict,
)
from django_idempotency.admin.pages import Link, Page, RecordPagesMixin, StoreAway, back_if_away
from django_idempotency.engine.transactions import atomic_phase
from django_idempotency.exceptions import Refusal
from django_idempotency.operations import locations, records
from django_idempotency.operations.presentation import State

TEMPLATES = "admin/django_idempotency/idempotencyrecord"


class DecisionViewsMixin(RecordPagesMixin):
    """Views that free the key of a completed record, settle an unsettled outcome, and give an interrupted run up."""

    free_key_template = f"{TEMPLATES}/free_key.html"
    settle_outcome_template = f"{TEMPLATES}/settle_outcome.html"
    give_up_template = f"{TEMPLATES}/give_up.html"

    def has_free_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """May this user free the key of a completed record?"""
        return request.user.has_perm(f"{self.opts.app_label}.free_key")

    def has_settle_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """May this user settle an unsettled outcome, and give an interrupted run up?"""
        return request.user.has_perm(f"{self.opts.app_label}.settle_outcome")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("<path:object_id>/free/", view(self.free_view), name=self.url_name("free")),
            path("<path:object_id>/settle/", view(self.settle_view), name=self.url_name("settle")),
            path("<path:object_id>/give-up/", view(self.give_up_view), name=self.url_name("give_up")),
            *super().get_urls(),
        ]

    def decisions(self, request: HttpRequest, page: Page) -> list[tuple[str, Promise]]:
        """URL and label of each decision that this user may take about the record as it is."""
        match page.shown.state:
            case State.COMPLETED if self.has_free_permission(request, page):
                return [(self.url("free", page.pk), _("Free this key"))]
            case State.UNSETTLED if self.has_settle_permission(request, page):
                return [(self.url("settle", page.pk), _("Settle the outcome"))]
            case State.INTERRUPTED if self.has_settle_permission(request, page):
                return [(self.url("give_up", page.pk), _("Give this run up"))]
            case _:
                return []

    @back_if_away
    def free_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Forget the record of a key, after a confirmation with a reason."""
        page = self._page(request, object_id, self.has_free_permission)
        return self._decide(request, object_id, page, State.COMPLETED, FreeForm)

    @back_if_away
    def settle_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Settle an unsettled outcome, with a reason."""
        page = self._page(request, object_id, self.has_settle_permission)
        form_class = SettleForm
        if page is not None and page.shown.is_foreign:
            form_class = SettleForeignForm
        elif page is not None and page.shown.run is not None:
            form_class = SettleRunForm
        return self._decide(request, object_id, page, State.UNSETTLED, form_class)

    @back_if_away
    def give_up_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Give an interrupted run up, with a reason."""
        page = self._page(request, object_id, self.has_settle_permission)
        return self._decide(request, object_id, page, State.INTERRUPTED, GiveUpForm)

    def _page(self, request: HttpRequest, object_id: str, allowed: Callable[..., bool]) -> Page | None:
        page: Any = self.get_object(request, unquote(object_id))
        if not self.has_view_permission(request, page) or not allowed(request, page):
            raise PermissionDenied
        return page  # type: ignore[no-any-return]

    def _decide(
        self, request: HttpRequest, object_id: str, page: Page | None, expected: State, form_class: type[FreeForm]
    ) -> HttpResponse:
        """Show the form of a decision, or carry the decision out."""
        if page is None:
            return self.gone(request, unquote(object_id))
        here = HttpResponseRedirect(self.url("change", page.pk))
        if page.shown.state is not expected:
            nothing = gettext("There is nothing to decide: the record is now %s.")
            messages.warning(request, nothing % page.shown.state.label)
            return here
        run = page.stored.run
        seen = {"executed_at": page.stored.executed_at.isoformat(), "attempt": "" if run is None else run.token}
        form = form_class(page.stored, request.POST or None, initial=seen)
        if form.is_valid():
            if form.cleaned_data["executed_at"] != seen["executed_at"]:
                again = gettext("Nothing was done: the key has been used again since. This is its new record.")
            elif form.cleaned_data["attempt"] != seen["attempt"]:
                again = gettext("Nothing was done: the run has gone on since. This is where it is now.")
            else:
                return self._carry_out(request, page, form)
            messages.error(request, again)
            return here
        fieldsets: Any = [(None, {"fields": form.layout})]
        adminform = AdminForm(form, fieldsets, {}, model_admin=self)  # type: ignore[arg-type]
        template, title = {
            State.COMPLETED: (self.free_key_template, _("Free this key?")),
            State.UNSETTLED: (self.settle_outcome_template, _("Settle the outcome")),
            State.INTERRUPTED: (self.give_up_template, _("Give this run up?")),
        }[expected]
        return self.render(
            request,
            template,
            page=page,
            title=title,
            subtitle=page.shown.key,
            record=page.shown,
            record_url=self.url("change", page.pk),
            adminform=adminform,
            errors=form.errors,
            media=self.media + adminform.media,
        )

    def _carry_out(self, request: HttpRequest, page: Page, form: FreeForm) -> HttpResponse:
        """Carry out the decision of the valid *form*."""
        reason = form.cleaned_data["reason"]
        words = {"operation": page.shown.operation, "scope": page.shown.scope, "reason": reason}
        answer = form.answer
        if form.verdict in (GIVE_UP, Verdict.RESUME):
            return self._change_run(request, page, form.verdict, words)
        if form.verdict == Verdict.KEEP_REFUSING and page.shown.run is not None and not page.shown.run.is_given_up:
            # Its next retry would go on with it.
            return self._change_run(request, page, GIVE_UP, words)
        if form.verdict == Verdict.KEEP_REFUSING:
            self._log(request, page, CHANGE, gettext("Decided to keep refusing. Reason: %s") % reason)
            messages.success(request, gettext("The key stays refused until the claim expires."))
            return HttpResponseRedirect(self.url("change", page.pk))
        if form.verdict == Verdict.STORE_ANSWER and answer is not None:
            entry = gettext(
                "Stored an answer of status %(status)d for %(operation)s in scope %(scope)s: retries get it."
                " Reason: %(reason)s"
            )
            return self._change(
                request,
                page,
                partial(records.settle, page.stored, answer),
                flag=CHANGE,
                entry=entry % {**words, "status": answer.status},
                done=gettext("The answer is stored: requests with the key get it."),
                next_page=self.url("change", page.pk),
            )
        entry = gettext(
            "Freed the key of %(operation)s in scope %(scope)s: the next request with it runs. Reason: %(reason)s"
        )
        return self._change(
            request,
            page,
            partial(records.free, page.stored),
            flag=DELETION,
            entry=entry % words,
            done=gettext("The key is free: the next request with it runs."),
            next_page=self.url("changelist" if page.shown.state is State.COMPLETED else "unsettled"),
        )

    def _change_run(self, request: HttpRequest, page: Page, verdict: str, words: dict[str, str]) -> HttpResponse:
        """Let the run of *page* be resumed, or give it up."""
        if verdict == Verdict.RESUME:
            change = records.resume
            entry = gettext("Let %(operation)s in scope %(scope)s be resumed. Reason: %(reason)s")
            done = gettext("The run is resumed by the next retry, or by the resumer.")
        else:
            change = records.give_up
            entry = gettext("Gave the run of %(operation)s in scope %(scope)s up. Reason: %(reason)s")
            done = gettext("The run is given up: its outcome is unsettled, and requests with the key get 409.")
        return self._change(
            request,
            page,
            partial(change, page.stored),
            flag=CHANGE,
            entry=entry % words,
            done=done,
            next_page=self.url("change", page.pk),
        )

    def _change(
        self,
        request: HttpRequest,
        page: Page,
        change: Callable[[], bool],
        *,
        flag: int,
        entry: str,
        done: str,
        next_page: str,
    ) -> HttpResponse:
        """
        Make the *change* and log its *entry* with *flag*, or neither. Then show the message *done* on *next_page*; if
        the change was not made, say why.
        """
        location = page.stored.location
        in_database = location.using is not None
        committing = False

        def change_and_log() -> None:
            nonlocal committing
            # A store outside the databases is changed last, because no transaction undoes that if the log fails.
            if not in_database:
                self._log(request, page, flag, entry)
            if not change():
                raise _NothingLeft
            if in_database:
                self._log(request, page, flag, entry)
            committing = True

        try:
            atomic_phase(location.using or router.db_for_write(LogEntry), change_and_log)
        except _NothingLeft:
            messages.warning(request, gettext("There was nothing left to decide: another user was faster."))
            return HttpResponseRedirect(next_page if flag == DELETION else self.url("unsettled"))
        except Refusal as refusal:
            why = locations.explain_refusal(page.stored) if page.stored.is_unsettled else ""
            messages.error(request, gettext("Nothing was done: %s") % (why or refusal.message))
            return HttpResponseRedirect(self.url("change", page.pk))
        except Exception as error:  # of any store; a defect propagates
            # After an error of COMMIT the result is unknown: it propagates, too.
            if committing or not locations.is_away(location, error):
                raise
            if in_database:  # on SQLite, another request is writing, and may be the one with this key
                messages.error(request, gettext("Nothing was done: the database is busy. Try again."))
                return HttpResponseRedirect(self.url("change", page.pk))
            # The change may have been made, and no key is freed without a trace in the log.
            unknown = gettext("The store did not answer, so it is not known whether this was done: %s")
            self._log(request, page, CHANGE, unknown % entry)
            raise StoreAway(location, error) from error
        messages.success(request, done)
        return HttpResponseRedirect(next_page)

    def _log(self, request: HttpRequest, page: Page, flag: int, message: str) -> None:
        LogEntry.objects.create(
            user_id=request.user.pk,  # type: ignore[misc]
            content_type_id=get_content_type_for_model(self.model).pk,
            object_id=page.pk,
            object_repr=f"{Link(page.pk)} {page.shown.operation}"[:200],
            action_flag=flag,
            change_message=message,
        )


class _NothingLeft(Exception):
    """Nothing is stored that could be changed: nothing is logged."""
