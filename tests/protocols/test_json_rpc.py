"""JSON-RPC over one POST route, with django-modern-rpc."""

import json

import pytest
from django.views.decorators.csrf import csrf_exempt
from modernrpc import RpcServer

from django_idempotency import idempotent, outcomes
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import PATH, is_replay

pytestmark = pytest.mark.django_db

server = RpcServer()


@server.register_procedure
def pay(amount: int) -> int:
    payment = Payment.objects.create(amount=amount, reference="json-rpc")
    if amount < 0:
        raise ValueError("no")
    return payment.pk


def call(amount: int, **more):
    return {"jsonrpc": "2.0", "method": "pay", "params": [amount]} | more


@pytest.fixture
def rpc(serve, client):
    """Send calls to the server's view, protected."""
    serve(csrf_exempt(idempotent(required=True, should_store=outcomes.jsonrpc)(server.view)))

    def send(sent, key="key-1"):
        return client.post(PATH, json.dumps(sent), content_type="application/json", headers={"Idempotency-Key": key})

    return send


@pytest.mark.parametrize("is_batch", [False, True], ids=["a call", "a batch"])
def test_what_is_done_takes_effect_once(rpc, is_batch):
    sent = [call(5, id=1), call(6, id=2)] if is_batch else call(5, id=1)

    first, second = rpc(sent), rpc(sent)

    assert (first.status_code, is_replay(first), is_replay(second)) == (200, False, True)
    assert second.content == first.content
    assert Payment.objects.count() == 1 + is_batch


@pytest.mark.parametrize("is_batch", [False, True], ids=["a call", "a batch"])
def test_an_error_is_rolled_back(rpc, is_batch):
    """Of a batch one error is enough."""
    sent = [call(5, id=1), call(-1, id=2)] if is_batch else call(-1, id=1)

    answers = [rpc(sent) for _ in range(2)]

    assert [is_replay(answer) for answer in answers] == [False, False]
    assert b'"error"' in answers[0].content
    assert not Payment.objects.exists()
    assert not IdempotencyRecord.objects.exists()


def test_a_notification_takes_effect_once(rpc):
    """It has no answer."""
    first, second = rpc(call(5)), rpc(call(5))

    assert (first.content, is_replay(first), is_replay(second)) == (b"", False, True)
    assert Payment.objects.count() == 1
