"""`uvicorn tests.asyncs.served:application`: async views, on the database that `SERVED_DATABASE` describes."""

import asyncio
import json
import os
import sys
import threading
from typing import Any

from django.conf import settings
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
settings.DATABASES["default"].update(json.loads(os.environ["SERVED_DATABASE"]))
settings.ROOT_URLCONF = __name__
application = get_asgi_application()

from django.http import HttpRequest, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

from django_idempotency import idempotent  # noqa: E402
from tests.app.models import Payment  # noqa: E402


def end_with_the_test() -> None:
    sys.stdin.read()
    os._exit(1)


threading.Thread(target=end_with_the_test, daemon=True).start()


@idempotent(required=True, in_flight="wait")
async def pay(request: HttpRequest) -> Any:
    """A payment in two statements. Between them it says so and sleeps, if it is told to."""
    data = json.loads(request.body)
    payment = await Payment.objects.acreate(amount=0)
    if seconds := float(request.headers.get("X-Sleep", "0")):
        print("sleeps", flush=True)  # noqa: T201 the test waits for it
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if "X-Swallow" not in request.headers:
                raise
    payment.amount = data["amount"]
    await payment.asave()
    return JsonResponse({"id": payment.pk, "amount": payment.amount}, status=201)


urlpatterns = [path("pay/", pay)]
