"""Answers with cookies: stored without them, and said so once per operation."""

import pytest
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client

from tests.app.models import Payment
from tests.app.serving import post
from tests.app.views import answer, make_payment

pytestmark = pytest.mark.django_db


@pytest.fixture
def warnings(caplog):
    return lambda: [record.getMessage() for record in caplog.records if "cookies" in record.getMessage()]


def with_cookie(request):
    response = make_payment(request)
    response.set_cookie("basket", "1")
    return response


def signs_up(request):
    """As a view that makes an account and logs in."""
    django_request = getattr(request, "_request", request)
    user = User.objects.create(username=f"new-{User.objects.count()}")
    login(django_request, user, "django.contrib.auth.backends.ModelBackend")
    return answer(request, {"id": 1})


def begins_a_basket(request):
    getattr(request, "_request", request).session["basket"] = 1
    return make_payment(request)


@pytest.mark.parametrize("handler", [with_cookie, signs_up, begins_a_basket])
def test_an_answer_with_cookies_is_told_of_once(protect, serve, warnings, handler):
    """The operation is named, in the first of its answers alone."""
    serve(protect(handler))
    client = Client(raise_request_exception=False)

    first = post(client)
    assert first.cookies
    [message] = warnings()
    assert message.startswith("POST act/ answers with cookies")

    assert post(Client(), key="another").status_code == 201
    assert len(warnings()) == 1


def test_a_session_that_goes_on_is_no_reason(browser, protect, serve, warnings):
    """Its cookie is the client's already."""
    serve(protect(begins_a_basket))

    assert post(browser).status_code == 201
    assert warnings() == []


def test_a_refusal_is_no_reason(protect, serve, warnings):
    """It is not stored, so nothing of it is lost."""

    def refuses(request):
        response = HttpResponse(status=400)
        response.set_cookie("basket", "1")
        return response

    serve(protect(refuses))

    assert post(Client()).status_code == 400
    assert warnings() == []
    assert not Payment.objects.exists()
