"""Each kind of async view takes effect once, by decorator, mixin and middleware, as an ASGI server calls it."""

import asyncio
import json
from functools import wraps
from typing import Any

import pydantic
import pytest
from adrf.decorators import api_view
from adrf.views import APIView
from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.contrib.auth.decorators import login_required
from django.db import connection, transaction
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import AsyncClient
from django.utils.decorators import method_decorator
from django.views import View
from rest_framework.authtoken.models import Token
from rest_framework.decorators import permission_classes
from rest_framework.exceptions import ValidationError
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response

from django_idempotency import Policy, idempotent
from django_idempotency.exceptions import PolicyError
from django_idempotency.models import IdempotencyRecord
from django_idempotency.rest_framework import IdempotencyMixin
from tests.app.models import Payment
from tests.asyncs.serving import Asgi, make_payment

pytestmark = pytest.mark.django_db(transaction=True)
OURS = "django_idempotency.middleware.IdempotencyMiddleware"


def left() -> tuple[int, int]:
    return Payment.objects.count(), IdempotencyRecord.objects.count()


async def pay(request: Any) -> Any:
    return await make_payment(request)


class Plain(View):
    async def post(self, request: Any) -> Any:
        return await make_payment(request)

    async def get(self, request: Any) -> Any:
        return HttpResponse(str(getattr(request, "idempotency", None)))


async def rest_payment(request: Any) -> Any:
    if request.data["amount"] < 0:
        raise ValidationError("too little")
    payment = await Payment.objects.acreate(amount=request.data["amount"])
    return Response({"id": payment.pk, "amount": payment.amount}, status=201)


class Rest(APIView):
    async def post(self, request: Any) -> Any:
        return await rest_payment(request)


class Mixed(IdempotencyMixin, Rest):
    idempotency = Policy(required=True)


def in_api_view(handler: Any) -> Any:
    return api_view(["POST"])(handler)


class CallableView:
    async def __call__(self, request: Any) -> Any:
        return await make_payment(request)


DECORATED = {
    "function": idempotent(pay),
    "function with options": idempotent(required=True)(pay),
    "callable object": idempotent(CallableView()),
    "class": method_decorator(idempotent, name="post")(type("C", (Plain,), {"post": Plain.post})).as_view(),
    "method": type("M", (Plain,), {"post": idempotent(Plain.post)}).as_view(),
    "dispatch": method_decorator(idempotent, name="dispatch")(type("D", (Plain,), {})).as_view(),
    "around as_view": idempotent(Plain.as_view()),
    "adrf function": in_api_view(idempotent(rest_payment)),
    "adrf method": type("R", (Rest,), {"post": idempotent(Rest.post)}).as_view(),
    "adrf mixin": Mixed.as_view(),
}
BY_MIDDLEWARE = {
    "function": pay,
    "class": Plain.as_view(),
    "adrf function": in_api_view(rest_payment),
    "adrf class": Rest.as_view(),
    "decorated": idempotent(pay),
    "adrf mixin": Mixed.as_view(),
}
CASES = [
    *(pytest.param(view, False, id=name) for name, view in DECORATED.items()),
    *(pytest.param(view, True, id=f"{name} by middleware") for name, view in BY_MIDDLEWARE.items()),
]


@pytest.fixture
def by_middleware(settings: Any) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, OURS]


@pytest.mark.parametrize(("view", "middleware"), CASES)
def test_a_retry_is_replayed(asgi, settings, view, middleware):
    """One effect, the same bytes; another payload is refused."""
    if middleware:
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, OURS]

    async def script(asgi: Asgi) -> Any:
        return [await asgi.post(), await asgi.post(), await asgi.post(data={"amount": 11})]

    first, again, other = asgi(view).run(script)

    assert (first.status, first.is_replay, again.status, again.is_replay) == (201, False, 201, True), first.body
    assert first.body == again.body
    assert (other.status, other.code) == (422, "key-reused")
    assert left() == (1, 1)


@pytest.mark.parametrize(
    "view", [Mixed.as_view(), in_api_view(idempotent(required=True)(rest_payment))], ids=["mixin", "decorator"]
)
def test_a_refusal_of_adrf(asgi, view):
    """It is DRF's exception, and rolls back; so is one of ours."""

    async def script(asgi: Asgi) -> Any:
        return [
            await asgi.post(key=None),
            await asgi.post(data={"amount": -1}),
            await asgi.post(data={"amount": 1}),
        ]

    missing, refused, mended = asgi(view).run(script)

    assert (missing.status, missing.code) == (400, "key-missing")
    assert missing.headers["content-type"] == "application/problem+json"
    assert (refused.status, mended.status, mended.is_replay) == (400, 201, False)
    assert left() == (1, 1)


def test_permissions_come_before_a_replay(asgi, user):
    """A revoked token gets none."""
    token = Token.objects.create(user=user).key

    @api_view(["POST"])
    @permission_classes([IsAuthenticated])
    @idempotent
    async def view(request: Any) -> Any:
        return await rest_payment(request)

    async def script(asgi: Asgi) -> Any:
        sent = {"headers": {"authorization": f"Token {token}"}}
        answers = [await asgi.post(**sent), await asgi.post(**sent)]
        await Token.objects.all().adelete()
        return [*answers, await asgi.post(**sent)]

    first, again, revoked = asgi(view).run(script)
    assert (first.status, again.is_replay, revoked.status) == (201, True, 401)


def test_a_guarded_view_by_middleware(asgi, by_middleware, user):
    """Behind `login_required`, which awaits the view."""
    asgi(login_required(pay))

    async def script() -> Any:
        sent: Any = {"data": {"amount": 1}, "content_type": "application/json", "headers": {"Idempotency-Key": "k"}}
        client = AsyncClient()
        await client.aforce_login(user)
        return [await each.post("/act/", **sent) for each in (client, client, AsyncClient())]

    first, again, anonymous = async_to_sync(script)()
    assert (first.status_code, again.headers["Idempotency-Replayed"], anonymous.status_code) == (201, "true", 302)
    assert left() == (1, 1)


@pytest.mark.parametrize("middleware", [False, True])
def test_an_exception(asgi, settings, middleware):
    """It rolls back, and Django handles it, by each `process_exception` of the project."""
    if middleware:
        settings.MIDDLEWARE = [f"{__name__}.Handling", *settings.MIDDLEWARE, OURS]
    else:
        settings.MIDDLEWARE = [f"{__name__}.Handling", *settings.MIDDLEWARE]

    assert asgi(fail if middleware else idempotent(fail)).run(lambda asgi: asgi.post()).status == 418
    assert left() == (0, 0)


async def fail(request: Any) -> Any:
    await make_payment(request)
    raise ValueError


class Handling:
    sync_capable = async_capable = True

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        return self.get_response(request)

    def process_exception(self, request: Any, error: Exception) -> Any:
        return HttpResponse(status=418)


def test_behind_a_sync_middleware(asgi, settings):
    """Django calls it on the request's thread, and the view again on the event loop."""
    settings.MIDDLEWARE = [f"{__name__}.sync_middleware", *settings.MIDDLEWARE]

    async def script(asgi: Asgi) -> Any:
        return [await asgi.post(), await asgi.post()]

    first, again = asgi(idempotent(pay)).run(script)
    assert (first.status, again.is_replay) == (201, True)
    assert left() == (1, 1)


def sync_middleware(get_response: Any) -> Any:
    def middleware(request: Any) -> Any:
        return get_response(request)

    return middleware


@pytest.mark.parametrize("middleware", [False, True])
def test_other_methods_and_no_key(asgi, settings, middleware):
    """They pass through."""
    if middleware:
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, OURS]

    async def script(asgi: Asgi) -> Any:
        return [await asgi.post(method="GET"), await asgi.post(key=None), await asgi.post(key=None)]

    view = Plain if middleware else method_decorator(idempotent, name="post")(type("P", (Plain,), {"post": Plain.post}))
    get, first, second = asgi(view.as_view()).run(script)
    assert (get.body, first.status, second.status) == (b"None", 201, 201)
    assert left() == (2, 0)


def test_atomic_requests(asgi, monkeypatch, by_middleware, caplog):
    """Django calls no async view in a transaction; the error says what to do, and that is enough."""
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)

    async def script(asgi: Asgi) -> Any:
        return await asgi.post(), await asgi.post("/excepted/"), await asgi.post("/excepted/")

    @transaction.non_atomic_requests
    async def excepted(request: Any) -> Any:
        return await make_payment(request)

    refused, first, again = asgi(pay, excepted=excepted).run(script)

    assert refused.status == 500
    assert "decorate the view with @transaction.non_atomic_requests" in caplog.text
    assert (first.status, again.is_replay) == (201, True)
    assert left() == (1, 1)


# --- what cannot be stored ---


async def chunks() -> Any:
    yield b"data: 1\n\n"


class Model(pydantic.BaseModel):
    id: int


UNSTORABLE = {
    "a stream": (lambda: StreamingHttpResponse(chunks(), content_type="text/event-stream"), "Return an HttpResponse"),
    "no response": (lambda: {"id": 1}, "must return an HttpResponse, not dict"),
    "a coroutine": (lambda: make_payment(None), "declare the view as `async def`"),
    "a model": (lambda: Model(id=1), "Django Ninja"),
}


@pytest.mark.parametrize(("made", "message"), UNSTORABLE.values(), ids=UNSTORABLE)
def test_what_cannot_be_stored_is_rolled_back(asgi, made, message, caplog):
    """The error names the remedy."""

    async def view(request: Any) -> Any:
        await make_payment(request)
        return made()

    assert asgi(idempotent(view)).run(lambda asgi: asgi.post()).status == 500
    assert message in caplog.text
    assert left() == (0, 0)


def test_a_decorator_that_hides_that_its_view_is_async():
    """It would be called, and not awaited."""

    @wraps(pay)
    def hiding(request: Any) -> Any:
        return pay(request)

    with pytest.raises(PolicyError, match="async"):
        idempotent(hiding)


# --- options ---


async def key_of(request: Any) -> str:
    await sync_to_async(Payment.objects.count)()
    return request.headers["X-Id"]


async def scope_of(request: Any) -> str:
    return f"tenant {await Payment.objects.filter(pk=0).acount()}"


async def fingerprint_of(request: Any) -> bytes:
    await asyncio.sleep(0)
    return json.dumps(sorted(json.loads(request.body).items())).encode()


def test_async_callables(asgi):
    """`key`, `scope` and `fingerprint` may ask the database or another service."""
    view = idempotent(key=key_of, scope=scope_of, fingerprint=f"{__name__}.fingerprint_of")(pay)

    async def script(asgi: Asgi) -> Any:
        sent = {"key": None, "headers": {"X-Id": "1"}}
        return [
            await asgi.post(data={"amount": 1, "b": 2}, **sent),
            await asgi.post(data={"b": 2, "amount": 1}, **sent),
            await asgi.post(data={"b": 3, "amount": 1}, **sent),
        ]

    first, again, other = asgi(view).run(script)
    assert (first.status, again.is_replay, other.status) == (201, True, 422)
    assert IdempotencyRecord.objects.get().scope == "tenant 0"


def test_async_callables_of_a_sync_view(asgi, client):
    """They are called there too."""

    @idempotent(key=key_of, scope=scope_of)
    def view(request: Any) -> Any:
        return JsonResponse({"id": Payment.objects.create(amount=1).pk})

    asgi(view)
    answers = [client.post("/act/", headers={"X-Id": "1"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[1].headers["Idempotency-Replayed"] == "true"


def test_an_async_key_format_is_refused():
    """Its answer would always be true."""
    with pytest.raises(PolicyError, match="key_format"):
        idempotent(key_format=key_of)


def test_observe_mode(asgi):
    """The view runs as if it were not protected, and its duplicate runs again."""
    view = idempotent(mode="observe")(pay)

    async def script(asgi: Asgi) -> Any:
        return [await asgi.post(), await asgi.post(), await asgi.post(key=None), await asgi.post(key="bad key,")]

    answers = asgi(view).run(script)
    assert [answer.status for answer in answers] == [201] * 4
    assert left() == (4, 0)


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_the_handle_in_observe_mode(asgi, share):
    """The handler sees its key, whether it is observed or not."""

    async def view(request: Any) -> Any:
        return JsonResponse({"key": request.idempotency.key})

    answer = asgi(idempotent(mode="observe", observe_sample=share)(view)).run(lambda asgi: asgi.post())
    assert json.loads(answer.body) == {"key": "key-1"}


def test_phases(asgi):
    """A retry goes on after the phase that is recorded."""
    calls: list[str] = []

    async def order() -> int:
        calls.append("order")
        return (await Payment.objects.acreate(amount=1)).pk

    async def charge(key: str) -> str:
        calls.append("charge")
        await asyncio.sleep(0)
        if len(calls) == 2:
            raise ValueError
        return key

    async def view(request: Any) -> Any:
        phase = request.idempotency.aphase
        made = await phase("order", order)
        paid = await phase("charge", charge)
        last = await phase("last", lambda: make_note())
        return JsonResponse({"order": made, "charge": paid, "last": last}, status=201)

    async def make_note() -> None:
        await Payment.objects.acreate(amount=2)

    async def script(asgi: Asgi) -> Any:
        return [await asgi.post() for _ in range(3)]

    first, second, third = asgi(idempotent(mode="phased", required=True)(view)).run(script)
    assert (first.status, second.status, third.status) == (500, 201, 201), second.body
    assert (second.is_replay, third.is_replay) == (False, True)
    assert calls == ["order", "charge", "charge"]
    assert [payment.amount for payment in Payment.objects.order_by("pk")] == [1, 2]


def test_phases_without_a_key(asgi):
    """They commit, and nothing is recorded."""

    async def view(request: Any) -> Any:
        return JsonResponse({"paid": await request.idempotency.aphase("order", Payment.objects.acount)}, status=201)

    assert asgi(idempotent(mode="phased")(view)).run(lambda asgi: asgi.post(key=None)).status == 201
