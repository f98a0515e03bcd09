"""The protected views that are killed and raced. What a handler does besides its work is asked for by `X-Proof`."""

import asyncio
import json
import sys
import time
from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.db import DatabaseError, connection, transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path
from rest_framework.decorators import api_view, permission_classes
from rest_framework.exceptions import ValidationError
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response

from django_idempotency import idempotent, once
from django_idempotency.probes import UNSURE
from tests.app.models import Payment
from tests.proof import gateway

# The server itself answers that it has cancelled the transaction for a rival's sake.
LOSE = {
    "postgresql": "DO $$ BEGIN RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END $$",
    "mysql": "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'lost'",
}
lost: set[str] = set()  # references whose work has lost once in this process


class Undone(Exception):
    """Rolls a savepoint back."""


def work(script: str, data: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The effect, and what else *script* names; then the answer and its status."""
    reference = data["reference"]
    payment = Payment.objects.create(amount=data["amount"], reference=reference)
    match script:
        case "refuse":
            return {"error": "mend your payload"}, 400
        case "raise":
            raise ValidationError("mend your payload")
        case "decline":
            return {"id": payment.pk, "declined": True}, 402
        case "fail":
            return {"error": "not today"}, 503
        case "undo":
            transaction.set_rollback(True)
        case "lose" if reference not in lost:
            lost.add(reference)
            with connection.cursor() as cursor:
                cursor.execute(LOSE[connection.vendor])
        case "savepoints":
            with transaction.atomic():
                Payment.objects.create(amount=data["amount"] + 1, reference=reference)
            try:
                with transaction.atomic():
                    Payment.objects.create(amount=-1, reference=reference)
                    raise Undone
            except Undone:
                Payment.objects.filter(pk=payment.pk).update(amount=data["amount"] + 2)
        case "commit":
            with connection.cursor() as cursor:
                cursor.execute("COMMIT")
            Payment.objects.create(amount=data["amount"] + 1, reference=reference)
        case "ddl":
            with connection.cursor() as cursor:
                cursor.execute("ALTER TABLE app_unique COMMENT = 'altered'")
            Payment.objects.create(amount=data["amount"] + 1, reference=reference)
        case "swallow in cursor" | "swallow in atomic":
            if "first" in data:
                with connection.cursor() as cursor:
                    cursor.execute(data["first"])
            swallow(script, data["statement"])
            if "more" in data:
                Payment.objects.create(amount=data["amount"] + 1, reference=reference)
        case "hook":  # the second event has the first one's key and another payload: it is refused
            for number in range(2):
                transaction.on_commit(lambda number=number: other_work({"id": reference, "number": number}))
    return {"id": payment.pk, "amount": data["amount"]}, 201


def swallow(script: str, statement: str) -> None:
    """Go on after the error of *statement*, as a handler might whose statement was worth a try."""
    try:
        if script == "swallow in cursor":
            with connection.cursor() as cursor:
                cursor.execute(statement)
        else:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(statement)
    except DatabaseError:
        pass  # this is the mistake that is tested


@once("proof.other", key=lambda event: event["id"], fingerprint=lambda event: bytes([event["number"]]))
def other_work(event: dict[str, Any]) -> None:
    """Another operation, which a handler's hook starts."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def view(**options: Any) -> Any:
    @api_view(["POST"])
    @permission_classes([IsAuthenticated])
    @idempotent(required=True, **options)
    def pay(request: Any) -> Response:
        answer, status = work(request.headers.get("X-Proof", ""), request.data)
        return Response(answer, status=status)

    return pay


@idempotent(required=True)
def plain(request: HttpRequest) -> JsonResponse:
    """Asks the database nothing before its claim: no user, no session."""
    answer, status = work(request.headers.get("X-Proof", ""), json.loads(request.body))
    return JsonResponse(answer, status=status)


def in_phases(knows_keys: bool = True, probe: Any = None, **options: Any) -> Any:
    """An order, a charge at another system that knows keys or does not, and a shipment."""

    @api_view(["POST"])
    @permission_classes([IsAuthenticated])
    @idempotent(required=True, mode="phased", **options)
    def pay(request: Any) -> Response:
        data, script, phase = request.data, request.headers.get("X-Proof", ""), request.idempotency.phase

        def write(reference: str) -> int:
            payment = Payment.objects.create(amount=data["amount"], reference=reference)
            if script == "slow":
                time.sleep(data["seconds"])
            return payment.pk

        def charge(key: str) -> str:
            return at_gateway(data["gateway"], key, data["reference"], knows_keys)

        asks = (lambda key: probe(data["gateway"], key)) if callable(probe) else probe
        order = phase("order", lambda: write(data["reference"]))
        charged = phase("charge", charge, probe=asks)
        shipment = phase("ship", lambda: write(f"{data['reference']}/shipment"))
        return Response({"id": order, "charge": charged, "shipment": shipment}, status=201)

    return pay


def reach(name: str) -> None:
    """The process can be killed here, where it is one that halts."""
    child = sys.modules.get("tests.proof.child", sys.modules["__main__"])
    points = getattr(child, "installed_points", None)
    if points is not None and points.cache_info().currsize:
        points().reach(name)


@idempotent(required=True)
async def asynchronous(request: HttpRequest) -> JsonResponse:
    """The work of the others, between awaits, with some statements at once."""
    reach("before an await")
    await asyncio.sleep(0)
    reach("before statements at once")
    data = json.loads(request.body)
    answer, status = (await asyncio.gather(sync_to_async(work)(request.headers["X-Proof"], data), count(), count()))[0]
    reach("after statements at once")
    await asyncio.sleep(0)
    reach("after an await")
    return JsonResponse(answer, status=status)


async def count() -> int:
    return await Payment.objects.acount()


def at_gateway(folder: str, key: str, reference: str, knows_keys: bool) -> str:
    """A charge, around which the process can be killed."""
    reach("before the gateway")
    number = gateway.charge(folder, key, reference, knows_keys=knows_keys)
    reach("after the gateway")
    return number


urlpatterns = [
    path("phased/", in_phases(lease=timedelta(minutes=5))),
    path("phased/brief/", in_phases(lease=timedelta(seconds=0.3), max_attempts=1000)),
    path("phased/short/", in_phases(lease=timedelta(seconds=1))),
    path("phased/probed/", in_phases(knows_keys=False, probe=gateway.find, lease=timedelta(minutes=5))),
    path("phased/unsure/", in_phases(knows_keys=False, probe=UNSURE, lease=timedelta(minutes=5))),
    path("pay/", view()),
    path("pay/wait/", view(in_flight="wait")),
    path("pay/again/", view(retries=3)),
    path("plain/", plain),
    path("async/", asynchronous),
]
