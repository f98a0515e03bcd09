"""The part of a record's page that shows its run in phases."""

from django.contrib import admin
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_idempotency.admin.pages import Page, RecordPagesMixin
from django_idempotency.operations.presentation import State


class RunFieldsMixin(RecordPagesMixin):
    """The methods behind the fields of a run, as those of `IdempotencyRecordAdmin`."""

    run_fieldset = (
        _("The run in phases"),
        {"fields": ("finished_phases", ("stopped_in", "attempts_made"), "last_error", "resumed_until")},
    )

    @admin.display(description=_("finished phases"))
    def finished_phases(self, page: Page) -> str:
        phases = page.shown.run.phases if page.shown.run else ()
        if not phases:
            return gettext("None.")
        hidden = gettext("You have no permission to see results.")
        return format_html(
            '<table class="idempotency-headers"><tbody>{}</tbody></table>',
            format_html_join(
                "",
                '<tr><th scope="row">{}</th><td>{}</td></tr>',
                [(name, hidden if result is None else result) for name, result in phases],
            ),
        )

    @admin.display(description=_("stopped in"))
    def stopped_in(self, page: Page) -> str:
        return page.shown.run.stopped if page.shown.run and page.shown.state is not State.RUNNING else ""

    @admin.display(description=_("attempts"))
    def attempts_made(self, page: Page) -> str:
        return page.shown.run.tried if page.shown.run else ""

    @admin.display(description=_("last error"))
    def last_error(self, page: Page) -> str:
        return page.shown.run.error if page.shown.run else ""

    @admin.display(description=_("resumed"))
    def resumed_until(self, page: Page) -> str:
        run = page.shown.run
        if run is None or page.shown.state is State.RUNNING:
            return ""
        if run.is_given_up:
            return gettext("Not until an operator decides so.")
        if not run.is_sent:
            return gettext("By a retry alone.")
        until = date_format(timezone.localtime(run.resume_until), "DATETIME_FORMAT")
        return gettext("By a retry, or until %s by the resumer.") % until
