"""One payment view, bare and protected: a light view, so that what protection adds shows."""

import json
import uuid
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from benchmarks.payments.models import Payment
from benchmarks.project import PATHS
from django_idempotency import idempotent
from django_idempotency.rest_framework import IdempotentRequest

PAYMENTS = Payment._default_manager

CANNED = b'{"id":1,"amount":1200,"currency":"EUR","reference":"the first","created_at":"2026-11-25T04:00:00.000000Z"}'
COLUMNS = (
    "digest",
    "fingerprint",
    "scope",
    "operation",
    "key",
    "request",
    "request_id",
    "status",
    "head",
    "body",
    "executed_at",
    "expires_at",
)


class PaymentSerializer(serializers.ModelSerializer[Payment]):
    class Meta:
        model = Payment
        fields = ("id", "amount", "currency", "reference", "created_at")


def pay(request: Request) -> Response:
    """As a DRF tutorial would write it, with one INSERT."""
    serializer = PaymentSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    serializer.save()
    return Response(serializer.data, status=201)


class Bare(APIView):
    def post(self, request: Request) -> Response:
        return pay(request)


class Atomic(Bare):
    post = transaction.atomic(Bare.post)


class Protected(Bare):
    post = idempotent(Bare.post)


class TwoStatements(APIView):
    """
    The floor: the bare view in `atomic`, and around it one plain INSERT and one plain UPDATE of a row like ours.

    Nothing else that protection does: no look-up, no lock, no digest of anything.
    """

    def post(self, request: Request) -> Response:
        digest, now = uuid.uuid4().bytes * 2, timezone.now()
        operations = connection.ops
        executed, expires = (operations.adapt_datetimefield_value(at) for at in (now, now + timedelta(days=1)))
        columns = ", ".join(operations.quote_name(column) for column in COLUMNS)
        row = (digest, digest, "auth.user:1", "POST payments/", "key-1", "POST localhost payments/", "")
        marks = ", ".join(["%s"] * len(COLUMNS))
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(
                    f"INSERT INTO django_idempotency_record ({columns}) VALUES ({marks})",  # noqa: S608 names are ours
                    (*row, 0, b"", b"", executed, expires),
                )
            response = pay(request)
            with connection.cursor() as cursor:
                cursor.execute(
                    "UPDATE django_idempotency_record SET status = %s, head = %s, body = %s WHERE digest = %s",
                    (201, b'["Created", []]', b"x" * 120, digest),
                )
        return response


def save_two(request: Request, block: Callable[[str, Callable[[], int]], int]) -> Response:
    """Two payments, each in a *block* of its own."""
    serializer = PaymentSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    return Response([block(name, lambda: PAYMENTS.create(**serializer.validated_data).pk) for name in "ab"], status=201)


def in_atomic(name: str, work: Callable[[], int]) -> int:
    with transaction.atomic():
        return work()


class Twice(APIView):
    """The work of `Phased`, bare."""

    def post(self, request: Request) -> Response:
        return save_two(request, in_atomic)


class Phased(APIView):
    @idempotent(mode="phased")
    def post(self, request: IdempotentRequest) -> Response:
        handle = request.idempotency
        return save_two(request, in_atomic if handle is None else handle.phase)


def insert(view: APIView, request: Request) -> Response:
    """One INSERT and nothing else: no serializer."""
    return Response({"id": PAYMENTS.create(**request.data).pk}, status=201)


class Insert(APIView):
    post = transaction.atomic(insert)


class ProtectedInsert(APIView):
    post = idempotent(insert)


class Canned(APIView):
    """The floor of a replay: who asks is authenticated, and gets an answer that is there already."""

    def post(self, request: Request) -> HttpResponse:
        return HttpResponse(CANNED, status=201, content_type="application/json")


def get(request: HttpRequest) -> HttpResponse:
    """As little as a view can do, so that what the middleware adds shows."""
    return HttpResponse(b"ok")


def save(request: HttpRequest) -> int:
    return PAYMENTS.create(**json.loads(request.body)).pk


def asynchronous(save: Callable[[HttpRequest], int]) -> Callable[[HttpRequest], Coroutine[Any, Any, JsonResponse]]:
    async def view(request: HttpRequest) -> JsonResponse:
        return JsonResponse({"id": await sync_to_async(save)(request)}, status=201)

    return view


VIEWS = {"autocommit": Bare, "atomic": Atomic, "protected": Protected, "floor": TwoStatements, "canned": Canned}
VIEWS |= {"twice": Twice, "phased": Phased, "insert": Insert, "protected insert": ProtectedInsert}
urlpatterns = [path(PATHS[name].removeprefix("/"), view.as_view()) for name, view in VIEWS.items()]
urlpatterns += [
    path("async/atomic/", asynchronous(transaction.atomic(save))),
    path("async/protected/", idempotent(asynchronous(save))),
]
urlpatterns.append(path(PATHS["get"].removeprefix("/"), get))
