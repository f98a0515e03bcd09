"""Asks the view of a URL what became of a key: by the project's URLconf, as the caller who asks."""

from inspect import isawaitable
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from asgiref.sync import async_to_sync
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import Resolver404, get_resolver

from django_idempotency import conf
from django_idempotency.adapters.plain import rendered
from django_idempotency.core.observation import OBSERVE
from django_idempotency.exceptions import PolicyError, ReceiptUnavailable
from django_idempotency.protection.by_default import place_for
from django_idempotency.protection.middleware_place import is_installed
from django_idempotency.protection.placement import MIDDLEWARE, NONE
from django_idempotency.protection.receiving import Receipt
from django_idempotency.protection.resumption import RESUMPTION

# What another request would have, and what is computed of it and kept.
OF_THE_BODY = ("_body", "_post", "_files", "_data")
CACHED = ("GET", "headers")
# They may lead the request to another handler than that of its method.
OVERRIDES = ("HTTP_X_HTTP_METHOD_OVERRIDE", "HTTP_X_HTTP_METHOD", "HTTP_X_METHOD_OVERRIDE")


class NoBody:
    """The body of a request for a receipt: reading it would decide by what the request with the key did not have."""

    def __getattr__(self, name: str) -> NoReturn:
        _refuse_body()


def ask(request: HttpRequest, method: str, url: str) -> tuple[Receipt, HttpResponseBase]:
    """
    Ask the view at *url*, a path and perhaps a query, what became of the key of *request* that was sent by *method*.

    Returns the receipt and the view's response, which is the answer if the receipt has no state. Raises
    `ReceiptUnavailable` if nothing there takes a key, and what the view raises.
    """
    script = request.META.get("SCRIPT_NAME", "").rstrip("/")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ReceiptUnavailable from None
    if parts.scheme or parts.netloc or not parts.path.startswith(f"{script}/"):
        raise ReceiptUnavailable
    path = unquote(parts.path.removeprefix(script))
    try:
        match = get_resolver(getattr(request, "urlconf", None)).resolve(path)
    except Resolver404:
        raise ReceiptUnavailable from None
    found, place = place_for(match.func, match.route, match.url_name or "", method, match.kwargs.values())
    if place is None or place.how == NONE or (place.how == MIDDLEWARE and not is_installed()):
        raise ReceiptUnavailable
    policy = conf.resolved(*place.policies)
    if method not in policy.methods or policy.mode == OBSERVE:
        raise ReceiptUnavailable
    asked = _request_for(request, method, script, path, parts.query)
    asked.resolver_match = match
    receipt = Receipt()
    setattr(asked, RESUMPTION, receipt)
    view: Any = found.view if place.how == MIDDLEWARE else match.func
    response = view(asked, *match.args, **match.kwargs)
    if isawaitable(response):
        response = async_to_sync(_wait_for)(response)
    return receipt, rendered(response)


async def _wait_for(response: Any) -> Any:
    return await response


def _request_for(request: HttpRequest, method: str, script: str, path: str, query: str) -> Any:
    """*request* of the same caller, with another method and URL, and without a body."""
    asked: Any = object.__new__(type(request))
    vars(asked).update({name: value for name, value in vars(request).items() if name not in (*OF_THE_BODY, *CACHED)})
    asked.META = {name: value for name, value in request.META.items() if name not in OVERRIDES} | {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_LENGTH": "1",  # so that DRF looks for a body, and finds that there is none
        "CONTENT_TYPE": "application/json",
    }
    asked.environ = asked.META
    asked.method, asked.path, asked.path_info = method, script + path, path
    asked.content_type, asked.content_params = "application/json", {}
    asked._stream, asked._read_started = NoBody(), False
    asked._load_post_and_files = _refuse_body
    asked._dont_enforce_csrf_checks = True  # nothing is changed
    return asked


def _refuse_body() -> NoReturn:
    raise PolicyError(
        "A receipt is asked for without a body, and this view's options `key`, `scope` or `operation`, or its guards,"
        " read the body. Let them decide by the URL and the headers, or give no receipts for this view."
    )
