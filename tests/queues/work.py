"""What the workers do, and how they tell the test where they are: by lists in Redis, which is their broker too."""

import json
import os
from typing import Any

import redis

from django_idempotency import once
from django_idempotency.exceptions import RequestInProgress, StoreUnavailable, TryAgain
from tests.app.models import Payment
from tests.lab.lines import TIMEOUT

AGAIN = (RequestInProgress, StoreUnavailable, TryAgain)
PREFIX = os.environ.setdefault("QUEUE_PREFIX", f"queues-{os.getpid()}")  # workers inherit it
REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/15")
client = redis.Redis.from_url(REDIS_URL, decode_responses=True, socket_timeout=2 * TIMEOUT)


def arrive(point: str, **about: Any) -> None:
    """Tell the test, and halt there if it wants that."""
    halts = client.lrem(f"{PREFIX}:halts", 1, point)
    client.rpush(f"{PREFIX}:points", json.dumps({"point": point, **about}))  # last: the test may kill us then
    if halts:
        client.blpop([f"{PREFIX}:go"], timeout=TIMEOUT)


@once("queues.pay", key=lambda event: event["id"])
def pay(event):
    payment = Payment.objects.create(amount=event["amount"])
    arrive("inside", pid=os.getpid())
    return {"payment": payment.pk}
