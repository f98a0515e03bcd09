"""Handlers that do uncommon things: log in, change their input, answer with what they were given."""

import logging

import pytest
from django.contrib.auth import login, logout
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.http import Http404, HttpResponse
from django.test import Client

from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import drf, is_replay, plain, post
from tests.app.views import PaymentSerializer, answer, make_payment

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_handler_that_logs_in(user, serve, atomic_requests):
    """
    The first caller gets a session. A retry by the same caller, who is somebody now, is another scope's key; one by the
    anonymous client that never saw the answer gets the answer without the session.
    """

    def handler(request):
        login(request, user, backend="django.contrib.auth.backends.ModelBackend")
        return answer(request, {"welcome": user.username})

    serve(plain(handler))
    first_client, second_client = Client(), Client()

    first = post(first_client)
    second = post(second_client)

    assert first.status_code == second.status_code == 201
    assert first.content == second.content
    assert "sessionid" in first.cookies
    assert is_replay(second)
    assert "sessionid" not in second.cookies
    assert Session.objects.count() == 1
    assert IdempotencyRecord.objects.count() == 1

    third = post(first_client)

    assert not is_replay(third)
    assert {record.scope for record in IdempotencyRecord.objects.all()} == {"anonymous", f"auth.user:{user.pk}"}


def log_in(request):
    login(request, User.objects.get(), backend="django.contrib.auth.backends.ModelBackend")


def begin_a_basket(request):
    request.session["basket"] = 1
    request.session.save()


@pytest.mark.parametrize("ends", ["returns", "raises"])
@pytest.mark.parametrize("engine", ["db", "cached_db", "cache", "signed_cookies"])
@pytest.mark.parametrize("begins", [log_in, begin_a_basket])
def test_a_handler_that_begins_a_session_and_refuses(user, serve, settings, atomic_requests, begins, engine, ends):
    """The client gets the handler's own answer; a session whose row was rolled back is forgotten with the rest."""
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"

    def handler(request):
        begins(request)
        if ends == "raises":
            raise Http404
        return answer(request, {"why": "sold out"}, 422)

    serve(plain(handler))
    client = Client(raise_request_exception=False)

    response = post(client)

    if ends == "returns":
        assert (response.status_code, response.json()) == (422, {"why": "sold out"})
    elif engine in ("db", "cached_db") and atomic_requests and begins is begin_a_basket:
        assert response.status_code in (400, 404)  # the outer transaction is Django's to roll back
    else:
        assert response.status_code == 404
    assert not IdempotencyRecord.objects.exists()
    assert not Session.objects.exists()
    assert ("sessionid" in client.cookies) == (engine in ("cache", "signed_cookies"))


@pytest.mark.parametrize("changes", [logout, log_in, begin_a_basket])
def test_a_refusal_leaves_the_callers_session(user, serve, browser, atomic_requests, changes):
    """What the handler did to a session that was there is rolled back with it: the caller stays who they were."""

    def handler(request):
        changes(request)
        return answer(request, {}, 422)

    serve(plain(handler))
    before = browser.cookies["sessionid"].value

    assert post(browser).status_code == 422

    assert Session.objects.get().session_key == before
    assert browser.cookies["sessionid"].value == before


def test_a_handler_that_changes_its_input(api, serve, atomic_requests):
    """The fingerprint is the request's as it arrived, whatever the handler makes of `request.data`."""

    def handler(request):
        response = make_payment(request)
        request.data["amount"] = 999
        request.data.clear()
        request._request.META["QUERY_STRING"] = "changed=1"
        request._request.path = "/elsewhere/"
        return response

    serve(drf(handler))

    first, second = post(api), post(api)

    assert first.content == second.content
    assert is_replay(second)
    assert Payment.objects.get().amount == 10


def test_a_handler_that_changes_its_form(browser, serve):
    """The same for a plain view that replaces `request.POST`."""

    def handler(request):
        request.POST = request.POST.copy()
        request.POST["amount"] = "999"
        return HttpResponse(request.POST["amount"], status=201)

    serve(plain(handler))

    first, second = (browser.post("/act/", {"amount": "10"}, headers={"Idempotency-Key": "k"}) for _ in range(2))

    assert first.content == second.content == b"999"
    assert is_replay(second)


def test_the_first_caller_gets_the_handlers_own_response(browser, serve):
    """The object itself, with its closers and whatever else was hung onto it."""
    closed = []

    class Resource:
        def close(self):
            closed.append(self)

    def handler(request):
        response = HttpResponse("done")
        response._resource_closers.append(Resource().close)
        response.own = True
        return response

    serve(plain(handler))

    response = post(browser)

    assert response.own
    assert len(closed) == 1
    assert not hasattr(post(browser), "own")


def test_a_mended_payload_may_keep_its_key(api, serve, atomic_requests, caplog):
    """A refusal frees the key, so a client mends what it sent, and the mended request is the one that counts."""

    def handler(request):
        serializer = PaymentSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        serializer.save()
        return answer(request, serializer.data)

    serve(drf(handler))

    with caplog.at_level(logging.WARNING, "django_idempotency"):
        assert post(api, {"amount": "ten"}).status_code == 400
    assert not [record for record in caplog.records if record.name == "django_idempotency"]

    first, second = post(api, {"amount": 10}), post(api, {"amount": 10})

    assert first.status_code == 201
    assert first.content == second.content
    assert post(api, {"amount": "ten"}).status_code == 422
