"""The page that a person gets in the place of problem details, after sending a form that is refused."""

import logging
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.template import Context, Engine
from django.template.loader import render_to_string
from django.templatetags.static import static
from django.utils.cache import add_never_cache_headers
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import get_language, get_language_bidi, gettext
from django.utils.translation import gettext_lazy as _

from django_idempotency.adapters.body import form_pairs
from django_idempotency.exceptions import Refusal

logger = logging.getLogger("django_idempotency")

TEMPLATE = "django_idempotency/refused.html"  # a project's own template of this name comes first
OWN = Path(__file__).parents[1] / "templates" / TEMPLATE

NOTHING_DONE = _("Nothing was done. Open the form again, and send it once more.")
# Title and text by the refusal's code. They do not say more of the other request than problem details do.
TEXTS = {
    "key-reused": (
        _("This form was already used"),
        _(
            "It was sent before, with other content. This time nothing was done. If you want to send something new,"
            " open the form again."
        ),
    ),
    "request-in-progress": (
        _("Your form is being processed"),
        _("It was sent more than once, and is carried out once. The result will be here in a moment."),
    ),
    "outcome-unknown": (
        _("We do not know whether this was done"),
        _("Your form was sent before and may have been carried out. It is not carried out again. Please ask us."),
    ),
    "store-unavailable": (
        _("Please try again in a moment"),
        _("Your form could not be processed. Nothing was done."),
    ),
    "body-incomplete": (_("Your form did not arrive whole"), NOTHING_DONE),
}
OTHER = (_("Your form was not accepted"), NOTHING_DONE)
HAS_WAY_BACK = 400, 411, 422  # a new form helps: the key of this one cannot be used


def refusal_page(request: HttpRequest, refusal: Refusal, headers: dict[str, str]) -> HttpResponse:
    """
    Render *refusal* as a page with these *headers*.

    If a retry helps, the page sends the form again, after `Retry-After`, or lets its reader do so if scripts do not run
    or if it would have to send files. If a new form helps, it leads to one.
    """
    title, text = TEXTS.get(refusal.code, OTHER)
    context = {
        "refusal": refusal,  # with `code`, `status` and `retry_after`
        "title": title,
        "text": text,
        "back": _way_back(request) if refusal.status in HAS_WAY_BACK else None,
        "can_retry": refusal.retry_after is not None,
        "fields": form_pairs(request) if refusal.retry_after is not None else None,
        "action": request.get_full_path(),
        "enctype": request.content_type,
        "seconds": str(refusal.retry_after),
        "language": get_language() or settings.LANGUAGE_CODE,
        "is_rtl": get_language_bidi(),
        "style": _static_url("refused.css"),
        "script": _static_url("refused.js"),
        "labels": {
            "again": gettext("Ask again now") if refusal.status == 409 else gettext("Try again now"),
            "back": gettext("Open the form again"),
            "reload": gettext("Reload this page in a moment, and let your browser send the form again."),
        },
    }
    try:
        content = render_to_string(TEMPLATE, context, request)
    except Exception:  # a project without Django's templates, or a template that asks a database that is away
        logger.exception("The template %s cannot be rendered; the package's own is sent", TEMPLATE)
        content = _own_template().render(Context(context))
    response = HttpResponse(content, status=refusal.status, headers=headers)
    add_never_cache_headers(response)  # it has what the form had
    return response


def _way_back(request: HttpRequest) -> str:
    """The page from which the form was sent, which makes a new key; the view's own if the browser does not say it."""
    origin = request.headers.get("Referer", "")
    is_ours = url_has_allowed_host_and_scheme(origin, {request.get_host()}, require_https=request.is_secure())
    return origin if is_ours else request.get_full_path()


def _static_url(name: str) -> str:
    try:
        return static(f"django_idempotency/{name}")
    except Exception:  # `collectstatic` has not run, STATIC_URL is not set, the project's own storage is away
        logger.exception("The page of a refusal has no %s: set STATIC_URL, and run `collectstatic`", name)
        return ""


@cache
def _own_template() -> Any:
    return Engine().from_string(OWN.read_text())
