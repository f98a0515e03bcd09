"""`maintenance.free`: the next request with the key runs; never while one is in flight."""

import pytest
from django.db import connection, transaction

from django_idempotency import once
from django_idempotency.core.keys import Identity
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.maintenance import free
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import TIMEOUT, VENDOR
from tests.operations.records import record, save

pytestmark = pytest.mark.django_db(transaction=True)


@once("free.pay", key=lambda event: event, scope=lambda event: "shop")
def pay(event):
    Payment.objects.create(amount=1)
    for work in WORK:
        work()
    return Payment.objects.count()


WORK = []
IDENTITY = Identity("shop", "free.pay", "key-1")


@pytest.fixture(autouse=True)
def no_work():
    yield
    WORK.clear()


def test_a_freed_key_runs_again(caplog):
    """The log names the identity, never the key."""
    caplog.set_level("INFO", logger="django_idempotency")
    assert [pay("key-1"), pay("key-1")] == [1, 1]
    caplog.clear()

    assert free(IDENTITY.digest) is True

    assert [line.getMessage() for line in caplog.records] == [f"Freed {IDENTITY}"]
    assert "key-1" not in caplog.text
    assert pay("key-1") == 2


def test_a_record_can_be_given():
    """It is freed in the database that it was read from."""
    pay("key-1")

    assert free(IdempotencyRecord.objects.get()) is True
    assert not IdempotencyRecord.objects.exists()


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_a_database_can_be_named():
    """And is the record's own, where a record is given."""
    for using in ("default", "other"):
        save([record("key-2")], using)
    [row] = IdempotencyRecord.objects.using("other")

    assert free(row) is True
    assert free(bytes(row.digest), using="other") is False
    assert IdempotencyRecord.objects.count() == 1


def test_nothing_to_free(caplog):
    """False, and no line."""
    caplog.set_level("INFO", logger="django_idempotency")

    assert free(IDENTITY.digest) is False
    assert not caplog.records


def test_an_unsettled_claim_is_freed():
    """The operator says so: it runs again."""
    save([record("key-1", scope="shop", operation="free.pay", answer=None)])

    assert free(IDENTITY.digest) is True
    assert pay("key-1") == 1


@pytest.mark.skipif(VENDOR == "sqlite", reason="on SQLite whoever would free it waits for the writer")
@pytest.mark.parametrize("state", ["fresh", "expired"])
def test_in_flight_it_is_refused_at_once(background, gate, state):
    """Another connection holds the claim; nothing is changed, and its answer is stored."""
    if state == "expired":
        save([record("key-1", scope="shop", operation="free.pay", expires_in=-60)])
    WORK.append(gate.wait)
    first = background(pay, "key-1")
    gate.reached()

    with pytest.raises(RequestInProgress):
        free(IDENTITY.digest)

    gate.open()
    assert first.result(TIMEOUT) == 1
    assert pay("key-1") == 1
    assert IdempotencyRecord.objects.get().status == 200


def test_rolled_back_it_is_not_freed(caplog):
    """In the admin's transaction it happens, and is logged, with it or not at all."""
    caplog.set_level("INFO", logger="django_idempotency")
    pay("key-1")
    caplog.clear()
    with transaction.atomic():
        assert free(IDENTITY.digest) is True
        transaction.set_rollback(True)

    assert not caplog.records
    assert pay("key-1") == 1
    assert connection.get_autocommit()


@pytest.mark.parametrize("digest", [b"", b"\x01" * 31, bytes(33)], ids=len)
def test_what_is_no_digest(digest):
    with pytest.raises(ValueError, match="32 bytes"):
        free(digest)
