"""
The API as users write it. Nothing here runs: type checkers read it.

Each `type: ignore` is a mistake that a checker must find; one that it does not find is an unused ignore, which fails.
"""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, assert_type

import httpx
import requests
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import method_decorator
from django.views import View
from rest_framework.decorators import action, api_view
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from django_idempotency import Policy, current_operation, fingerprints, idempotent, moving, once
from django_idempotency.client import RETRIED, CallPolicy, KeyJar
from django_idempotency.client.httpx import AsyncIdempotentTransport, IdempotentTransport
from django_idempotency.client.requests import IdempotentAdapter
from django_idempotency.core.keys import Identity
from django_idempotency.engine.handle import IdempotentRequest, OperationHandle
from django_idempotency.exceptions import Refusal, RequestInProgress
from django_idempotency.protection.functions import Outcome
from django_idempotency.rest_framework import IdempotencyMixin

# --- views keep their types ---


@idempotent
def bare(request: HttpRequest, pk: int) -> HttpResponse:
    return HttpResponse()


@idempotent(required=True, ttl=timedelta(days=7))
def with_options(request: HttpRequest, pk: int) -> HttpResponse:
    return HttpResponse()


@idempotent()
def without_options(request: HttpRequest, pk: int) -> HttpResponse:
    return HttpResponse()


def views_keep_their_types(request: HttpRequest) -> None:
    assert_type(bare(request, 1), HttpResponse)
    assert_type(with_options(request, pk=1), HttpResponse)
    assert_type(without_options(request, pk=1), HttpResponse)
    bare(request)  # type: ignore[call-arg]
    with_options(request, "1")  # type: ignore[arg-type]


@login_required
@idempotent
def guarded(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


@api_view(["POST"])
@idempotent(in_flight="wait", wait_timeout=timedelta(seconds=5))
def api_function(request: Request) -> Response:
    return Response(status=201)


@method_decorator(idempotent, name="post")
class PlainView(View):
    @method_decorator(idempotent(required=True))
    def patch(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse()


class APIMethod(APIView):
    @idempotent
    def post(self, request: Request) -> Response:
        return Response()


class Payments(IdempotencyMixin, ViewSet):
    idempotency = Policy(required=True, docs_url="https://api.example/keys")

    def create(self, request: Request) -> Response:
        return Response()

    @action(detail=True, methods=["post"])
    @idempotent(methods=["POST"], store="default")
    def refund(self, request: Request, pk: str | None = None) -> Response:
        return Response()


class WrongPolicy(IdempotencyMixin, ViewSet):
    idempotency = {"required": True}  # type: ignore[assignment]


async def async_key(request: HttpRequest) -> str:
    return "key"


async def async_scope(request: HttpRequest) -> str:
    return "tenant"


async def async_fingerprint(request: HttpRequest) -> bytes:
    return b""


async def async_charge(key: str) -> str:
    return key


@idempotent
async def async_view(request: HttpRequest, pk: int) -> HttpResponse:
    return HttpResponse()


@idempotent(required=True, key=async_key, scope=async_scope, fingerprint=async_fingerprint)
async def async_view_with_options(request: IdempotentRequest) -> HttpResponse:
    if request.idempotency is not None:
        assert_type(await request.idempotency.aphase("charge", async_charge, probe=async_charge), Any)
    return HttpResponse()


async def async_views_keep_their_types(request: HttpRequest) -> None:
    assert_type(await async_view(request, 1), HttpResponse)
    await async_view(request)  # type: ignore[call-arg]


# --- the operation handle ---


@idempotent
def uses_handle(request: IdempotentRequest) -> HttpResponse:
    assert_type(request.idempotency, OperationHandle | None)
    _ = request.idempotency.key  # type: ignore[union-attr]
    if request.idempotency is not None:
        assert_type(request.idempotency.key, str)
        assert_type(request.idempotency.scope, str)
        assert_type(request.idempotency.identity, Identity)
        assert_type(request.idempotency.derive_key("gateway"), str)
        assert_type(request.idempotency.phase("charge", lambda key: key, probe=lambda key: key, was="pay"), Any)
    assert_type(request.method, str | None)
    return HttpResponse()


# --- options ---


def scope(request: HttpRequest) -> str:
    return "tenant"


def alias(request: HttpRequest) -> str:
    return "default"


def fingerprint(request: HttpRequest) -> bytes:
    return b""


def should_store(response: Any) -> bool:
    return True


def guard(request: Any, record: Any) -> None:
    raise PermissionError


def record(request: Any, response: Any) -> object:
    return {"payment": response.data["id"]}


def refuse(request: Any, refusal: Refusal) -> HttpResponse:
    return HttpResponse(refusal.message, status=refusal.status)


def render(request: Any, reference: Any) -> HttpResponse:
    return HttpResponse(reference)


EVERY = Policy(
    required=True,
    methods=("POST", "PUT"),
    ttl=timedelta(hours=1),
    in_flight="wait",
    wait_timeout=timedelta(seconds=10),
    lease=timedelta(seconds=30),
    uncertain="refuse",
    mode="atomic",
    store="default",
    using=alias,
    scope=scope,
    operation="transfer",
    key=lambda request: request.headers["X-Event"],
    key_format=re.compile("[a-z]+"),
    fingerprint=fingerprint,
    should_store=should_store,
    replay_guard=guard,
    docs_url="/docs/keys/",
    header="X-Key",
    replayed_header="X-Replayed",
    echo=True,
    refuse=refuse,
    max_body=1024,
    unstored_headers=["X-Card-Token"],
    store_body=False,
    record=record,
    replay=render,
)
PATHS = Policy(
    scope="shop.scopes.tenant",
    key="shop.keys.event",
    key_format="uuid",
    fingerprint="shop.fingerprints.order",
    should_store="shop.rules.store",
    replay_guard="shop.rules.guard",
    using="shard_1",
)
BUILT_IN = Policy(fingerprint=fingerprints.json(exclude=["sent_at"]), moved_from=moving.drf_idempotency)

Policy(requierd=True)  # type: ignore[call-arg]
Policy(required="yes")  # type: ignore[arg-type]
Policy(ttl=3600)  # type: ignore[arg-type]
Policy(methods=5)  # type: ignore[arg-type]
Policy(max_body="1MB")  # type: ignore[arg-type]
Policy(fingerprint=scope)  # type: ignore[arg-type]
idempotent(requierd=True)  # type: ignore[call-overload]
idempotent(ttl=3600)  # type: ignore[call-overload]
idempotent(5)  # type: ignore[call-overload]


# --- other work ---


@once("invoice.paid", key=lambda event: event["id"])
def on_invoice_paid(event: dict[str, str]) -> dict[str, str]:
    return {"invoice": event["id"]}


def functions_keep_their_types() -> None:
    try:
        assert_type(on_invoice_paid({"id": "1"}), dict[str, str])
    except RequestInProgress as refusal:
        assert_type(refusal.status, int)
    on_invoice_paid(5)  # type: ignore[arg-type]
    outcome = on_invoice_paid.run({"id": "1"})
    assert_type(outcome, Outcome[dict[str, str]])
    assert_type(outcome.value, dict[str, str])
    assert_type(outcome.replayed, bool)
    on_invoice_paid.run(5)  # type: ignore[arg-type]
    assert_type(on_invoice_paid.__name__, str)


class Consumer:
    @once("invoice.refunded", key=lambda self, event: event["id"])
    def handle(self, event: dict[str, str]) -> str:
        operation = current_operation()
        assert_type(operation, OperationHandle | None)
        return event["id"]


def methods_keep_their_results(consumer: Consumer) -> None:
    assert_type(consumer.handle({"id": "1"}), str)
    assert_type(Consumer.handle.run(consumer, {"id": "1"}), Outcome[str])


@once("invoice.sent", key=lambda event: event["id"])
async def on_invoice_sent(event: dict[str, str]) -> dict[str, str]:
    return {"invoice": event["id"]}


async def async_functions_keep_their_types() -> None:
    assert_type(await on_invoice_sent({"id": "1"}), dict[str, str])
    assert_type(await on_invoice_sent.run({"id": "1"}), Outcome[dict[str, str]])
    await on_invoice_sent(5)  # type: ignore[arg-type]
    await on_invoice_sent.run(5)  # type: ignore[arg-type]


once(on_invoice_paid)  # type: ignore[arg-type]
once("invoice.paid", keys=str)  # type: ignore[call-arg]


# --- the calling side ---


def calls(jar: KeyJar) -> None:
    policy = CallPolicy(within=timedelta(minutes=5), retried=RETRIED | {409})
    with jar.action("pay invoice 17") as key, httpx.Client(transport=IdempotentTransport(policy=policy)) as client:
        assert_type(key, str)
        assert_type(client.post("/payments/", headers={"Idempotency-Key": key}), httpx.Response)
    httpx.AsyncClient(transport=AsyncIdempotentTransport(httpx.AsyncHTTPTransport(http2=True)))
    requests.Session().mount("https://", IdempotentAdapter(policy=policy, pool_maxsize=50))
    httpx.AsyncClient(transport=IdempotentTransport())  # type: ignore[arg-type]
    CallPolicy(timedelta(minutes=5))  # type: ignore[call-arg]


# --- errors ---


def errors(refusal: Refusal) -> None:
    assert_type(refusal.problem("/docs"), dict[str, Any])
    assert_type(refusal.code, str)
    assert_type(refusal.retry_after, int | None)


decorator: Callable[[Callable[[HttpRequest], HttpResponse]], Callable[[HttpRequest], HttpResponse]] = idempotent(
    ttl=timedelta(1)
)
