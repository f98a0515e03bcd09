"""An async view takes effect once."""

import pytest

from django_idempotency import idempotent
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.asyncs.serving import make_payment

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_retry_is_replayed(asgi):
    async def script(asgi):
        return [await asgi.post() for _ in range(2)]

    first, again = asgi(idempotent(make_payment)).run(script)

    assert (first.status, again.status) == (201, 201), first.body
    assert (first.is_replay, again.is_replay) == (False, True)
    assert first.body == again.body
    assert Payment.objects.count() == IdempotencyRecord.objects.count() == 1
