"""The protected view of the fault suite: a payment, and then what a handler may do that takes time or waits."""

import time

from django.http import HttpRequest, JsonResponse
from django.urls import path

from benchmarks.faults.bodies import data_in
from benchmarks.faults.bugs import around, inside
from django_idempotency import idempotent
from tests.app.models import Payment, Unique


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


urlpatterns = [path("pay/", around(idempotent(required=True)(inside(pay)), pay))]
