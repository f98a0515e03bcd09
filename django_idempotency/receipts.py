"""
A view that tells callers what became of a key of theirs, without the request being sent again:

    urlpatterns = [path("receipts/", receipt), ...]

    GET /receipts/?method=POST&path=/payments/
    Idempotency-Key: 8e03978e-40d5-43dd-bc93-6894a57f9324
"""

from base64 import b64encode
from typing import Any

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from django_idempotency import conf
from django_idempotency.adapters.plain import PlainAdapter
from django_idempotency.exceptions import ReceiptUnavailable, RequestInProgress
from django_idempotency.protection.asking import ask
from django_idempotency.protection.receiving import IN_FLIGHT, Receipt

__all__ = ["receipt"]


@transaction.non_atomic_requests  # a snapshot that is as old as the request would not show what was committed since
@require_GET
@never_cache
def receipt(request: HttpRequest) -> HttpResponseBase:
    """
    Tell what became of the key in the request's header, which was sent by *method* (POST) to *path*, both of the query.

    The view there authenticates the caller, and its permissions, throttles and `replay_guard` decide as for a retry;
    what they refuse is answered as they answer it. Its handler does not run, and nothing is changed. A key of another
    caller was never seen.

    The answer is 200 with the `state`: `never_seen`, `in_flight`, `interrupted`, `done` with the `answer` that a retry
    would get, `expired`, or `unknown`.
    """
    try:
        found, response = ask(request, request.GET.get("method", "POST").upper(), request.GET.get("path", ""))
    except ReceiptUnavailable as refusal:
        return PlainAdapter(request, conf.resolved()).refuse(refusal)
    if not found.state or (found.record is not None and response.status_code != found.record.status):
        return response  # of a guard
    headers = {"Retry-After": str(RequestInProgress.retry_after)} if found.state == IN_FLIGHT else {}
    return JsonResponse({"state": found.state, **_details(found, response)}, headers=headers)


def _details(found: Receipt, response: Any) -> dict[str, Any]:
    if found.record is None or found.stored is None:
        return {}
    content: bytes = response.content
    try:
        body = {"body": content.decode()}
    except UnicodeDecodeError:
        body = {"body_base64": b64encode(content).decode()}
    return {
        "executed_at": found.stored.executed_at,
        "answer": {"status": response.status_code, "headers": dict(response.headers), **body},
    }
