from django.urls import path
from rest_framework.decorators import api_view
from rest_framework.response import Response
from django_idempotency import idempotent
from tests.app.models import Payment

@api_view(["POST"])
@idempotent
def pay(request):
    p = Payment.objects.create(amount=request.data["amount"])
    return Response({"id": p.pk}, status=201)

urlpatterns = [path("pay/", pay)]
