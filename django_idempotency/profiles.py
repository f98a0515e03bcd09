"""
Option sets that pass the published rules of other APIs: `stripe` and `acp`.

    @idempotent(**profiles.stripe())
    class CheckoutSessions(IdempotencyMixin, ViewSet):
        idempotency = Policy(**{**profiles.acp(), "ttl": timedelta(days=7)})
    IDEMPOTENCY = {**profiles.as_setting(profiles.acp()), "TTL": timedelta(days=7)}

What a profile does otherwise than its rules say, because the law forbids it, is in its docstring.
"""

from datetime import timedelta
from hashlib import sha256
from typing import Any

from django.http import JsonResponse

from django_idempotency import fingerprints
from django_idempotency.core.keys import MAX_STRING, UNSTORABLE
from django_idempotency.core.policy import Options
from django_idempotency.exceptions import (
    KeyExpired,
    KeyMissing,
    KeyReused,
    OutcomeUnknown,
    Refusal,
    RequestInProgress,
    StoreUnavailable,
)

__all__ = ["acp", "as_setting", "stripe"]

REPLAYED = "Idempotent-Replayed"

# By refusal: status, type, code. Source: https://docs.stripe.com/api/errors and https://docs.stripe.com/error-codes
OF_STRIPE: dict[type[Refusal], tuple[int, str, str | None]] = {
    KeyReused: (400, "idempotency_error", None),
    KeyExpired: (400, "idempotency_error", "key_expired"),
    RequestInProgress: (409, "idempotency_error", "idempotency_key_in_use"),
    OutcomeUnknown: (409, "api_error", "outcome_unknown"),
    StoreUnavailable: (503, "api_error", "store_unavailable"),
}
# By refusal: type, code, message. Source: the protocol's RFC "Agentic Checkout", 3.1 and 6.
OF_ACP: dict[type[Refusal], tuple[str, str, str | None]] = {
    KeyMissing: (
        "invalid_request",
        "idempotency_key_required",
        "Idempotency-Key header is required on all POST requests",
    ),
    KeyReused: (
        "invalid_request",
        "idempotency_conflict",
        "Idempotency-Key has already been used with a different request body",
    ),
    RequestInProgress: (
        "invalid_request",
        "idempotency_in_flight",
        "A request with this Idempotency-Key is currently being processed",
    ),
    OutcomeUnknown: ("processing_error", "outcome_unknown", None),
    StoreUnavailable: ("service_unavailable", "store_unavailable", None),
}


def stripe() -> Options:
    """
    Behave as Stripe's API v1 does (docs.stripe.com/api/idempotent_requests): each POST takes a key, which is unique
    over all endpoints of an account; another endpoint or other parameters are 400 `idempotency_error`, a request in
    flight is 409 `idempotency_key_in_use`. Answers repeat the key, and a replay is marked by `Idempotent-Replayed`.
    `Stripe-Should-Retry` tells Stripe's client libraries which refusals a retry can help.

    Stripe stores a 400 of the endpoint itself and a 500, and replays them. Here they roll back, so that a retry runs
    again: what rolls back is forgotten.
    """
    return Options(
        methods=("POST",),
        operation="stripe",  # one for all endpoints
        ttl=timedelta(hours=24),
        form_key=False,  # its bodies are forms, sent by programs
        echo=True,
        replayed_header=REPLAYED,
        refuse=_refuse_as_stripe,
    )


def acp() -> Options:
    """
    Behave as the Agentic Commerce Protocol asks (its RFC "Agentic Checkout", section 6): each POST needs a key, which
    belongs to the caller and the path; bodies are compared as JSON values, headers are not; errors have the protocol's
    shape and codes; answers repeat the key, and a replay is marked by `Idempotent-Replayed`.

    A 4xx that the handler refuses with is not stored: an identical retry runs again, and is refused again. Counts are
    kept for each path, because the operation is one.
    """
    return Options(
        required=True,
        methods=("POST",),
        operation=_path,
        fingerprint=_body,
        ttl=timedelta(hours=24),
        form_key=False,
        echo=True,
        replayed_header=REPLAYED,
        refuse=_refuse_as_acp,
    )


def as_setting(options: Options) -> dict[str, Any]:
    """*options* with their names in capitals, as the setting `IDEMPOTENCY` has them."""
    return {name.upper(): value for name, value in options.items()}


_body = fingerprints.json(body_only=True)


def _path(request: Any) -> str:
    """Method and path; of a path that is no column's value, its digest."""
    name = f"{request.method} {request.path}"
    if len(name) <= MAX_STRING and not UNSTORABLE.search(name):
        return name
    return f"{request.method} sha256:{sha256(request.path.encode(errors='surrogatepass')).hexdigest()}"


def _refuse_as_stripe(request: Any, refusal: Refusal) -> JsonResponse:
    default = refusal.status, "invalid_request_error", _snake(refusal.code)
    status, kind, code = OF_STRIPE.get(type(refusal), default)
    error = {"type": kind, "message": refusal.message} | ({} if code is None else {"code": code})
    can_retry = "false" if refusal.retry_after is None else "true"
    return JsonResponse({"error": error}, status=status, headers={"Stripe-Should-Retry": can_retry})


def _refuse_as_acp(request: Any, refusal: Refusal) -> JsonResponse:
    default = "invalid_request", _snake(refusal.code), None
    kind, code, message = OF_ACP.get(type(refusal), default)
    return JsonResponse({"type": kind, "code": code, "message": message or refusal.message}, status=refusal.status)


def _snake(code: str) -> str:
    return code.replace("-", "_")
