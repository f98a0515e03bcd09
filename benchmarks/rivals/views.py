"""The payment view, bare and under the contender."""

from collections.abc import Callable

from django.conf import settings
from django.db import transaction
from django.urls import path
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from benchmarks.payments.models import Payment
from benchmarks.rivals.project import PATHS

# Called once, at the next rendering: the handler's work is done then, and no contender has stored the answer yet.
at_rendering: list[Callable[[], None]] = []


class Renderer(JSONRenderer):
    def render(self, *args: object, **kwargs: object) -> bytes:
        if at_rendering:
            at_rendering.pop()()
        return super().render(*args, **kwargs)


class PaymentSerializer(serializers.ModelSerializer[Payment]):
    class Meta:
        model = Payment
        fields = ("id", "amount", "currency", "reference", "created_at")


class View(APIView):
    """The handler of one INSERT needs no transaction of its own: who protects it decides whether it gets one."""

    renderer_classes = [Renderer]

    def post(self, request: Request) -> Response:
        serializer = PaymentSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        serializer.save()
        return Response(serializer.data, status=201)


class Bare(View):
    post = transaction.atomic(View.post)


VIEWS = {
    "bare": transaction.non_atomic_requests(Bare.as_view()),  # of its one transaction, whatever the contender sets
    "protected": settings.CONTENDER.protect(View, settings.SERVICES).as_view(),
}
urlpatterns = [path(PATHS[name].removeprefix("/"), view) for name, view in VIEWS.items()]
