"""
The browsable API with keys. In the settings it takes the place of DRF's own:

    REST_FRAMEWORK = {
        "DEFAULT_RENDERER_CLASSES": [
            "rest_framework.renderers.JSONRenderer",
            "django_idempotency.renderers.BrowsableAPIRenderer",
        ],
    }
"""

from typing import TYPE_CHECKING, Any

from django import forms
from django.template.loader import render_to_string
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy as _
from rest_framework import renderers
from rest_framework.request import Request

from django_idempotency.core.keys import KEY_FIELD
from django_idempotency.exceptions import Refusal

if TYPE_CHECKING:
    from django_idempotency.core.policy import ResolvedPolicy

__all__ = ["BrowsableAPIRenderer"]

HELP = _("One key for each action. If you send the same data again with it, you get the stored answer.")
NEEDS_NEW_KEY = frozenset({400, 411, 422})  # statuses of refusals


class BrowsableAPIRenderer(renderers.BrowsableAPIRenderer):
    """
    DRF's browsable API, in which the forms of a protected view have a field for the key.

    A script of the page fills it with a new key (a UUID of version 7) and sends it in the header, so serializers do not
    see it. It keeps its key while the action is not done. A refusal is shown in the page.
    """

    template = "django_idempotency/api.html"
    refusal: Refusal | None = None  # of this request
    renderer_context: dict[str, Any]  # DRF sets it when it renders

    def get_rendered_html_form(self, data: Any, view: Any, method: str, request: Request) -> Any:
        form = super().get_rendered_html_form(data, view, method, request)
        if not isinstance(form, str):  # there is none, or a button
            return form
        fields = self._key_fields("form", request, method)
        return form + mark_safe(render_to_string("rest_framework/raw_data_form.html", {"form": fields}))  # noqa: S308

    def get_raw_data_form(self, data: Any, view: Any, method: str, request: Request) -> Any:
        form = super().get_raw_data_form(data, view, method, request)
        if form is not None:
            # The form of PUT has a button for PATCH.
            form.fields |= self._key_fields(
                "raw", request, *(("PUT", "PATCH") if method == "PUT" else (method,))
            ).fields
        return form

    def _key_fields(self, kind: str, request: Request, *methods: str) -> forms.Form:
        """A form with the field for the key if a request with one of *methods* would be protected, else without one."""
        form = forms.Form()
        for policy in filter(None, [_policy(request, method) for method in methods]):
            attributes = {
                "id": f"idempotency-{kind}-{methods[0]}",
                "form": "none",  # it belongs to no form, so no browser sends it as a field
                "autocomplete": "off",  # Firefox would fill in the old key after a reload
                "data-idempotency-header": policy.header,
            }
            form.fields[KEY_FIELD] = forms.CharField(
                label=policy.header,
                initial=self._kept_key(request, policy) if request.method in methods else None,
                required=False,
                help_text=HELP,
                widget=forms.TextInput(attrs=attributes),
            )
        return form

    def _kept_key(self, request: Request, policy: "ResolvedPolicy") -> str | None:
        """The key of *request* if it can be used again, because nothing is stored for it or it is in flight."""
        is_done = self.renderer_context["response"].status_code < 400
        if is_done or (self.refusal is not None and self.refusal.status in NEEDS_NEW_KEY):
            return None
        key: str | None = request.META.get(policy.meta_name)
        return key


def _policy(request: Request, method: str) -> "ResolvedPolicy | None":
    """The policy under which a request with *method* takes its key from a header; None if there is none."""
    # Here, because DRF imports this module with its views, which may be before models are ready.
    from django_idempotency.protection.routes import policy_at

    policy = policy_at(request._request, method)
    return None if policy is None or policy.key is not None else policy
