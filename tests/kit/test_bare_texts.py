"""One text, where many may be given, is that one: its characters would be patterns that leave out everything."""

import pytest

from django_idempotency.testing import Call, NotProved, assert_idempotent, assert_repeatable, differences, replayed
from django_idempotency.testing.calls import Reply
from django_idempotency.testing.compare.snapshots import snapshot
from django_idempotency.testing.findings import find_reply_differences
from tests.app.models import Payment

pytestmark = [pytest.mark.usefixtures("gallery"), pytest.mark.django_db]
OTHERS = "audit_*"  # has a star, which alone stands for all


def test_what_is_ignored(user):
    """Only what the text says."""
    with pytest.raises(NotProved, match="took effect twice"):
        assert_idempotent(Call.post("/unprotected/", {"amount": 10}, user=user), ignore=OTHERS)
    with pytest.raises(NotProved, match="request 2 changed"):
        assert_repeatable(Call.put("/wrong-document/"), ignore=OTHERS)
    with pytest.raises(NotProved, match="x-receipt"):
        assert_idempotent(Call.post("/counter-in-a-header/", user=user), ignore="header:X-Served-By")
    assert_idempotent(Call.post("/before-the-handler/", user=user), ignore="app_payment", effect=False)
    assert_idempotent(Call.post("/counter-in-a-header/", user=user), ignore="header:X-Receipt")


@pytest.mark.parametrize("options", [{"ignore": OTHERS}, {"skip": "/login/"}, {"skip": ""}, {"methods": "POST"}])
def test_what_is_replayed(options, client):
    """A class, whose tests need not replay anything."""

    class Tests:
        def test(self):
            client.post("/before-the-handler/")

    with pytest.raises(NotProved, match="changed something all the same"):
        replayed(**options)(Tests)().test()


def test_what_differs():
    """Two runs, and two answers."""
    empty = snapshot()
    Payment.objects.create(amount=10, reference="key-1 a")
    first = snapshot()
    Payment.objects.create(amount=11, reference="key-1 b")
    second = snapshot()

    assert differences(first.changes(second), empty.changes(first), ignore=OTHERS)
    assert not differences(first.changes(second), empty.changes(first), ignore="app_payment")
    # Of the key's characters every text would be made of.
    assert differences(first.changes(second), empty.changes(first), keys="key-1ab", ignore="app_payment.amount")
    answers = Reply(status=200, headers={"x-a": "1"}), Reply(status=200, headers={"x-a": "2"})
    assert [*find_reply_differences(*answers, ignore="header:X-B")]
    assert not [*find_reply_differences(*answers, ignore="header:X-A")]
