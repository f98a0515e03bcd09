"""The protected views that are killed and raced. What a handler does besides its work is asked for by `X-Proof`."""

import secrets
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.db import DatabaseError, connection, transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path
from rest_framework.decorators import api_view, permission_classes
from rest_framework.exceptions import ValidationError
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response

from django_idempotency import idempotent, once
from django_idempotency.probes import NOT_DONE, UNSURE
from tests.app.models import Payment


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
    import json

    answer, status = work(request.headers.get("X-Proof", ""), json.loads(request.body))
    return JsonResponse(answer, status=status)


def in_phases(knows_keys: bool = True, probe: Any = None, **options: Any) -> Any:
    """An order, a charge at another system that knows keys or does not, and a shipment."""

    @api_view(["POST"])
    @permission_classes([IsAuthenticated])
    @idempotent(required=True, mode="phased", **options)
    def pay(request: Any) -> Response:
        data, script, phase = request.data, request.headers.get("X-Proof", ""), request.idempotency.phase

        def write(amount: int) -> int:
            payment = Payment.objects.create(amount=amount, reference=data["reference"])
            if script == "slow":
                time.sleep(data["seconds"])
            return payment.pk

        order = phase("order", lambda: write(data["amount"]))
        asks = None if probe is None or probe is UNSURE else lambda key: probe(data["gateway"], key)
        charge = phase("charge", lambda key: at_gateway(data["gateway"], key, knows_keys), probe=asks or probe)
        shipment = phase("ship", lambda: write(data["amount"] + 1))
        return Response({"order": order, "charge": charge, "shipment": shipment}, status=201)

    return pay


def at_gateway(folder: str, key: str, knows_keys: bool) -> str:
    """A charge that has *key*, which the gateway makes once if it knows keys. The process can be killed around it."""
    points = getattr(sys.modules["__main__"], "installed_points", None)
    reach = points().reach if points is not None and points.cache_info().currsize else lambda name: None
    reach("before the gateway")
    charge = Path(folder, key if knows_keys else f"{key} {secrets.token_hex(8)}")
    try:
        with charge.open("x") as file:
            file.write(secrets.token_hex(8))
    except FileExistsError:
        pass
    reach("after the gateway")
    return charge.read_text()


def find_charge(folder: str, key: str) -> Any:
    """What became of a charge at a gateway that knows no keys."""
    charges = [file.read_text() for file in Path(folder).glob(f"{key} *")]
    return charges[0] if charges else NOT_DONE


urlpatterns = [
    path("phased/", in_phases(lease=timedelta(minutes=5))),
    path("phased/short/", in_phases(lease=timedelta(seconds=1))),
    path("phased/probed/", in_phases(knows_keys=False, probe=find_charge, lease=timedelta(minutes=5))),
    path("phased/unsure/", in_phases(knows_keys=False, probe=UNSURE, lease=timedelta(minutes=5))),
    path("pay/", view()),
    path("pay/wait/", view(in_flight="wait")),
    path("plain/", plain),
]
