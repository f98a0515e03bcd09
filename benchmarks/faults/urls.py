"""The protected views of the fault suite: a payment, and then what a handler may do that takes time or waits."""

import json
import os
import sys
import time
from datetime import timedelta
from uuid import uuid4

from django.http import HttpRequest, JsonResponse
from django.urls import path

from benchmarks.faults.bodies import data_in
from benchmarks.faults.bugs import BUG, around, inside
from django_idempotency import idempotent
from tests.app.models import Payment, Unique
from tests.proof import gateway

GATEWAY = json.loads(os.environ.get("FAULTS", "{}")).get("gateway", "")
LEASE = timedelta(seconds=1)


def pay(request: HttpRequest) -> JsonResponse:
    """
    Make a payment. `X-Seconds` is how many seconds the handler then waits, as for a gateway.

    `rows` in the payload are rows that it changes, one after the other: two requests with another order may deadlock.
    `note` is text that the answer repeats.
    """
    data = data_in(request)
    payment = Payment.objects.create(amount=data["amount"], reference=data["reference"])
    answer = {"id": payment.pk, "amount": payment.amount, "note": data.get("note", "")}
    request.made = answer  # type: ignore[attr-defined] for the bug that always answers
    seconds = float(request.headers.get("X-Seconds", "0"))
    time.sleep(seconds)  # a gateway that answers when it likes
    for number in data.get("rows", ()):
        Unique.objects.filter(pk=number).update(name=f"{number} {data['reference']}")
        time.sleep(seconds)
    return JsonResponse(answer, status=201)


@idempotent(required=True, mode="phased", lease=LEASE)
def pay_in_phases(request: HttpRequest) -> JsonResponse:
    """An order, a charge, which takes `X-Seconds`, and a shipment."""
    data, phase = data_in(request), request.idempotency.phase  # type: ignore[attr-defined]
    amount, reference = data["amount"], data["reference"]

    def charge(key: str) -> str:
        number = gateway.charge(GATEWAY, str(uuid4()) if BUG == "a key for each try" else key, reference)
        time.sleep(float(request.headers.get("X-Seconds", "0")))  # a gateway that answers when it likes
        return number

    order = phase("order", lambda: Payment.objects.create(amount=amount, reference=reference).pk)
    charged = phase("charge", charge)
    shipment = phase("ship", lambda: Payment.objects.create(amount=amount, reference=f"{reference}/shipment").pk)
    return JsonResponse({"id": order, "charge": charged, "shipment": shipment}, status=201)


def failure(request: HttpRequest) -> JsonResponse:
    """Django's 500, which names the database's error to the checker."""
    error = sys.exc_info()[1]
    cause = getattr(error, "__cause__", None) or error  # the driver's
    code = getattr(cause, "sqlstate", None) or next(iter(getattr(cause, "args", ())), None)
    return JsonResponse({"code": str(code)}, status=500)


handler500 = failure

urlpatterns = [
    path("pay/", around(idempotent(required=True)(inside(pay)), pay)),
    path("phased/", pay_in_phases),
]
