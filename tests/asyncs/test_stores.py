"""Async handlers with other databases and stores."""

import asyncio
import logging
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.cache import caches
from django.db import connections
from django.http import HttpResponse, JsonResponse

from django_idempotency import idempotent, once
from django_idempotency.exceptions import KeyReused, OutcomeUnknown
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.asyncs.serving import Asgi, make_payment, run
from tests.lab.caches import LOCAL, cache, need_redis

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Any:
    """What is logged as a warning."""
    with caplog.at_level(logging.WARNING, "django_idempotency"):
        yield lambda: [record.getMessage() for record in caplog.records if record.name == "django_idempotency"]


def test_another_database(asgi, said):
    """The option `using` puts claim, record and work there."""

    @idempotent(using="other")
    async def view(request: Any) -> Any:
        payment = await Payment.objects.using("other").acreate(amount=1)
        if fails:
            raise ValueError
        return JsonResponse({"id": payment.pk}, status=201)

    fails = [True]

    async def script(asgi: Asgi) -> Any:
        first = await asgi.post()
        fails.clear()
        return [first, await asgi.post(), await asgi.post()]

    first, second, third = asgi(view).run(script)
    assert (first.status, second.status, third.is_replay) == (500, 201, True)
    assert Payment.objects.using("other").count() == IdempotencyRecord.objects.using("other").count() == 1
    assert not IdempotencyRecord.objects.exists()
    assert said() == []


def test_a_write_to_a_stranger(asgi, said):
    """It is in another transaction, and warned of."""

    @idempotent
    async def view(request: Any) -> Any:
        await Payment.objects.using("other").acreate(amount=1)
        return HttpResponse(status=201)

    assert asgi(view).run(lambda asgi: asgi.post()).status == 201
    assert "wrote to database 'other'" in " ".join(said())


def test_a_write_in_another_thread(asgi, said):
    """On another connection, so that it is not rolled back; it is warned of."""

    def write() -> None:
        try:
            Payment.objects.using("other").create(amount=1)
        finally:
            connections.close_all()

    @idempotent(using="default")
    async def view(request: Any) -> Any:
        await sync_to_async(write, thread_sensitive=False)()
        raise ValueError

    async def script(asgi: Asgi) -> Any:
        return [await asgi.post(), await asgi.post()]

    assert [answer.status for answer in asgi(view).run(script)] == [500, 500]
    assert Payment.objects.using("other").count() == 2
    [warning] = [line for line in said() if "another thread" in line]
    assert "thread_sensitive=False" in warning


# --- @once ---


def test_once():
    """A redelivery gets the result, and runs nothing."""

    async def tenant(event: Any) -> str:
        await asyncio.sleep(0)
        return "tenant"

    @once("asyncs.paid", key=lambda event: event["id"], scope=tenant, fingerprint=lambda event: str(event).encode())
    async def on_paid(event: Any) -> Any:
        payment = await Payment.objects.acreate(amount=event["amount"])
        return {"id": payment.pk}

    async def script() -> Any:
        event = {"id": "1", "amount": 5}
        outcomes = [await on_paid.run(event), await on_paid.run(event)]
        with pytest.raises(KeyReused):
            await on_paid({"id": "1", "amount": 6})
        return outcomes

    first, again = run(script())
    assert (first.value, first.replayed, again.replayed) == (again.value, False, True)
    assert Payment.objects.count() == 1
    assert IdempotencyRecord.objects.get().scope == "tenant"


def test_once_calls_itself():
    """A call for the event that is running joins it."""

    @once("asyncs.recursive", key=lambda event, depth: event)
    async def on_event(event: str, depth: int) -> int:
        await Payment.objects.acreate(amount=depth)
        return await on_event(event, depth - 1) if depth else 0

    assert run(on_event.run("a", 2)).replayed is False
    assert Payment.objects.count() == 3
    assert IdempotencyRecord.objects.count() == 1


def test_once_in_observe_mode():
    """Every delivery runs."""

    @once("asyncs.observed", key=lambda event: event, mode="observe")
    async def on_event(event: str) -> None:
        await Payment.objects.acreate(amount=1)

    async def script() -> None:
        await on_event("a")
        assert (await on_event.run("a")).replayed is False

    run(script())
    assert Payment.objects.count() == 2


def test_a_method():
    """`@once` on an async method."""

    class Consumer:
        @once("asyncs.method", key=lambda self, event: event)
        async def handle(self, event: str) -> str:
            return event

    async def script() -> Any:
        return await Consumer().handle("a"), await Consumer.handle.run(Consumer(), "a")

    value, outcome = run(script())
    assert (value, outcome.value, outcome.replayed) == ("a", "a", True)


# --- a store outside the databases ---


@pytest.fixture
def leased(settings: Any, worker_id: str) -> Any:
    """Records are kept in Redis."""
    need_redis()
    settings.CACHES = {"default": LOCAL, "keys": cache(KEY_PREFIX=f"asyncs-{worker_id}")}
    backend = "django_idempotency.stores.redis.RedisStore"
    settings.IDEMPOTENCY = {"STORES": {"redis": {"BACKEND": backend, "OPTIONS": {"CACHE": "keys"}}}}
    yield
    caches["keys"].delete_pattern("*")


def test_a_lease(asgi, leased):
    """A handler that is cancelled leaves an unknown outcome; one that never began, a free key."""
    hangs_up = asyncio.Event()

    @idempotent(store="redis")
    async def view(request: Any) -> Any:
        if request.headers["Idempotency-Key"] == "cancelled":
            hangs_up.set()
            await asyncio.sleep(60)
        return await make_payment(request)

    async def script(asgi: Asgi) -> Any:
        await asgi.post(key="cancelled", hangs_up=hangs_up)
        return [await asgi.post(key="cancelled"), await asgi.post(), await asgi.post()]

    unknown, first, again = asgi(view).run(script)
    assert (unknown.status, unknown.code) == (409, OutcomeUnknown.code)
    assert (first.status, again.is_replay) == (201, True)
