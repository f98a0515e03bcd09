"""One protected view of each kind that the package supports. Each makes a payment and answers with it."""

import json
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.utils.decorators import method_decorator
from django.views import View
from rest_framework import generics, serializers, viewsets
from rest_framework.decorators import action, api_view
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.versioning import NamespaceVersioning, URLPathVersioning
from rest_framework.views import APIView

from django_idempotency import Policy, idempotent
from django_idempotency.rest_framework import IdempotencyMixin
from tests.app.models import Payment


class PaymentSerializer(serializers.ModelSerializer):
    class Meta:
        model = Payment
        fields = ["id", "amount", "reference"]


def answer(request: Any, data: Any = None, status: int = 201, **options: Any) -> Any:
    """*data* as the framework that made *request* answers."""
    if isinstance(request, Request):
        return Response(data, status=status, **options)
    return JsonResponse(data, status=status, safe=False, **options)


def amount(request: Any) -> int:
    data = request.data if isinstance(request, Request) else json.loads(request.body)
    return data["amount"]


def make_payment(request: Any, reference: str = "") -> Any:
    """Pay, and answer 201 with the payment."""
    return answer(request, PaymentSerializer(Payment.objects.create(amount=amount(request), reference=reference)).data)


@api_view(["POST"])
@idempotent
def pay(request: Request) -> Response:
    payment = Payment.objects.create(amount=request.data["amount"])
    return Response({"id": payment.pk}, status=201)


@idempotent
def plain(request: HttpRequest) -> JsonResponse:
    return make_payment(request, "plain")


@method_decorator(idempotent, name="post")
class PlainClass(View):
    def get(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse({"payments": Payment.objects.count()})

    def post(self, request: HttpRequest) -> JsonResponse:
        return make_payment(request, "plain class")


class PlainMethod(View):
    @idempotent
    def post(self, request: HttpRequest) -> JsonResponse:
        return make_payment(request, "plain method")


class Method(APIView):
    @idempotent(required=True)
    def post(self, request: Request, **kwargs: Any) -> Response:
        return make_payment(request, "method")


class Mixed(IdempotencyMixin, APIView):
    idempotency = Policy(required=True)

    def post(self, request: Request, format: str | None = None) -> Response:
        return make_payment(request, "mixed")

    def get(self, request: Request, format: str | None = None) -> Response:
        return Response({"payments": Payment.objects.count()})


class Payments(IdempotencyMixin, generics.ListCreateAPIView):
    queryset = Payment.objects.order_by("pk")
    serializer_class = PaymentSerializer


class PaymentViewSet(IdempotencyMixin, viewsets.ModelViewSet):
    queryset = Payment.objects.order_by("pk")
    serializer_class = PaymentSerializer

    @action(detail=True, methods=["post", "patch", "delete"])
    def refund(self, request: Request, pk: str | None = None, **kwargs: Any) -> Response:
        return make_payment(request, f"{request.method} refund")

    @action(detail=False, methods=["post"])
    @idempotent(required=True)
    def transfer(self, request: Request, **kwargs: Any) -> Response:
        return make_payment(request, "transfer")

    @action(detail=True, methods=["post"], url_path="notes/(?P<kind>[a-z]+)")
    def note(self, request: Request, kind: str, pk: str | None = None, **kwargs: Any) -> Response:
        return make_payment(request, f"new {kind}")

    @note.mapping.patch
    def change_note(self, request: Request, kind: str, pk: str | None = None, **kwargs: Any) -> Response:
        return make_payment(request, f"changed {kind}")


class ActionsOnly(viewsets.GenericViewSet):
    """A viewset without the mixin, whose actions are protected one by one."""

    queryset = Payment.objects.order_by("pk")
    serializer_class = PaymentSerializer

    @action(detail=True, methods=["post"])
    @idempotent
    def capture(self, request: Request, pk: str | None = None) -> Response:
        return make_payment(request, "capture")


class VersionedByPath(APIView):
    versioning_class = URLPathVersioning

    @idempotent
    def post(self, request: Request, version: str) -> Response:
        return make_payment(request, f"version {version}")


class VersionedByNamespace(APIView):
    versioning_class = NamespaceVersioning

    @idempotent
    def post(self, request: Request) -> Response:
        return make_payment(request, f"namespace {request.version}")
