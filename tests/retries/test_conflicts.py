"""Real conflicts with a rival's transaction: deadlocks, and what REPEATABLE READ and SERIALIZABLE cancel."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import Sum

from tests.app.models import Payment
from tests.app.serving import VENDOR, post
from tests.app.views import answer

pytestmark = pytest.mark.django_db(transaction=True)

WAITING = {
    "postgresql": (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    ),
    "mysql": "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
}
TIMEOUT = 30  # seconds


@contextmanager
def level(name: str, more: str = "") -> Iterator[None]:
    """Inside the block every transaction of this connection has the isolation level *name*."""
    postgresql = connection.vendor == "postgresql"
    setting = "SESSION CHARACTERISTICS AS TRANSACTION" if postgresql else "SESSION TRANSACTION"
    with connection.cursor() as cursor:
        cursor.execute(f"SET {setting} ISOLATION LEVEL {name}")
        if more:
            cursor.execute(more)
    try:
        yield
    finally:
        connection.close()


def on_rivals_connection(work: Callable[[Any], Any]) -> Any:
    """Run *work* in a transaction of another connection, and commit it."""
    rival = connection.copy()
    try:
        rival.set_autocommit(False)
        with rival.cursor() as cursor:
            result = work(cursor)
        rival.commit()
        return result
    finally:
        rival.close()


@pytest.fixture
def runs() -> list[int]:
    """The numbers of the handler's runs."""
    return []


@pytest.mark.parametrize("retries", [0, 1])
def test_a_deadlock(protect, client, serve, background, runs, retries):
    """Each of two holds the row that the other wants; the database cancels the handler, which holds less."""
    first, second = (Payment.objects.create(amount=1) for _ in range(2))
    rivals = []

    def take_both(cursor) -> None:
        if VENDOR == "postgresql":
            cursor.execute("SET LOCAL deadlock_timeout = '20s'")  # the other looks first, and is cancelled
        for _ in range(20):  # on MariaDB and MySQL the one that has written less is cancelled
            cursor.execute("INSERT INTO app_payment (amount, reference) VALUES (0, 'rival')")
        cursor.execute("UPDATE app_payment SET amount = amount + 10 WHERE id = %s", [second.pk])
        rivals.append("has the second")
        cursor.execute("UPDATE app_payment SET amount = amount + 10 WHERE id = %s", [first.pk])

    def handler(request):
        if runs:
            rivals[0].result(TIMEOUT)  # by then the pause of a real retry is over
        runs.append(len(runs) + 1)
        with connection.cursor() as cursor:
            if VENDOR == "postgresql":
                cursor.execute("SET LOCAL deadlock_timeout = '10ms'")
            cursor.execute("UPDATE app_payment SET amount = amount + 100 WHERE id = %s", [first.pk])
            if len(runs) == 1:
                rivals.append(background(on_rivals_connection, take_both))
                deadline = time.monotonic() + TIMEOUT
                waiting = False
                while not waiting and time.monotonic() < deadline:
                    waiting = bool(on_rivals_connection(lambda other: ask(other, WAITING[connection.vendor])))
                    time.sleep(0.11)  # InnoDB shows what is no older than 0.1 s
                assert waiting, "the rival does not wait for the handler"
            cursor.execute("UPDATE app_payment SET amount = amount + 100 WHERE id = %s", [second.pk])
        return answer(request, {"run": len(runs)})

    serve(protect(handler, retries=retries))
    response = post(client)
    rivals[0].result(TIMEOUT)

    assert rivals[1:] == ["has the second"]
    assert response.status_code == (201 if retries else 503)
    assert runs == [1, 2][: retries + 1]
    expected = 111 if retries else 11
    assert [Payment.objects.get(pk=each.pk).amount for each in (first, second)] == [expected] * 2


def ask(cursor: Any, sql: str) -> int:
    cursor.execute(sql)
    return cursor.fetchone()[0]


LOST_UPDATES = {
    "postgresql": [("REPEATABLE READ", ""), ("SERIALIZABLE", "")],  # 40001
    "mariadb": [("REPEATABLE READ", "SET SESSION innodb_snapshot_isolation = ON")],  # 1020
}


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize(("name", "more"), LOST_UPDATES.get(VENDOR, []))
def test_a_row_that_a_rival_has_changed_since(protect, client, serve, runs, vendor, name, more, retries):
    """The handler has seen the row before the rival's commit, and may not write over it."""
    if vendor == "mysql":
        pytest.skip("MySQL does not look whether a row has changed since the snapshot")
    row = Payment.objects.create(amount=1)

    def change(cursor) -> None:
        cursor.execute("UPDATE app_payment SET amount = amount * 10 WHERE id = %s", [row.pk])

    def handler(request):
        runs.append(Payment.objects.get(pk=row.pk).amount)
        if len(runs) == 1:
            on_rivals_connection(change)
        Payment.objects.filter(pk=row.pk).update(amount=runs[-1] + 1)
        return answer(request, {})

    serve(protect(handler, retries=retries))
    with level(name, more):
        status = post(client).status_code

    assert (status, runs) == ((201, [1, 10]) if retries else (503, [1]))
    assert Payment.objects.get().amount == (11 if retries else 10)


@pytest.mark.skipif(VENDOR != "postgresql", reason="only PostgreSQL's SERIALIZABLE is optimistic")
@pytest.mark.parametrize("retries", [0, 1])
def test_two_that_read_what_the_other_writes(protect, client, serve, runs, retries):
    """Each adds up all payments and writes the sum; one of the two has to begin again."""
    Payment.objects.create(amount=1)

    def add(cursor) -> None:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        cursor.execute("INSERT INTO app_payment (amount, reference) SELECT sum(amount), 'sum' FROM app_payment")

    def handler(request):
        runs.append(Payment.objects.aggregate(sum=Sum("amount"))["sum"])
        if len(runs) == 1:
            on_rivals_connection(add)
        Payment.objects.create(amount=runs[-1])
        return answer(request, {})

    serve(protect(handler, retries=retries))
    with level("SERIALIZABLE"):
        status = post(client).status_code

    assert (status, runs) == ((201, [1, 2]) if retries else (503, [1]))
    assert sorted(Payment.objects.values_list("amount", flat=True)) == ([1, 1, 2] if retries else [1, 1])


def test_a_timeout_of_a_lock_is_no_loss(protect, client, serve, runs, vendor):
    """It ends one statement (1205), or is the project's own rule (55P03): it propagates, and nobody tries again."""
    row = Payment.objects.create(amount=1)
    setting = "SET lock_timeout = '50ms'" if vendor == "postgresql" else "SET innodb_lock_wait_timeout = 1"
    rival = connection.copy()
    rival.set_autocommit(False)
    with rival.cursor() as cursor:
        cursor.execute("UPDATE app_payment SET amount = 2 WHERE id = %s", [row.pk])

    def handler(request):
        runs.append(1)
        Payment.objects.filter(pk=row.pk).update(amount=3)
        return answer(request, {})

    serve(protect(handler, retries=3))
    try:
        with level("READ COMMITTED", setting):
            assert (post(client).status_code, runs) == (500, [1])
    finally:
        rival.rollback()
        rival.close()


def test_retries_cost_no_statement(protect, client, serve):
    """While nobody loses."""
    from django.test.utils import CaptureQueriesContext

    sent = []
    for number, retries in enumerate((0, 0, 5)):
        serve(protect(lambda request: answer(request, {"id": Payment.objects.create(amount=1).pk}), retries=retries))
        with CaptureQueriesContext(connection) as captured:
            assert post(client, key=str(number)).status_code == 201
        sent.append(len(captured))

    assert sent[1] == sent[2]
    assert not transaction.get_connection().in_atomic_block
