"""A URLconf of plain Django views."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

from django_idempotency import idempotent


@idempotent(required=True)
def pay(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


urlpatterns = [path("pay/", pay)]
