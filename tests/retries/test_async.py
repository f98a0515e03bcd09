"""Async handlers are awaited again, on the event loop of their request."""

import asyncio

import pytest
from asgiref.sync import sync_to_async
from django.http import JsonResponse

from django_idempotency import once
from tests.app.models import Payment
from tests.app.serving import KEY, PATH, plain
from tests.retries.conftest import Handler

pytestmark = pytest.mark.django_db(transaction=True)


def test_an_async_view(async_client, serve):
    """Its effect is that of the last run."""
    handler = Handler(2, look=lambda request: request.read())

    async def view(request):
        await asyncio.sleep(0)
        await sync_to_async(handler.work)(request)
        return JsonResponse({}, status=201)

    serve(plain(view, retries=2))

    async def act():
        return await async_client.post(PATH, {"amount": 10}, content_type="application/json", headers=KEY)

    response = asyncio.run(act())

    assert (response.status_code, handler.runs) == (201, 3)
    assert handler.seen == [b'{"amount": 10}'] * 3
    assert list(Payment.objects.values_list("amount", flat=True)) == [3]


def test_async_once():
    """The same for an event."""
    handler = Handler(1, look=lambda event: event.pop("id"))

    async def paid(event):
        await sync_to_async(handler.work)(event)

    protected = once("retries.async", key=lambda event: event["id"], retries=1)(paid)
    asyncio.run(protected({"id": "e1"}))

    assert handler.seen == ["e1", "e1"]
