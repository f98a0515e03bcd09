"""`request.idempotency`: what a handler can know of the operation that it carries out."""

from datetime import timedelta

import pytest
from django.utils import timezone
from rest_framework.views import APIView

from django_idempotency import Policy, idempotent
from django_idempotency.models import IdempotencyRecord
from django_idempotency.rest_framework import IdempotencyMixin
from tests.app.serving import drf, is_replay, post
from tests.app.views import answer, make_payment

pytestmark = pytest.mark.django_db


@pytest.fixture
def handles(protect, serve):
    """The handles that a protected handler got, one for each run. It refuses, so that it runs again."""
    handles = []

    def handler(request):
        handles.append(request.idempotency)
        return answer(request, {}, 400)

    serve(protect(handler))
    return handles


def test_the_handle_knows_key_scope_and_identity(client, user, handles):
    """Unquoted, and as they are stored."""
    post(client, key='"key-1"')

    [handle] = handles
    assert handle.key == "key-1"
    assert handle.scope == f"auth.user:{user.pk}"
    assert handle.identity.key == "key-1"
    assert handle.identity.scope == handle.scope
    assert handle.identity.operation == "POST act/"
    assert len(handle.identity.digest) == 32


def test_there_is_none_without_a_key(client, handles):
    """`request.idempotency` is there, and None."""
    post(client, key=None)

    assert handles == [None]


def test_a_derived_key_is_the_same_at_every_retry(client, handles):
    """What a downstream system is handed when the work runs again after a crash."""
    post(client)
    post(client)

    first, second = (handle.derive_key("gateway") for handle in handles)
    assert first == second


def test_a_derived_key_is_another_one_for_whatever_differs(client, handles, user):
    """Another name, another payload (a mended one is another action downstream), another key."""
    post(client)
    post(client, {"amount": 11})
    post(client, key="key-2")

    keys = [handle.derive_key(name) for handle in handles for name in ("gateway", "mail")]
    assert len(set(keys)) == 6


def test_the_handle_is_on_both_requests_of_a_drf_view(api, serve):
    """On DRF's, and on Django's below it, for code that knows only the one."""
    seen = []

    def handler(request):
        seen.append((request.idempotency, request._request.idempotency))
        return answer(request, {})

    serve(drf(handler))
    post(api)
    post(api, key=None)

    assert seen[0][0] is seen[0][1] is not None
    assert seen[1] == (None, None)


class Every(IdempotencyMixin, APIView):
    def handler(self, request):
        return answer(request, {"handle": request.idempotency is not None}, 200)

    get = post = put = patch = delete = handler


class Decorated(APIView):
    @idempotent
    def handler(self, request):
        return answer(request, {"handle": request.idempotency is not None}, 200)

    get = post = put = patch = delete = handler


@pytest.mark.parametrize("view", [Every, Decorated])
@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
@pytest.mark.parametrize("key", [None, "key-1"])
def test_the_attribute_is_there_for_every_method(api, serve, view, method, key):
    """A handle for a protected method with a key; None for each other, pass-through methods too."""
    serve(view.as_view())

    headers = {"Idempotency-Key": key} if key else {}
    response = getattr(api, method)("/act/", headers=headers)

    assert response.json() == {"handle": key is not None and method in ("post", "patch")}


def test_the_handle_of_a_record(client, protect, serve):
    """Its digest is the record's primary key, by which an operator finds it."""
    seen = []

    def handler(request):
        seen.append(request.idempotency.identity)
        return answer(request, {})

    serve(protect(handler))
    post(client)

    record = IdempotencyRecord.objects.get()
    assert record.pk == seen[0].digest
    assert (record.scope, record.operation, record.key) == (seen[0].scope, seen[0].operation, seen[0].key)
    assert str(record) == str(seen[0]) == seen[0].digest.hex()


def test_a_handle_under_other_options(api, serve):
    """Key, scope and operation are what the options made of them."""
    seen = []

    class View(IdempotencyMixin, APIView):
        idempotency = Policy(scope=lambda request: "tenant:1", operation="pay", key=lambda request: 77)

        def post(self, request):
            seen.append(request.idempotency.identity)
            return make_payment(request)

    serve(View.as_view())
    post(api, key=None)

    assert (seen[0].scope, seen[0].operation, seen[0].key) == ("tenant:1", "pay", "77")


def test_the_executing_requests_id_is_recorded(client, protect, serve):
    """Where a proxy or a middleware gives requests an id, the record names the one that was executed."""
    serve(protect(make_payment))

    post(client, headers={"X-Request-Id": "req-1"})
    assert is_replay(post(client, headers={"X-Request-Id": "req-2"}))

    assert IdempotencyRecord.objects.get().request_id == "req-1"


def test_what_a_record_holds(client, protect, serve, user):
    """Who, what, when and the answer: as an operator reads it."""
    serve(protect(make_payment))
    response = post(client)

    record = IdempotencyRecord.objects.live().get()
    assert record.record.status == record.status == 201
    assert record.record.body == bytes(record.body) == response.content
    assert dict(record.record.headers)["Content-Type"] == "application/json"
    assert abs(timezone.now() - record.executed_at) < timedelta(minutes=1)
    assert record.expires_at - record.executed_at == timedelta(hours=24)
    assert IdempotencyRecord.objects.for_key("key-1").get() == record
    assert not IdempotencyRecord.objects.for_key("KEY-1").exists()
    assert not IdempotencyRecord.objects.expired().exists()
