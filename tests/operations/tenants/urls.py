"""A view in phases, whose effect is a row of the tenant."""

from typing import Any

from django.contrib.auth.models import User
from django.http import HttpRequest, JsonResponse
from django.urls import path

from django_idempotency import idempotent

failing: list[Exception] = []
seen: list[str] = []  # the tenants of requests that were sent again


@idempotent(mode="phased")
def join(request: HttpRequest) -> JsonResponse:
    phase: Any = request.idempotency.phase  # type: ignore[attr-defined]
    phase("first", lambda: None)
    if failing:
        raise failing.pop()
    seen.append(request.tenant.name)  # type: ignore[attr-defined]
    return JsonResponse({"user": phase("second", lambda: User.objects.create(username="joined").pk)}, status=201)


urlpatterns = [path("join/", join)]
