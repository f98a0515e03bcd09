"""The settings, the URLconf and the view of the processes in `test_resume_command.py`."""

import os
import time
from datetime import timedelta
from pathlib import Path

from django.http import HttpRequest, JsonResponse
from django.urls import path

from django_idempotency import idempotent
from tests.settings import *  # noqa: F403

ROOT_URLCONF = "tests.phased.resumed"
failing: list[Exception] = []


def charges(folder: Path) -> dict[str, list[int]]:
    """The charges that the gateway has made, by their keys: which processes have asked for each."""
    return {each.name: [int(pid) for pid in each.read_text().split()] for each in folder.iterdir()}


def charge(key: str) -> str:
    from tests.app.models import Payment

    if failing:
        raise failing.pop()
    Payment.objects.create(amount=1, reference="charge")
    with (Path(os.environ["GATEWAY"]) / key).open("a") as file:
        file.write(f"{os.getpid()}\n")
    if hangs := os.environ.get("HANGS"):
        time.sleep(1 if hangs == "for a second" else 600)
    return key


def answer() -> JsonResponse:
    return JsonResponse({"done": True}, status=201)


@idempotent(mode="phased", lease=timedelta(seconds=2))
def pay(request: HttpRequest) -> JsonResponse:
    from tests.app.models import Payment

    phase = request.idempotency.phase  # type: ignore[attr-defined]
    phase("order", lambda: Payment.objects.create(amount=1, reference="order").pk)
    phase("charge", charge)
    return answer()


urlpatterns = [path("pay/", pay)]
