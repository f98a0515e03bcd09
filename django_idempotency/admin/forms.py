"""The forms in which an operator decides about a key."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib.admin.widgets import (
    AdminIntegerFieldWidget,
    AdminRadioSelect,
    AdminTextareaWidget,
    AdminTextInputWidget,
)
from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _

from django_idempotency import conf
from django_idempotency.core.operator_answer import HIGHEST, JSON, LOWEST, AnswerError, operator_record
from django_idempotency.core.record import CompletionRecord
from django_idempotency.stores.stored import StoredRecord

Layout = Sequence[str | tuple[str, ...]]  # of fields, as in a fieldset of the admin

GIVE_UP = "give-up"  # the verdict about an interrupted run


class Verdict(TextChoices):
    """The decision about an unsettled outcome. RESUME is for runs in phases."""

    RESUME = "resume", _("Resume: the next retry, or the resumer, goes on after the last finished phase.")
    RUN_AGAIN = "run-again", _("Run again: forget the claim, so that the next request with the key runs.")
    STORE_ANSWER = "store-answer", _("Store an answer: requests with the key get the answer below.")
    KEEP_REFUSING = "keep-refusing", _("Keep refusing: requests with the key get 409 until the claim expires.")


class FreeForm(forms.Form):
    """
    Asks for a reason, and keeps which execution the operator has seen, and which attempt of a run: the key may have
    been used again since.
    """

    layout: Layout = ("reason",)

    executed_at = forms.CharField(widget=forms.HiddenInput)
    attempt = forms.CharField(widget=forms.HiddenInput, required=False)  # of a run, by its owner's token
    reason = forms.CharField(
        label=_("Reason"),
        max_length=1000,
        widget=AdminTextareaWidget(attrs={"rows": 3}),
        help_text=_("It is kept in the history of this record, with your name."),
    )

    def __init__(self, record: StoredRecord, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.record = record

    @property
    def verdict(self) -> str:
        return Verdict.RUN_AGAIN

    @property
    def answer(self) -> CompletionRecord | None:
        """The answer to store, if that is the verdict."""
        return None


class GiveUpForm(FreeForm):
    """Asks for the reason why an interrupted run is not to be resumed."""

    @property
    def verdict(self) -> str:
        return GIVE_UP


def _but(*verdicts: Verdict) -> list[tuple[str, Any]]:
    return [choice for choice in Verdict.choices if choice[0] not in verdicts]


class SettleForm(FreeForm):
    """Asks for a decision as well, and for the answer if one is to be stored."""

    layout: Layout = ("choice", ("status", "content_type"), "body", "reason")

    choice = forms.ChoiceField(label=_("Decision"), choices=_but(Verdict.RESUME), widget=AdminRadioSelect)
    status = forms.IntegerField(
        label=_("Status"),
        required=False,
        min_value=LOWEST,
        max_value=HIGHEST,
        widget=AdminIntegerFieldWidget,
        help_text=_("Of the answer to store, like 201."),
    )
    content_type = forms.CharField(
        label=_("Content type"), required=False, max_length=255, initial=JSON, widget=AdminTextInputWidget
    )
    body = forms.CharField(
        label=_("Body"),
        required=False,
        strip=False,
        widget=AdminTextareaWidget(attrs={"rows": 5, "spellcheck": "false"}),
        help_text=_("Exactly as clients will get it, in UTF-8. Empty for an answer without a body."),
    )

    @property
    def verdict(self) -> str:
        return str(self.cleaned_data["choice"])

    @property
    def answer(self) -> CompletionRecord | None:
        found: CompletionRecord | None = self.cleaned_data.get("answer")
        return found

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if cleaned.get("choice") != Verdict.STORE_ANSWER or "status" not in cleaned:
            return cleaned
        if cleaned["status"] is None:
            self.add_error("status", _("An answer needs a status."))
            return cleaned
        if not {"content_type", "body"} <= cleaned.keys():
            return cleaned
        body = cleaned["body"].replace("\r\n", "\n").encode()  # browsers send line ends as CRLF
        try:
            cleaned["answer"] = operator_record(
                cleaned["status"],
                cleaned["content_type"],
                body,
                max_body=conf.resolved().max_body,
                is_event=not self.record.request,
            )
        except AnswerError as error:
            self.add_error(error.part, str(error))
        return cleaned


class SettleRunForm(SettleForm):
    """Asks about a run in phases, which can be resumed as well."""

    choice = forms.ChoiceField(label=_("Decision"), choices=Verdict.choices, widget=AdminRadioSelect)


class SettleForeignForm(SettleForm):
    """Offers no answer: none can be stored in a record that this package did not write."""

    layout: Layout = ("choice", "reason")

    choice = forms.ChoiceField(
        label=_("Decision"),
        choices=_but(Verdict.RESUME, Verdict.STORE_ANSWER),
        widget=AdminRadioSelect,
    )
    status = content_type = body = None  # type: ignore[assignment]
