"""Views that are right, from which the tests make wrong ones."""

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.views import View
from rest_framework.decorators import action, api_view, permission_classes
from rest_framework.generics import CreateAPIView
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response
from rest_framework.serializers import ModelSerializer
from rest_framework.views import APIView
from rest_framework.viewsets import ModelViewSet

from django_idempotency import Policy, idempotent
from django_idempotency.rest_framework import IdempotencyMixin
from tests.app.models import Payment


class PaymentSerializer(ModelSerializer):
    class Meta:
        model = Payment
        fields = ["id", "amount"]


@login_required
@idempotent
def function(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


def unprotected(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


@api_view(["GET", "POST"])
@permission_classes([IsAuthenticated])
@idempotent(required=True)
def api_function(request):
    return Response()


class Plain(View):
    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse()


class Closed(APIView):
    """A DRF view that asks who it is."""

    permission_classes = [IsAuthenticated]

    def post(self, request):
        return Response()


class Protected(IdempotencyMixin, Closed):
    idempotency = Policy(required=True)


class Payments(IdempotencyMixin, ModelViewSet):
    queryset = Payment.objects.all()
    serializer_class = PaymentSerializer
    permission_classes = [IsAuthenticated]

    @action(detail=True, methods=["post"])
    @idempotent(required=True)
    def refund(self, request, pk=None):
        return Response()


class CreatePayment(IdempotencyMixin, CreateAPIView):
    queryset = Payment.objects.all()
    serializer_class = PaymentSerializer
    permission_classes = [IsAuthenticated]
