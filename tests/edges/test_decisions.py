"""What the table of decisions promises: replays, refusals, rivals in flight, and a store that does not answer."""

import json
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, connections
from django.test import Client
from rest_framework.permissions import BasePermission

from django_idempotency.engine import run as engine
from tests.app.models import Payment
from tests.app.serving import (
    POOLED,
    TIMEOUT,
    VENDOR,
    drf,
    drf_class,
    end_own_connection,
    expire,
    is_replay,
    plain,
    post,
    without_table,
)
from tests.app.views import make_payment
from tests.conftest import authenticated

# --- replay or reuse ---


OTHER_REQUESTS = {
    "payload": {"data": {"amount": 11}},
    "spelling of the payload": {"content": b'{"amount":10 }'},
    "If-Match": {"headers": {"If-Match": '"2"'}},
    "If-Unmodified-Since": {"headers": {"If-Unmodified-Since": "Wed, 21 Oct 2015 07:28:00 GMT"}},
    "media type": {"content": b'{"amount": 10}', "content_type": "application/vnd.api+json"},
    "empty body": {"content": b""},
}


@pytest.mark.django_db
@pytest.mark.parametrize("other", OTHER_REQUESTS.values(), ids=OTHER_REQUESTS)
def test_a_key_for_another_request_is_refused(edge, client, serve, other):
    """Whatever part of its meaning differs: 422, nothing runs, and the first request's answer is not given away."""
    serve({"drf": drf, "plain": plain}[edge](make_payment))

    def send(url="/act/?a=1&b=2", content=b'{"amount": 10}', content_type="application/json", data=None, headers=None):
        return client.generic(
            "POST",
            url,
            content if data is None else json.dumps(data).encode(),
            content_type,
            headers={"Idempotency-Key": "k", "Host": "tenant-a.example", **(headers or {})},
        )

    assert send().status_code == 201
    response = send(**other)

    assert response.status_code == 422
    assert response.json()["code"] == "key-reused"
    assert "Retry-After" not in response
    assert Payment.objects.count() == 1
    assert is_replay(send())


@pytest.mark.django_db
def test_a_record_is_new_again_when_it_has_expired(protect, client, serve):
    """After its `ttl` a key names a new action, even with another payload."""
    serve(protect(make_payment))

    assert post(client).status_code == 201
    expire()
    response = post(client, {"amount": 11})

    assert response.status_code == 201
    assert not is_replay(response)
    assert is_replay(post(client, {"amount": 11}))
    assert post(client).status_code == 422
    assert [payment.amount for payment in Payment.objects.order_by("pk")] == [10, 11]


# --- who may have a replay ---


# --- in flight ---


@pytest.fixture
def impatient():
    """SQLite's writers wait for each other no longer than the tests want to."""
    options = connections["default"].settings_dict["OPTIONS"]
    if VENDOR != "sqlite":
        yield
        return
    before = options["timeout"]
    options["timeout"] = 0.1
    yield
    options["timeout"] = before


@pytest.mark.django_db(transaction=True)
def test_a_duplicate_in_flight_is_refused_with_retry_after(
    edge, user, serve, background, gate, slow_payment, impatient, request
):
    """
    409 at once, and never a second execution. On SQLite, which has one writer, a duplicate waits for it as long as the
    busy timeout says, and then gets 503.
    """
    wait: Any = {
        "drf": lambda attempt: timedelta(seconds=len(attempt.identity.key) / 2),
        "plain": timedelta(seconds=2.5),
    }
    serve({"drf": drf, "plain": plain}[edge](slow_payment, retry_after=wait[edge]))
    client, rival = request.getfixturevalue("api" if edge == "drf" else "browser"), None
    rival = authenticated(user) if edge == "drf" else Client()
    if edge == "plain":
        rival.cookies = client.cookies
    first = background(post, client)
    gate.reached()

    second = background(post, rival).result(TIMEOUT)

    expected = (503, "store-unavailable") if VENDOR == "sqlite" else (409, "request-in-progress")
    assert (second.status_code, second.json()["code"]) == expected
    assert second["Retry-After"] == ("5" if VENDOR == "sqlite" else "3")

    gate.open()
    assert first.result(TIMEOUT).status_code == 201
    third = post(rival)
    assert is_replay(third)
    assert third.content == first.result().content
    assert Payment.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_duplicate_in_flight_with_another_payload(user, serve, background, gate, slow_payment, impatient):
    """Its fingerprint cannot be compared yet: in flight, and 422 when the first has committed."""
    serve(drf(slow_payment))
    first = background(post, authenticated(user))
    gate.reached()

    assert background(post, authenticated(user), {"amount": 11}).result(TIMEOUT).status_code in (409, 503)
    gate.open()
    assert first.result(TIMEOUT).status_code == 201
    assert post(authenticated(user), {"amount": 11}).status_code == 422


@pytest.mark.django_db(transaction=True)
def test_another_key_is_not_held_up(user, serve, background, gate, vendor):
    """A request in flight is in nobody else's way, but for SQLite, which has one writer."""

    def handler(request):
        if request.idempotency.key == "slow":
            gate.wait()
        return make_payment(request)

    serve(drf(handler))
    if vendor == "sqlite":
        gate.open()
    slow = background(post, authenticated(user), key="slow")
    gate.reached()

    assert post(authenticated(user), key="quick").status_code == 201
    gate.open()
    assert slow.result(TIMEOUT).status_code == 201


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("outcome", ["executed", "forgotten"])
def test_wait_waits_for_the_first_and_then_replays(edge, user, browser, serve, background, gate, monkeypatch, outcome):
    """With `in_flight="wait"` a duplicate gets the first one's answer, or executes if the first was rolled back."""
    runs = []

    def handler(request):
        runs.append(1)
        if len(runs) == 1:
            gate.wait()
            if outcome == "forgotten":
                raise ValueError
        return make_payment(request)

    protect = {"drf": drf, "plain": plain}[edge]
    serve(protect(handler, in_flight="wait", scope=lambda request: "one"))
    polled = threading.Event()
    sleep = time.sleep

    def poll(seconds):
        assert not connection.in_atomic_block
        polled.set()
        sleep(seconds)

    monkeypatch.setattr(engine.time, "sleep", poll)
    clients = [authenticated(user) if edge == "drf" else Client(raise_request_exception=False) for _ in range(2)]

    first = background(post, clients[0])
    gate.reached()
    second = background(post, clients[1])
    if VENDOR != "sqlite":  # where it waits inside the database
        assert polled.wait(TIMEOUT)
    gate.open()

    first, second = first.result(TIMEOUT), second.result(TIMEOUT)
    assert second.status_code == 201
    if outcome == "executed":
        assert is_replay(second)
        assert second.content == first.content
    else:
        assert first.status_code == 500
        assert not is_replay(second)
    assert Payment.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_wait_gives_up_after_wait_timeout(user, serve, background, gate, slow_payment, impatient):
    """Then it is 409 like everywhere else (503 on SQLite, whose busy timeout is its own)."""
    serve(drf(slow_payment, in_flight="wait", wait_timeout=timedelta(milliseconds=50)))
    first = background(post, authenticated(user))
    gate.reached()

    second = background(post, authenticated(user)).result(TIMEOUT)

    assert second.status_code == (503 if VENDOR == "sqlite" else 409)
    gate.open()
    assert first.result(TIMEOUT).status_code == 201


# --- the store does not answer ---


if VENDOR != "sqlite":  # which has no server to lose

    @pytest.mark.django_db(transaction=True)
    def test_a_connection_that_is_lost_before_the_claim_is_503(user, serve, atomic_requests):
        """Nothing was done, whether or not the request had a transaction of its own already."""
        if POOLED and not atomic_requests:
            pytest.skip("outside a transaction no connection is our own: the pooler replaces a lost one")
        lose = [True]

        class LosesItsConnection(BasePermission):
            def has_permission(self, request, view):
                if lose:
                    lose.pop()
                    end_own_connection()
                return True

        serve(drf_class(make_payment, permission_classes=[LosesItsConnection]))

        response = post(authenticated(user))
        connection.close()

        assert (response.status_code, response.json()["code"]) == (503, "store-unavailable")
        assert int(response["Retry-After"]) >= 1
        assert not Payment.objects.exists()
        assert post(authenticated(user)).status_code == 201


@pytest.mark.django_db(transaction=True)
def test_an_error_of_the_handlers_database_is_no_503(protect, client, serve):
    """An OperationalError that the handler raises is the handler's."""

    def handler(request):
        raise OperationalError("the handler's own")

    serve(protect(handler))

    assert post(client).status_code == 500


@pytest.mark.django_db(transaction=True)
def test_a_missing_table_names_the_remedy(client, protect, serve):
    """A 500 that says `manage.py migrate`: a defect is no outage."""
    serve(protect(make_payment))

    with without_table():
        response = post(client)

    assert response.status_code == 500
    assert "manage.py migrate" in "".join(response.exc_info[1].__notes__)
    assert not Payment.objects.exists()


# --- signals and logs ---
