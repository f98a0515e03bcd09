"""Requests of one process at once, and what a handler starts."""

import asyncio
import contextvars
import threading
from datetime import timedelta
from typing import Any

import asgiref
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, connections
from django.http import JsonResponse
from django.test import AsyncClient, Client

from django_idempotency import current_operation, idempotent, once
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.asyncs.serving import Asgi, make_payment, run

pytestmark = pytest.mark.django_db(transaction=True)
ASGIREF = tuple(map(int, asgiref.__version__.split(".")[:2]))
servers_only = pytest.mark.skipif("connection.vendor == 'sqlite'", reason="SQLite has one writer")


def left() -> tuple[int, int]:
    return Payment.objects.count(), IdempotencyRecord.objects.count()


@servers_only
def test_two_requests_are_in_their_handlers_at_once(asgi):
    """Each in a transaction of its own: one commits, the other rolls back."""
    both = asyncio.Barrier(2)

    async def view(request: Any) -> Any:
        response = await make_payment(request, request.headers["Idempotency-Key"])
        await both.wait()
        if request.headers["Idempotency-Key"] == "b":
            raise ValueError
        return response

    async def script(asgi: Asgi) -> Any:
        return await asyncio.gather(asgi.post(key="a"), asgi.post(key="b"))

    first, second = asgi(idempotent(view)).run(script)
    assert (first.status, second.status) == (201, 500)
    assert [payment.reference for payment in Payment.objects.all()] == ["a"]
    assert left() == (1, 1)


@servers_only
@pytest.mark.parametrize("in_flight", ["reject", "wait"])
def test_a_duplicate_in_flight(asgi, in_flight):
    """It is refused, or waits and gets the answer; other requests run meanwhile."""
    began, ends = asyncio.Event(), asyncio.Event()

    async def view(request: Any) -> Any:
        if request.headers["Idempotency-Key"] == "key-1":
            began.set()
            await ends.wait()
        return await make_payment(request)

    async def script(asgi: Asgi) -> Any:
        first = asyncio.create_task(asgi.post())
        await began.wait()
        second = asyncio.create_task(asgi.post())
        await asyncio.sleep(0.2)
        assert second.done() == (in_flight == "reject")
        assert (await asgi.post(key="other")).status == 201
        ends.set()
        return await first, await second

    first, second = asgi(idempotent(in_flight=in_flight)(view)).run(script)
    assert first.status == 201
    if in_flight == "reject":
        assert (second.status, second.code) == (409, "request-in-progress")
    else:
        assert (second.is_replay, second.body) == (True, first.body)
    assert left() == (2, 2)


@servers_only
def test_the_thread_of_a_duplicate_that_waits_is_free(asgi):
    """What else is to run there does so at once, and not when the wait is over."""
    began, ends = asyncio.Event(), asyncio.Event()

    @idempotent(in_flight="wait", wait_timeout=timedelta(seconds=60))
    async def pay(request: Any) -> Any:
        began.set()
        await ends.wait()
        return await make_payment(request)

    async def view(request: Any) -> Any:
        waits = began.is_set()
        answer = asyncio.create_task(pay(request))
        if waits:
            await asyncio.sleep(0.2)
            done, _ = await asyncio.wait({asyncio.create_task(sync_to_async(threading.get_ident)())}, timeout=10)
            ends.set()
            assert done
        return await answer

    async def script(asgi: Asgi) -> Any:
        first = asyncio.create_task(asgi.post())
        await began.wait()
        return await asgi.post(), await first

    second, first = asgi(view).run(script)
    assert (first.status, second.is_replay, second.body) == (201, True, first.body)
    assert left() == (1, 1)


def test_two_requests_on_one_thread_and_connection(asgi):
    """Under Django's async test client they run one after the other: what one rolls back, it rolls back alone."""

    async def view(request: Any) -> Any:
        inside.append(request.headers["Idempotency-Key"])
        response = await make_payment(request, request.headers["Idempotency-Key"])
        await asyncio.sleep(0.05)
        inside.append(request.headers["Idempotency-Key"])
        if request.headers["Idempotency-Key"] == "b":
            raise ValueError
        return response

    inside: list[str] = []
    asgi(idempotent(view))

    async def script() -> Any:
        client = AsyncClient(raise_request_exception=False)
        return await asyncio.gather(
            *(
                client.post("/act/", {"amount": 1}, content_type="application/json", headers={"Idempotency-Key": key})
                for key in ("a", "b", "c")
            )
        )

    answers = dict(zip("abc", async_to_sync(script)(), strict=True))
    assert inside[0::2] == inside[1::2]
    if ASGIREF >= (3, 9):
        assert [answer.status_code for answer in answers.values()] == [201, 500, 201]
    else:  # it nests them: those that would be in another's transaction are refused
        assert 500 not in (len(inside), answers["a"].status_code)
    answered = [key for key, answer in answers.items() if answer.status_code == 201]
    assert sorted(payment.reference for payment in Payment.objects.all()) == answered
    assert left() == (len(answered), len(answered))


@pytest.mark.django_db(transaction=False)
def test_in_the_transaction_of_a_test_case(asgi):
    """The client of an async test, on the thread of the test and in its transaction."""
    asgi(idempotent(make_payment))

    async def script() -> Any:
        sent = {"content_type": "application/json", "headers": {"Idempotency-Key": "k"}}
        return [await AsyncClient().post("/act/", {"amount": 1}, **sent) for _ in range(2)]

    first, again = async_to_sync(script)()
    assert connection.in_atomic_block
    assert (first.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert left() == (1, 1)


def test_under_wsgi(asgi):
    """Django gives the async view an event loop of its own; its thread is the server's."""
    asgi(idempotent(make_payment))
    sent: Any = {"content_type": "application/json", "headers": {"Idempotency-Key": "k"}}
    first, again = (Client().post("/act/", {"amount": 1}, **sent) for _ in range(2))
    assert (first.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert left() == (1, 1)


def test_a_thread_of_its_own_is_left_without_connections(monkeypatch):
    """Outside of a server's request, each event has a thread and connections of its own, and closes them."""
    opened: list[Any] = []

    @once("asyncs.own_thread", key=lambda event: event)
    async def on_event(event: str) -> str:
        opened.append(await sync_to_async(lambda: connections["default"])())
        await Payment.objects.acreate(amount=1)
        await asyncio.sleep(0.05)
        return event

    async def script() -> Any:
        return await asyncio.gather(on_event("a"), on_event("b"))

    assert run(script()) == ["a", "b"]
    assert len({id(each) for each in opened}) == 2
    assert [each.connection for each in opened] == [None, None]
    assert left() == (2, 2)


def test_gathered_statements_are_in_one_transaction(asgi):
    """If one fails, so do all."""

    async def view(request: Any) -> Any:
        await asyncio.gather(*(Payment.objects.acreate(amount=each) for each in (1, 2, fails or 3)))
        return JsonResponse({}, status=201)

    fails: Any = "no number"

    async def script(asgi: Asgi) -> Any:
        nonlocal fails
        first = await asgi.post()
        assert await sync_to_async(left)() == (0, 0)
        fails = None
        return first, await asgi.post()

    first, second = asgi(idempotent(view)).run(script)
    assert (first.status, second.status) == (500, 201)
    assert left() == (3, 1)


def test_a_background_task_that_outlives_its_handler(asgi):
    """It cannot write into the transaction any more; in a context of its own it writes after the handler."""
    results: list[Any] = []

    async def later(name: str) -> None:
        await handler_is_over.wait()
        try:
            await Payment.objects.acreate(amount=1, reference=name)
            results.append(name)
        except RuntimeError as error:
            results.append(type(error))

    handler_is_over = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def view(request: Any) -> Any:
        tasks.append(asyncio.create_task(later("ours")))
        tasks.append(asyncio.create_task(later("own"), context=contextvars.Context()))
        raise ValueError

    async def script(asgi: Asgi) -> Any:
        answer = await asgi.post()
        handler_is_over.set()
        await asyncio.gather(*tasks)
        return answer

    assert asgi(idempotent(view)).run(script).status == 500
    # asgiref before 3.9 finds another thread for it.
    assert set(results) in ({"own", RuntimeError}, {"own", "ours"})
    assert sorted(payment.reference for payment in Payment.objects.all()) == sorted(
        result for result in results if isinstance(result, str)
    )


def test_the_context_of_the_handler(asgi):
    """What was set before is there, what it sets is there afterwards, and it knows its operation."""
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="")

    async def handler(request: Any) -> Any:
        seen.append((var.get(), current_operation() is not None, request.idempotency.key))
        var.set("handler")
        return await make_payment(request)

    protected = idempotent(handler)
    seen: list[Any] = []

    async def view(request: Any) -> Any:
        var.set("before")
        response = await protected(request)
        seen.append((var.get(), current_operation()))
        return response

    async def script(asgi: Asgi) -> Any:
        return await asgi.post()

    assert asgi(view).run(script).status == 201
    assert seen == [("before", True, "key-1"), ("handler", None)]


def test_without_a_key_the_view_runs_as_if_it_were_not_protected(asgi):
    """In the task of its request, without a transaction and without a thread that waits for it."""

    async def view(request: Any) -> Any:
        tasks.append(asyncio.current_task())
        in_transaction.append(await sync_to_async(lambda: connection.in_atomic_block)())
        return await make_payment(request)

    protected = idempotent(view)
    tasks: list[Any] = []
    in_transaction: list[bool] = []

    async def outer(request: Any) -> Any:
        tasks.append(asyncio.current_task())
        return await protected(request)

    async def script(asgi: Asgi) -> Any:
        return [await asgi.post(key=None), await asgi.post(method="PUT"), await asgi.post()]

    answers = asgi(outer).run(script)
    assert [answer.status for answer in answers] == [201, 201, 201]
    assert [tasks[0] is tasks[1], tasks[2] is tasks[3], tasks[4] is tasks[5]] == [True, True, False]
    assert in_transaction == [False, False, True]
    assert left() == (3, 1)


def test_an_inner_call_joins(asgi):
    """A protected view that calls another protected one for the same identity."""

    @idempotent
    async def inner(request: Any) -> Any:
        return await make_payment(request)

    @idempotent
    async def outer(request: Any) -> Any:
        return await inner(request)

    async def script(asgi: Asgi) -> Any:
        return [await asgi.post(), await asgi.post()]

    first, again = asgi(outer).run(script)
    assert (first.status, first.is_replay, again.is_replay) == (201, False, True)
    assert left() == (1, 1)


@pytest.mark.skipif(ASGIREF < (3, 9), reason="an older asgiref nests them, which is refused")
def test_protected_functions_at_once_in_a_view(asgi):
    """They run one after the other, in the transaction of the view."""

    @once("asyncs.part", key=lambda event: event)
    async def part(event: str) -> str:
        await Payment.objects.acreate(amount=1, reference=event)
        await asyncio.sleep(0.01)
        return event

    @idempotent
    async def view(request: Any) -> Any:
        results = await asyncio.gather(part("a"), part("b"), part("a"))
        if fails:
            raise ValueError
        return JsonResponse(results, safe=False, status=201)

    fails = [True]

    async def script(asgi: Asgi) -> Any:
        first = await asgi.post()
        fails.clear()
        return first, await asgi.post(), await asgi.post()

    first, second, third = asgi(view).run(script)
    assert (first.status, second.status, third.is_replay) == (500, 201, True)
    assert second.body == b'["a", "b", "a"]'
    assert sorted(payment.reference for payment in Payment.objects.all()) == ["a", "b"]
    assert left() == (2, 3)


def test_a_consumer_of_many_events_leaves_nothing_in_its_context():
    """One event after the other in one task: its context does not grow."""

    @once("asyncs.many", key=lambda event: event)
    async def on_event(event: str) -> str:
        return event

    async def script() -> Any:
        sizes = []
        for number in range(3):
            await on_event(str(number))
            values = [value for value in contextvars.copy_context().values() if isinstance(value, tuple)]
            sizes.append([len(value) for value in values])
        return sizes

    first, second, third = run(script())
    assert first == second == third
