"""Who may not have an answer gets none, and is not told whether there is one."""

import json
from typing import Any

import pytest
from django.contrib.auth.decorators import login_required, permission_required
from django.contrib.auth.models import Permission
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework import generics
from rest_framework.permissions import DjangoModelPermissions, IsAuthenticated
from rest_framework.test import APIClient
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from django_idempotency import idempotent
from django_idempotency.models import IdempotencyRecord
from django_idempotency.rest_framework import IdempotencyMixin
from tests.app.models import Payment
from tests.app.serving import VENDOR, authenticated_by, drf, is_replay, post
from tests.app.views import PaymentSerializer, make_payment


class Pay(APIView):
    permission_classes = [IsAuthenticated]

    @idempotent
    def post(self, request: Any) -> Any:
        return make_payment(request)


class Create(IdempotencyMixin, generics.CreateAPIView):
    """Payments by those who have the permission to add some."""

    queryset = Payment.objects.all()
    serializer_class = PaymentSerializer
    permission_classes = [DjangoModelPermissions]


@permission_required("app.add_payment", raise_exception=True)
@idempotent
def create(request: Any) -> Any:
    return make_payment(request)


GUARDED = {"drf": Create.as_view(), "plain": create}


@pytest.fixture
def may_pay(user) -> Permission:
    permission = Permission.objects.get(codename="add_payment")
    user.user_permissions.add(permission)
    return permission


@pytest.mark.django_db
def test_a_permission_that_was_taken_away(edge, user, client, serve, may_pay):
    """The retry of yesterday's request is refused by today's rights, and answered again when they are back."""
    serve(GUARDED[edge])
    first = post(client)
    assert first.status_code == 201

    user.user_permissions.remove(may_pay)
    refused = post(client)

    assert refused.status_code == 403
    assert first.content not in refused.content
    assert not is_replay(refused)
    user.user_permissions.add(may_pay)
    again = post(client)
    assert is_replay(again)
    assert again.content == first.content
    assert Payment.objects.count() == 1


@pytest.mark.django_db
def test_an_account_that_was_closed(edge, user, client, serve):
    """Its token and its session open nothing any more."""
    serve(Pay.as_view() if edge == "drf" else login_required(idempotent(make_payment)))
    assert post(client).status_code == 201

    user.is_active = False
    user.save()
    refused = post(client)

    assert refused.status_code == {"drf": 401, "plain": 302}[edge]
    assert not is_replay(refused)


@pytest.mark.django_db
def test_a_session_that_was_ended(browser, serve):
    """After the logout the same browser gets no answer."""
    serve(login_required(idempotent(make_payment)))
    assert post(browser).status_code == 201

    browser.logout()
    refused = post(browser)

    assert refused.status_code == 302
    assert not is_replay(refused)


def seen(client: Client, key: str, amount: int = 10) -> tuple[Any, ...]:
    """What a caller can tell an answer by, but for the number of its own payment: statements stand for time."""
    with CaptureQueriesContext(connections["default"]) as queries:
        response = post(client, {"amount": amount}, key=key)
    body = {**json.loads(response.content), "id": None}
    names = sorted(response.headers)
    return response.status_code, names, body, [query["sql"].split(" ", 1)[0] for query in queries]


@pytest.mark.django_db
def test_a_key_of_somebody_elses_is_as_good_as_new(edge, user, other_user, client, serve, request):
    """The same status, headers, body and statements: a client cannot learn which keys others have used, or for what."""
    serve(Pay.as_view() if edge == "drf" else idempotent(make_payment))
    theirs = request.getfixturevalue("other_api") if edge == "drf" else Client()
    if edge == "plain":
        theirs.force_login(other_user)
    post(theirs, key="warm")  # what a first request of a process finds out
    for key in ("used-1", "used-2"):
        assert post(client, key=key).status_code == 201

    new = seen(theirs, "new-1")

    assert new[0] == 201
    assert seen(theirs, "used-1") == new
    assert seen(theirs, "used-2", 11) == seen(theirs, "new-2", 11)
    assert IdempotencyRecord.objects.count() == 7


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(VENDOR == "sqlite", reason="one writer at a time: everybody waits for everybody")
def test_a_key_of_somebody_elses_in_flight_is_as_good_as_new(api, other_api, serve, background, gate):
    """Nor which keys they are using now."""

    def handler(request: Any) -> Any:
        if request.data["amount"] == 1:
            gate.wait()
        return make_payment(request)

    serve(drf(handler))
    first = background(post, api, {"amount": 1})
    gate.reached()

    response = post(other_api, {"amount": 2})

    assert response.status_code == 201
    assert not is_replay(response)
    gate.open()
    assert first.result().status_code == 201


@pytest.mark.django_db
@pytest.mark.parametrize("who", ["anonymous", "without permission"])
def test_without_access_nothing_tells_of_a_key(user, api, other_api, serve, may_pay, who):
    """One answer to a used key, a new one, a malformed one, and a used one with another payload."""
    serve(Create.as_view())
    assert post(api).status_code == 201
    stranger = APIClient() if who == "anonymous" else other_api

    answers = [
        post(stranger, {"amount": amount}, key=key)
        for amount in (10, 11)
        for key in ("key-1", "key-2", "not a key", None)
    ]

    assert {answer.status_code for answer in answers} == {401 if who == "anonymous" else 403}
    assert len({(answer.content, tuple(sorted(answer.headers.items()))) for answer in answers}) == 1
    assert IdempotencyRecord.objects.count() == 1


@pytest.mark.django_db
def test_guesses_are_throttled(user, api, serve):
    """Refusals and replays count like any request, and past the limit a used key and a new one are 429 alike."""
    left = [5]

    class Throttle(BaseThrottle):
        def allow_request(self, request: Any, view: Any) -> bool:
            left[0] -= 1
            return left[0] >= 0

    class View(Pay):
        throttle_classes = [Throttle]

    serve(View.as_view())
    statuses = [
        post(api).status_code,
        post(api).status_code,  # the replay
        post(api, {"amount": 11}).status_code,  # another payload
        post(api, key="not a key").status_code,
        post(api, key="key-2").status_code,
    ]
    limited = [post(api, key=key) for key in ("key-1", "key-3", "not a key")]

    assert statuses == [201, 201, 422, 400, 201]
    assert {(each.status_code, each.content) for each in limited} == {(429, limited[0].content)}
    assert Payment.objects.count() == 2


@pytest.mark.django_db
def test_anonymous_and_known_callers_do_not_meet(api, other_api, serve):
    """Where a view lets everybody in, an anonymous request is no retry of a user's, nor the other way round."""
    view = type("View", (APIView,), {"permission_classes": [], "post": Pay.post})
    serve(view.as_view())

    responses = [post(each) for each in (api, APIClient(), other_api)]

    assert [is_replay(each) for each in responses] == [False] * 3
    assert Payment.objects.count() == 3
    assert all(is_replay(post(each)) for each in (api, APIClient(), other_api))


@pytest.mark.django_db
def test_a_credential_that_looks_like_a_user_is_none(user, api, serve):
    """No text that an unknown caller sends makes the scope of a known one."""
    scope = f"auth.user:{user.pk}"
    serve(authenticated_by(lambda: (user, None), make_payment))
    assert post(APIClient()).status_code == 201
    assert IdempotencyRecord.objects.get().scope == scope

    serve(idempotent(make_payment))
    for headers in ({"Authorization": scope}, {"X-Api-Key": scope}):
        response = post(Client(), headers=headers)
        assert response.status_code == 201
        assert not is_replay(response)
