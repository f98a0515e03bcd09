"""Each kind of protected view gives receipts, from its own place behind its own guards."""

import json

import pytest
from adrf.views import APIView
from django.test import AsyncClient, Client
from django.urls import path
from ninja import NinjaAPI, Schema
from ninja.responses import Status
from ninja.security import HttpBearer
from rest_framework.authentication import SessionAuthentication
from rest_framework.response import Response

from django_idempotency import idempotent
from django_idempotency.contrib import ninja
from django_idempotency.rest_framework import IdempotencyMixin
from tests.app.models import Payment
from tests.app.serving import drf_class, post
from tests.app.views import make_payment
from tests.asyncs.serving import make_payment as make_payment_async
from tests.asyncs.serving import run
from tests.receipts.test_receipts import RECEIPTS, ask, state

pytestmark = pytest.mark.django_db(transaction=True)

URLS = ["/pay/", "/plain/", "/plain-class/", "/plain-method/", "/method/1/", "/generic/", "/mixed/", "/api/payments/"]


@pytest.mark.parametrize("url", [*URLS, "/v1/by-path/", "/v2/payments/"])
def test_views_of_django_and_drf(serve, api, browser, url):
    """Functions, classes and viewsets, by decorator and mixin."""
    serve(RECEIPTS)
    client = browser if "plain" in url else api
    assert state(client, url=url) == "never_seen"
    paid = post(client, url=url)

    found = ask(client, url=url).json()

    assert (found["state"], found["answer"]["body"].encode()) == ("done", paid.content)
    assert Payment.objects.count() == 1


@pytest.mark.parametrize("installed", [True, False])
def test_by_the_middleware(serve, settings, browser, installed):
    """A view that it protects gives receipts, as long as it is there."""
    if installed:
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django_idempotency.middleware.IdempotencyMiddleware"]

    def pay(request):
        return make_payment(request)

    serve(RECEIPTS, path("act/", pay))
    post(browser)

    response = ask(browser)

    assert response.json().get("state") == ("done" if installed else None)
    assert Payment.objects.count() == 1


class AsyncMixed(IdempotencyMixin, APIView):
    async def post(self, request):
        payment = await Payment.objects.acreate(amount=request.data["amount"])
        return Response({"id": payment.pk}, status=201)


ASYNC = {"plain": idempotent(make_payment_async), "adrf": AsyncMixed.as_view()}


@pytest.mark.parametrize("kind", ASYNC)
@pytest.mark.parametrize("server", ["sync", "async"])
def test_async_views(serve, api, user, kind, server):
    """They are asked on a thread, under WSGI and ASGI."""
    serve(RECEIPTS, path("act/", ASYNC[kind]))
    headers = {"Authorization": f"Token {user.auth_token}", "Idempotency-Key": "key-1"}
    assert post(Client(), headers=headers).status_code == 201

    async def asked():
        return await AsyncClient().get("/receipts/?path=/act/", headers=headers)

    response = run(asked()) if server == "async" else Client().get("/receipts/?path=/act/", headers=headers)

    assert response.json()["state"] == "done"
    assert Payment.objects.count() == 1


class Bearer(HttpBearer):
    tokens = {"secret"}

    def authenticate(self, request, token):
        return token in self.tokens and token


class PaymentIn(Schema):
    amount: int


def operation(api):
    @api.post("/pay", response={201: dict})
    @ninja.idempotent
    def pay(request, payment: PaymentIn):
        return Status(201, {"id": Payment.objects.create(amount=payment.amount).pk})


def async_operation(api):
    @api.post("/pay", response={201: dict})
    @ninja.idempotent
    async def pay(request, payment: PaymentIn):
        return Status(201, {"id": (await Payment.objects.acreate(amount=payment.amount)).pk})


def whole_api(api):
    ninja.protect(api)

    @api.post("/pay", response={201: dict})
    def pay(request, payment: PaymentIn):
        return Status(201, {"id": Payment.objects.create(amount=payment.amount).pk})


@pytest.mark.parametrize("make", [operation, async_operation, whole_api])
def test_ninja(serve, monkeypatch, make):
    """Behind Ninja's authentication, without the values that it validates."""
    monkeypatch.setattr(Bearer, "tokens", {"secret", "other"})
    api = NinjaAPI(urls_namespace=f"receipts-{make.__name__}", auth=Bearer())
    make(api)
    serve(RECEIPTS, path("api/", api.urls))
    headers = {"Authorization": "Bearer secret"}
    assert state(Client(), url="/api/pay", **headers) == "never_seen"
    paid = post(Client(), url="/api/pay", headers=headers)

    found = ask(Client(), url="/api/pay", **headers).json()

    assert json.loads(found["answer"]["body"]) == paid.json()
    assert state(Client(), url="/api/pay", Authorization="Bearer other") == "never_seen"
    monkeypatch.setattr(Bearer, "tokens", set())
    assert ask(Client(), url="/api/pay", **headers).status_code == 401
    assert Payment.objects.count() == 1


def test_a_session_without_a_csrf_token(serve, browser, user):
    """Nothing is changed, so DRF's session asks for none."""
    serve(RECEIPTS, path("act/", drf_class(make_payment, authentication_classes=[SessionAuthentication])))
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(user)
    post(browser)

    assert state(strict) == "done"
