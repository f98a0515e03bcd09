"""Whose key it is, where no user says it: nobody gets an answer that was not theirs."""

import pytest
from django.contrib.auth.models import AnonymousUser
from rest_framework.test import APIClient

from django_idempotency.core.keys import Attempt, Identity, storable_text
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import PolicyError
from tests.app.models import Payment, Unique
from tests.app.serving import authenticated_by, is_replay, post
from tests.app.views import make_payment

pytestmark = pytest.mark.django_db


@pytest.fixture
def serve_keys(serve):
    """A view that API keys open, given as the credentials of its requests in their order."""

    def serve_keys(*credentials):
        left = list(credentials)
        serve(authenticated_by(lambda: (AnonymousUser(), left.pop(0)), make_payment))

    return serve_keys


@pytest.fixture
def api_key(monkeypatch):
    """Make an API key: a row whose text is the name that its owner gave it."""
    monkeypatch.setattr(Unique, "__str__", lambda self: "production")
    return lambda name: Unique.objects.create(name=name)


def test_two_keys_of_one_name_are_two_scopes(serve_keys, api_key):
    """A model's text is for people; the row is who it is."""
    serve_keys(api_key("a"), api_key("b"))

    responses = [post(APIClient()) for _ in range(2)]

    assert [is_replay(response) for response in responses] == [False, False]
    assert Payment.objects.count() == 2


def test_one_key_is_one_scope(serve_keys, api_key):
    """The same row, loaded anew for each request."""
    key = api_key("a")
    serve_keys(key, Unique.objects.get(pk=key.pk))

    assert [is_replay(post(APIClient())) for _ in range(2)] == [False, True]


def test_a_proxys_authorization_does_not_hide_the_api_key(serve_keys):
    """Both headers count: behind a proxy that adds one of its own, the other tells the callers apart."""
    serve_keys(None, None, None)
    headers = [{"Authorization": "Basic proxy", "X-Api-Key": key} for key in ("a", "b", "a")]

    responses = [post(APIClient(), headers=each) for each in headers]

    assert [is_replay(response) for response in responses] == [False, False, True]


@pytest.mark.parametrize("value", ["Bearer secret" * 30, "secret\0"])
def test_an_error_about_a_scope_does_not_print_it(value):
    """A scope is often made of a credential, and errors are logged."""
    with pytest.raises(PolicyError) as caught:
        storable_text("scope", value)

    assert "secret" not in str(caught.value)


def test_reprs_show_no_key_and_no_answer():
    """Error reporters print what stands on the stack."""
    attempt = Attempt(identity=Identity("user:1", "POST /", "k-secret"), fingerprint=b"", ttl=1)
    record = CompletionRecord(status=201, headers=(("X", "h-secret"),), body=b"b-secret")

    assert "secret" not in repr(attempt) + repr(record)
