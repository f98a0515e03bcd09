"""Phased mode inside the transaction that Django's `TestCase` puts around each test."""

import pytest

from tests.app.models import Payment
from tests.app.serving import is_replay, plain, post
from tests.app.views import answer

pytestmark = pytest.mark.django_db


def test_phases_work_in_a_test_case(browser, serve):
    """Its transaction counts as none, as it does for `durable=True`."""
    fails = [TimeoutError()]

    def charge(key):
        if fails:
            raise fails.pop()

    def view(request):
        phase = request.idempotency.phase
        order = phase("order", lambda: Payment.objects.create(amount=1).pk)
        phase("charge", charge)
        return answer(request, {"order": order})

    serve(plain(view, mode="phased"))

    assert [post(browser).status_code for _ in range(2)] == [500, 201]
    assert is_replay(post(browser))
    assert Payment.objects.count() == 1
