"""The testing kit drives async views as it does others."""

from typing import Any

import pytest

from django_idempotency import idempotent
from django_idempotency.testing import Call, assert_idempotent, crash_points, race
from django_idempotency.testing.findings import NotProved
from tests.app.models import Payment
from tests.asyncs.serving import make_payment


async def pay(request: Any) -> Any:
    return await make_payment(request, "paid")


async def pay_once(request: Any) -> Any:
    await Payment.objects.acreate(amount=1)
    return await make_payment(request, "paid")


@pytest.mark.django_db
def test_assert_idempotent(asgi, user, other_user):
    """A right view is proved, one without protection is not."""
    asgi(idempotent(pay), wrong=pay)

    assert_idempotent(Call.post("/act/", {"amount": 10}, user=user), other_user=other_user)
    with pytest.raises(NotProved):
        assert_idempotent(Call.post("/wrong/", {"amount": 10}, user=user))


@pytest.mark.kill
@pytest.mark.django_db(transaction=True)
def test_race(asgi, user):
    """Of several processes at once, one executes."""
    asgi(idempotent(pay))

    report = race(Call.post("/act/", {"amount": 10}, user=user), processes=4)

    assert report.executed == 1
    assert Payment.objects.count() == 1


@pytest.mark.kill
@pytest.mark.django_db(transaction=True)
def test_crash_points(asgi, user):
    """It is killed at every point, and each retry finds one effect or none."""
    asgi(idempotent(pay_once))

    report = crash_points(Call.post("/act/", {"amount": 10}, user=user))

    assert {point.verdict for point in report.points} == {"once"}
    assert len(report.points) > 10
