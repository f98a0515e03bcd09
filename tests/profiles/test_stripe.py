"""`profiles.stripe`, driven by Stripe's own client library over HTTP: its keys, its retries, its errors."""

import socket
from functools import partial

import pytest
import stripe
from django.http import JsonResponse
from django.urls import path

from django_idempotency import idempotent, profiles
from tests.app.models import Payment
from tests.app.serving import TIMEOUT, VENDOR
from tests.lab.caches import NOWHERE, cache

pytestmark = pytest.mark.django_db(transaction=True)

INTENT = {"amount": 1000, "currency": "eur"}
ONE_KEY = {"idempotency_key": "order-17"}


class Server:
    """The views of an API like Stripe's, and what goes wrong with their next requests: "lost" or "failed"."""

    def __init__(self) -> None:
        self.next: list[str] = []
        self.keys: list[str] = []
        self.protected = idempotent(**profiles.stripe())(self.create)

    def view(self, request, name=""):
        self.keys.append(request.headers["Idempotency-Key"])
        response = self.protected(request)
        if self.next and self.next.pop(0) == "lost":
            cut(request)
        return response

    def create(self, request):
        """A payment intent, from the library's form; an unknown currency is refused, a large sum declined."""
        amount = int(request.POST["amount"])
        if request.POST["currency"] != "eur":
            error = {"type": "invalid_request_error", "message": "Unknown currency.", "param": "currency"}
            return JsonResponse({"error": error}, status=400)
        payment = Payment.objects.create(amount=amount)
        if self.next == ["failed"]:
            self.next.clear()
            return JsonResponse({"error": {"type": "api_error", "message": "Try again."}}, status=500)
        if amount > 9000:
            error = {"type": "card_error", "code": "card_declined", "message": f"Declined as {payment.pk}."}
            return JsonResponse({"error": error}, status=402)
        return JsonResponse({"object": "payment_intent", "id": f"pi_{payment.pk}", "amount": amount})


def cut(request) -> None:
    """End the connection of *request*, so that its client gets no answer."""
    stream = request.META["wsgi.input"]
    while not hasattr(stream, "raw"):  # ours, and Django's around the one of the socket
        stream = vars(stream).get("_stream") or stream._read.__self__
    stream.raw._sock.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server(serve) -> Server:
    server = Server()
    serve(path("v1/payment_intents", server.view), path("v1/payment_intents/<name>", server.view))
    return server


@pytest.fixture
def library(server, live_server, monkeypatch):
    """Makes a client of Stripe's library for an account, which retries twice."""
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0.01)  # seconds; the library's own setting

    def make(account: str):
        client = stripe.StripeClient(
            f"sk_test_{account}",
            base_addresses={"api": live_server.url},
            max_network_retries=2,
            http_client=http_client,
        )
        return client.v1.payment_intents

    http_client = stripe.RequestsClient()
    yield make
    http_client.close()


@pytest.fixture
def intents(library):
    return library("one")


def headers(answer):
    return answer.last_response.headers


def test_a_lost_answer_is_replayed_to_the_librarys_own_retry(intents, server):
    """The library makes a key and keeps it; it gets the first answer, with its key, and nothing runs twice."""
    server.next = ["lost", "lost"]

    intent = intents.create(INTENT)

    assert intent.amount == 1000
    assert len(server.keys) == 3
    assert {*server.keys} == {intent.last_response.idempotency_key}
    assert headers(intent)["Idempotent-Replayed"] == "true"
    assert Payment.objects.count() == 1


def test_a_first_answer_is_not_marked(intents):
    """It carries the key, too."""
    intent = intents.create(INTENT, ONE_KEY)

    assert intent.last_response.idempotency_key == "order-17"
    assert "Idempotent-Replayed" not in headers(intent)


@pytest.mark.parametrize("call", ["other parameters", "another endpoint"])
def test_a_reused_key_is_the_librarys_idempotency_error(intents, server, call):
    """400, as documented: keys are compared with the endpoint and the parameters that they were first used with."""
    intents.create(INTENT, ONE_KEY)

    reuse = {
        "other parameters": partial(intents.create, {**INTENT, "amount": 2000}, ONE_KEY),
        "another endpoint": partial(intents.update, "pi_1", INTENT, ONE_KEY),
    }[call]
    with pytest.raises(stripe.IdempotencyError) as raised:
        reuse()

    assert raised.value.http_status == 400
    assert raised.value.headers["Idempotency-Key"] == "order-17"
    assert len(server.keys) == 2  # the library does not retry it
    assert Payment.objects.count() == 1


def test_another_account_has_keys_of_its_own(intents, library):
    """The same key from two accounts names two actions."""
    first, second = intents.create(INTENT, ONE_KEY), library("two").create(INTENT, ONE_KEY)

    assert first.id != second.id


@pytest.mark.skipif(VENDOR == "sqlite", reason="a duplicate waits for SQLite's one writer")
def test_the_library_waits_for_a_request_in_flight(intents, server, gate, background):
    """409 `idempotency_key_in_use` says that a retry can help, and the library's retry gets the answer."""
    refused = []

    def watched(request):
        response = protected(request)
        if response.status_code == 409:
            refused.append(response)
            gate.open()
            first.result(TIMEOUT)
        return response

    def slow(request):
        gate.wait()
        return server.create(request)

    server.protected = protected = idempotent(**profiles.stripe())(slow)
    first = background(intents.create, INTENT, ONE_KEY)
    gate.reached()
    server.protected = watched
    second = intents.create(INTENT, ONE_KEY)

    assert second.id == first.result(TIMEOUT).id
    [response] = refused
    assert response.headers["Stripe-Should-Retry"] == "true"
    assert response.headers["Retry-After"] == "1"
    assert b'"code": "idempotency_key_in_use"' in response.content


def test_a_declined_card_is_declined_again(intents):
    """A 402 is an answer that is stored: the retry gets the same one."""
    messages = []
    for _ in range(2):
        with pytest.raises(stripe.CardError) as raised:
            intents.create({**INTENT, "amount": 9999}, ONE_KEY)
        messages.append(str(raised.value))

    assert messages[0] == messages[1]
    assert Payment.objects.count() == 1


def test_invalid_parameters_leave_the_key_free(intents):
    """As documented: what fails validation is not stored, so the parameters can be mended under the same key."""
    with pytest.raises(stripe.InvalidRequestError):
        intents.create({**INTENT, "currency": "xyz"}, ONE_KEY)

    assert intents.create(INTENT, ONE_KEY).amount == 1000


def test_a_server_error_is_run_again(intents, server):
    """Otherwise than at Stripe, which replays a 500: it was rolled back, so the library's retry runs."""
    server.next = ["failed"]

    intent = intents.create(INTENT, ONE_KEY)

    assert "Idempotent-Replayed" not in headers(intent)
    assert len(server.keys) == 2
    assert Payment.objects.count() == 1


def test_a_key_that_is_too_long_is_an_invalid_request(intents):
    """255 characters are taken."""
    assert intents.create(INTENT, {"idempotency_key": "k" * 255}).amount == 1000
    with pytest.raises(stripe.InvalidRequestError) as raised:
        intents.create(INTENT, {"idempotency_key": "k" * 256})

    assert raised.value.code == "key_invalid"


def test_a_store_that_is_away_is_an_api_error(intents, server, settings):
    """503: the library retries it, and then raises its `APIError`."""
    settings.CACHES = {"away": cache(NOWHERE)}
    store = {"BACKEND": "django_idempotency.stores.redis.RedisStore", "OPTIONS": {"CACHE": "away"}}
    settings.IDEMPOTENCY = {"STORES": {"redis": store}, "STORE": "redis"}

    with pytest.raises(stripe.APIError) as raised:
        intents.create(INTENT, ONE_KEY)

    assert raised.value.http_status == 503
    assert len(server.keys) == 3
