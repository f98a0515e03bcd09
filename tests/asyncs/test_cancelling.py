"""A client that hangs up before COMMIT leaves nothing behind, and its retry runs."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, transaction
from django.db.backends.signals import connection_created
from django.http import JsonResponse

from django_idempotency import idempotent, once
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.asyncs.serving import Asgi, make_payment, run

pytestmark = pytest.mark.django_db(transaction=True)


def left() -> tuple[int, int]:
    return Payment.objects.count(), IdempotencyRecord.objects.count()


class Steps:
    """A handler of several steps, at one of which it is waited for."""

    def __init__(self) -> None:
        self.stops_at = ""
        self.reached = asyncio.Event()

    async def step(self, name: str) -> None:
        if name == self.stops_at:
            self.reached.set()
            await asyncio.sleep(60)


async def steps_of(steps: Steps, request: Any) -> Any:
    await steps.step("first")
    await Payment.objects.acreate(amount=1)
    await steps.step("between")
    await asyncio.gather(*(Payment.objects.acreate(amount=number) for number in range(3)))
    await sync_to_async(in_savepoint)()
    await steps.step("last")
    return JsonResponse({}, status=201)


def in_savepoint() -> None:
    with transaction.atomic():
        Payment.objects.create(amount=5)


@pytest.mark.parametrize("stops_at", ["first", "between", "last"])
def test_a_client_hangs_up_while_the_handler_awaits(asgi, stops_at):
    """CancelledError is raised in the handler, and rolls its work back."""
    steps = Steps()
    seen: list[BaseException] = []

    async def view(request: Any) -> Any:
        try:
            return await steps_of(steps, request)
        except BaseException as error:
            seen.append(error)
            raise

    async def script(asgi: Asgi) -> None:
        steps.stops_at = stops_at
        assert (await asgi.post(hangs_up=steps.reached)).status == 0
        assert await sync_to_async(left)() == (0, 0)
        steps.stops_at = ""
        assert not (await asgi.post()).is_replay
        assert (await asgi.post()).is_replay

    asgi(idempotent(view)).run(script)
    assert [type(error) for error in seen] == [asyncio.CancelledError]
    assert left() == (5, 1)


@pytest.mark.parametrize("ends", ["with an answer", "after more work", "with an error"])
def test_a_handler_that_swallows_the_cancellation(asgi, ends):
    """Nobody gets its answer, so that nothing is recorded."""
    hangs_up = asyncio.Event()

    async def view(request: Any) -> Any:
        await make_payment(request)
        hangs_up.set()
        try:
            await asyncio.sleep(60 if not hold else 0)
        except asyncio.CancelledError:
            if ends == "after more work":
                await make_payment(request)
            if ends == "with an error":
                raise ValueError from None
        return JsonResponse({}, status=201)

    hold: list[int] = []

    async def script(asgi: Asgi) -> None:
        await asgi.post(hangs_up=hangs_up)
        assert await sync_to_async(left)() == (0, 0)
        hold.append(1)
        assert (await asgi.post()).status == 201

    asgi(idempotent(view)).run(script)
    assert left() == (1, 1)


@contextlib.contextmanager
def slow_statements(at: int, when: Any) -> Iterator[list[str]]:
    """Call *when* before the statement number *at* of the process, and let it take a while."""
    sent: list[str] = []

    def watch(execute: Any, sql: Any, *call: Any) -> Any:
        sent.append(str(sql))
        if len(sent) - 1 == at:
            when()
            time.sleep(0.2)
        return execute(sql, *call)

    def on_connection(*, connection: Any, **kwargs: object) -> None:
        connection.execute_wrappers.append(watch)

    connection_created.connect(on_connection)
    try:
        yield sent
    finally:
        connection_created.disconnect(on_connection)


def test_a_client_hangs_up_during_a_statement(asgi):
    """Whichever it is: before the claim, in it, in the handler, or with the record, which may be too late."""
    called: list[str] = []

    async def view(request: Any) -> Any:
        called.append(request.headers["Idempotency-Key"])
        return await make_payment(request)

    served = asgi(idempotent(view))
    with slow_statements(-1, None) as sent:
        served.run(lambda asgi: asgi.post(key="dry"))
    assert len(sent) >= 3
    committed = []
    for number, _sql in enumerate(sent):
        key = f"key-{number}"

        async def script(asgi: Asgi, number: int = number, key: str = key) -> Any:
            hangs_up = asyncio.Event()
            loop = asyncio.get_running_loop()
            with slow_statements(number, lambda: loop.call_soon_threadsafe(hangs_up.set)):
                assert (await asgi.post(key=key, hangs_up=hangs_up)).status == 0
            if not any("app_payment" in each for each in sent[: number + 1]):
                assert key not in called  # the handler does not begin for nobody
            found = await sync_to_async(IdempotencyRecord.objects.filter(key=key).count)()
            again, third = await asgi.post(key=key), await asgi.post(key=key)
            assert (again.status, again.is_replay, third.is_replay) == (201, bool(found), True)
            return found

        committed.append(served.run(script))
        assert left() == (number + 2, number + 2)
    last = len(sent) - 1
    assert committed == [0] * committed.count(0) + [1] * committed.count(1)
    assert committed[:-1].count(1) <= (1 if "COMMIT" in sent[last] else 0), (committed, sent)


def test_a_client_hangs_up_while_the_answer_is_rendered(asgi):
    """Nothing is recorded."""

    def should_store(response: Any) -> bool:
        if hold:
            loops[0].call_soon_threadsafe(hangs_up.set)
            time.sleep(0.3)
        return True

    async def script(asgi: Asgi) -> None:
        loops.append(asyncio.get_running_loop())
        assert (await asgi.post(hangs_up=hangs_up)).status == 0
        assert await sync_to_async(left)() == (0, 0)
        hold.clear()
        assert (await asgi.post()).status == 201

    hangs_up, hold, loops = asyncio.Event(), [1], list[asyncio.AbstractEventLoop]()
    asgi(idempotent(should_store=should_store)(make_payment)).run(script)
    assert left() == (1, 1)


def test_a_timeout_of_the_handler_s_own(asgi):
    """It takes its cancellation back, and the handler's answer counts."""

    async def view(request: Any) -> Any:
        try:
            async with asyncio.timeout(0.05):
                await make_payment(request, "in time")
                await asyncio.sleep(60)
        except TimeoutError:
            return await make_payment(request, "late")

    async def script(asgi: Asgi) -> Any:
        return [await asgi.post(), await asgi.post()]

    first, again = asgi(idempotent(view)).run(script)
    assert (first.status, again.is_replay) == (201, True)
    assert left() == (2, 1)


def test_a_timeout_around_the_view(asgi):
    """It ends the execution as a client does that hangs up."""
    stops = [True]

    @idempotent
    async def inner(request: Any) -> Any:
        await make_payment(request)
        await asyncio.sleep(60 if stops else 0)
        return JsonResponse({}, status=201)

    async def view(request: Any) -> Any:
        try:
            async with asyncio.timeout(0.2 if stops else None):
                return await inner(request)
        except TimeoutError:
            return JsonResponse({}, status=504)

    async def script(asgi: Asgi) -> Any:
        first = await asgi.post()
        assert await sync_to_async(left)() == (0, 0)
        stops.clear()
        return first, await asgi.post(), await asgi.post()

    first, second, third = asgi(view).run(script)
    assert [first.status, second.status, third.status] == [504, 201, 201]
    assert [second.is_replay, third.is_replay] == [False, True]
    assert left() == (1, 1)


def test_a_client_hangs_up_while_it_waits_for_another(asgi):
    """The wait ends at once, and nothing runs for it."""
    began, ends = asyncio.Event(), asyncio.Event()

    async def view(request: Any) -> Any:
        began.set()
        await ends.wait()
        return await make_payment(request)

    async def script(asgi: Asgi) -> Any:
        first = asyncio.create_task(asgi.post())
        await began.wait()
        hangs_up = asyncio.Event()
        second = asyncio.create_task(asgi.post(hangs_up=hangs_up))
        await asyncio.sleep(0.3)
        hangs_up.set()
        start = time.monotonic()
        assert (await second).status == 0
        took = time.monotonic() - start
        ends.set()
        return await first, took

    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer: the second waits in its busy timeout")
    first, took = asgi(idempotent(in_flight="wait")(view)).run(script)
    assert first.status == 201
    assert took < 2
    assert left() == (1, 1)


def test_an_event_that_is_cancelled():
    """A consumer that is stopped, or gives its handler a time."""

    @once("asyncs.cancelled", key=lambda event: event)
    async def on_event(event: str) -> int:
        payment = await Payment.objects.acreate(amount=1)
        await asyncio.sleep(60 if not goes_on else 0)
        return payment.amount

    goes_on: list[int] = []

    async def script() -> Any:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(on_event("a"), 0.3)
        assert await sync_to_async(left)() == (0, 0)
        goes_on.append(1)
        return [await on_event("a"), await on_event.run("a")]

    value, outcome = run(script())
    assert (value, outcome.value, outcome.replayed) == (1, 1, True)
    assert left() == (1, 1)
