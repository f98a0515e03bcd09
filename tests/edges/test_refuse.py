"""The options `refuse`, `echo` and `expires_header`: how a refusal looks, and what every answer tells."""

import time
from datetime import timedelta
from email.utils import parsedate_to_datetime

import pytest
from django.http import Http404, HttpResponse, JsonResponse
from django.test import Client
from django.urls import path
from ninja import NinjaAPI
from rest_framework.exceptions import ValidationError

from django_idempotency.contrib import ninja
from django_idempotency.exceptions import IdempotencyError
from tests.app.models import Payment
from tests.app.serving import drf, post
from tests.app.views import make_payment

pytestmark = pytest.mark.django_db


def as_error(request, refusal):
    """An API's own format: another status, code and header."""
    return JsonResponse({"error": refusal.code}, status=460, headers={"Retry-After": "7"})


def test_a_refusal_in_the_apis_own_format(serve, protect, client):
    """The same in both kinds of views; `Link` is added, and what the response has stays."""
    serve(protect(make_payment, required=True, refuse=as_error, docs_url="/keys/"))

    response = post(client, key=None)

    assert (response.status_code, response.json()) == (460, {"error": "key-missing"})
    assert response["Retry-After"] == "7"
    assert response["Link"] == '</keys/>; rel="describedby"'


def test_the_option_comes_before_djangos_rest_frameworks_handler(serve, api, settings):
    """The nearest rule wins: `EXCEPTION_HANDLER` is the project's."""
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "EXCEPTION_HANDLER": "tests.edges.test_refuse.handler"}
    serve(drf(make_payment, required=True, refuse=as_error))

    assert post(api, key=None).status_code == 460


def handler(error, context):
    raise AssertionError("the exception handler was called")


def test_the_option_comes_before_ninjas_handlers(settings):
    """As in DRF."""
    api = NinjaAPI(urls_namespace="refuse")
    api.add_exception_handler(IdempotencyError, lambda request, error: HttpResponse(status=599))

    @api.post("/pay")
    @ninja.idempotent(required=True, refuse=as_error)
    def pay(request):
        """Not reached."""

    settings.ROOT_URLCONF = (path("api/", api.urls),)

    assert post(Client(), url="/api/pay", key=None).status_code == 460


def test_what_is_no_response_is_an_error(serve, protect, client, caplog):
    """It names the option."""
    serve(protect(make_payment, required=True, refuse=lambda request, refusal: {"error": refusal.code}))

    assert post(client, key=None).status_code == 500
    assert "The option 'refuse' must return a response, not a dict" in caplog.text


@pytest.mark.parametrize("spelt", ["key-1", '"key-1"'])
def test_the_key_as_it_was_spelt(serve, protect, client, spelt):
    """First answers, replays and refusals repeat what this request has sent, not what the first one had."""
    serve(protect(make_payment, echo=True))
    responses = [post(client, key="key-1"), post(client, key=spelt), post(client, {"amount": 11}, key=spelt)]

    assert [response["Idempotency-Key"] for response in responses] == ["key-1", spelt, spelt]
    assert "Idempotency-Key" not in post(client, key=None)


def test_observe_mode_repeats_no_key(serve, protect, client):
    """It changes no answer."""
    serve(protect(make_payment, echo=True, mode="observe"))

    assert "Idempotency-Key" not in post(client)


def test_a_key_that_is_no_text_is_not_repeated(serve, protect, client):
    """It is refused."""
    serve(protect(make_payment, echo=True))

    response = post(client, key="kéy")

    assert response.status_code == 400
    assert "Idempotency-Key" not in response


@pytest.mark.parametrize("error", [ValidationError, Http404])
def test_an_exception_of_a_drf_handler_has_the_key(serve, api, error):
    """DRF makes the answer of it."""

    def fail(request):
        raise error

    serve(drf(fail, echo=True))

    assert post(api)["Idempotency-Key"] == "key-1"
    assert not Payment.objects.exists()


def test_until_when_an_answer_is_kept(serve, protect, client):
    """In the first answer and in each replay, the same date; a refusal is not kept."""
    serve(protect(make_payment, expires_header="Answers-Until", ttl=timedelta(hours=2)))
    first, replay, refusal = post(client), post(client), post(client, {"amount": 11})

    assert first["Answers-Until"] == replay["Answers-Until"]
    assert abs(parsedate_to_datetime(first["Answers-Until"]).timestamp() - time.time() - 7200) < 60
    assert "Answers-Until" not in refusal
