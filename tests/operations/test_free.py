"""`records.free`: its transaction, its log and its locks. What it does to a record is in the contract of stores."""

from contextlib import nullcontext
from datetime import timedelta

import pytest
from django.db import OperationalError, connection, transaction

from django_idempotency import once
from django_idempotency.core.keys import Identity
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations.records import free
from django_idempotency.stores import stores
from django_idempotency.stores.base import Fault
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
    assert free(IDENTITY.digest) is False

    assert [line.getMessage() for line in caplog.records] == [f"Freed {IDENTITY}"]
    assert "key-1" not in caplog.text
    assert pay("key-1") == 2


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_a_database_can_be_named():
    """And is the record's own, where a record is given."""
    for using in ("default", "other"):
        save([record("key-2")], using)
    [row] = IdempotencyRecord.objects.using("other")

    assert free(row) is True
    assert free(bytes(row.digest), using="other") is False
    assert IdempotencyRecord.objects.count() == 1


def test_in_flight_on_an_expired_row_it_is_refused(background, gate):
    """Another connection holds the claim; nothing is changed, and its answer is stored."""
    save([record("key-1", scope="shop", operation="free.pay", expires_in=-60)])
    WORK.append(gate.wait)
    first = background(pay, "key-1")
    gate.reached()

    def go_on(execute, sql, *args):  # SQLite waits for the writer, which is to find an end; elsewhere nobody waits
        if VENDOR == "sqlite" and sql.startswith("BEGIN"):
            gate.open()
        return execute(sql, *args)

    with pytest.raises(RequestInProgress), connection.execute_wrapper(go_on):
        free(IDENTITY.digest)

    gate.open()
    assert first.result(TIMEOUT) == 1
    assert pay("key-1") == 1
    assert IdempotencyRecord.objects.get().status == 200


@pytest.mark.skipif(VENDOR != "sqlite", reason="a lock of the whole database is SQLite's")
@pytest.mark.parametrize("stored", [False, True], ids=["digest", "record"])
def test_a_writer_that_outlasts_the_timeout(background, gate, stored):
    """Nobody can tell whose key it is working on."""
    [row] = save([record("key-1", scope="shop", operation="free.pay", expires_in=-60)])
    WORK.append(gate.wait)
    first = background(pay, "key-1")
    gate.reached()
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 20")

    try:
        with pytest.raises(RequestInProgress, match="writing"):
            free(row if stored else IDENTITY.digest)
    finally:
        gate.open()
        connection.close()

    assert first.result(TIMEOUT) == 1
    assert IdempotencyRecord.objects.get().status == 200


@pytest.mark.skipif(VENDOR != "sqlite", reason="elsewhere no error is taken for a writer")
def test_a_file_that_cannot_be_opened(monkeypatch, tmp_path):
    """Is no request in progress."""
    connection.close()
    with monkeypatch.context() as patch:
        patch.setitem(connection.settings_dict, "NAME", str(tmp_path / "none" / "db.sqlite3"))
        with pytest.raises(OperationalError, match="unable to open"):
            free(IDENTITY.digest)


def test_another_microsecond_is_another_execution():
    """But on SQLite, where a claim's time has milliseconds."""
    [row] = save([record("key-1", scope="shop", operation="free.pay")])
    step = timedelta(milliseconds=1) if VENDOR == "sqlite" else timedelta(microseconds=1)
    IdempotencyRecord.objects.update(executed_at=row.executed_at + step)

    with pytest.raises(RequestInProgress):
        free(row)

    assert free(IDENTITY.digest) is True


@pytest.mark.parametrize("nothing_before", [True, False], ids=["new", "renewed"])
def test_an_execution_between_the_look_and_the_lock(background, nothing_before):
    """By digest alone: what is freed is what was there at the call."""
    if not nothing_before:
        save([record("key-1", scope="shop", operation="free.pay", expires_in=-60)])
    ran = []

    def execute_first(execute, sql, *args):
        result = execute(sql, *args)
        if IdempotencyRecord._meta.db_table in sql and not ran:
            ran.append(background(pay, "key-1").result(TIMEOUT))
        return result

    with pytest.raises(RequestInProgress, match="meanwhile"), connection.execute_wrapper(execute_first):
        free(IDENTITY.digest)

    assert ran == [1]
    assert pay("key-1") == 1


@pytest.mark.skipif(VENDOR != "postgresql", reason="elsewhere who deletes the row holds the claim's own lock")
@pytest.mark.parametrize("outermost", [True, False], ids=["outermost", "nested"])
@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_deleted_while_it_is_freed(background, level, outermost):
    """A snapshot that still shows the row is taken anew, if the transaction is ours to start again."""
    pay("key-1")
    row = IdempotencyRecord.objects.get()

    def at_level():
        with connection.cursor() as cursor:
            cursor.execute(f"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {level}")
        deleted = []

        def delete_first(execute, sql, *args):
            result = execute(sql, *args)
            if "pg_try_advisory" in sql and not deleted:
                deleted.append(background(IdempotencyRecord.objects.all()._raw_delete, "default").result(TIMEOUT))
            return result

        with connection.execute_wrapper(delete_first), nullcontext() if outermost else transaction.atomic():
            return free(row), deleted

    result = background(at_level)
    if outermost or level == "read committed":
        assert result.result(TIMEOUT) == (False, [1])
    else:
        with pytest.raises(OperationalError) as raised:
            result.result(TIMEOUT)
        assert stores["default"].classify("default", raised.value) is Fault.RACE


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
