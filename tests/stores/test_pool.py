"""Django's own pool (`OPTIONS: {"pool": ...}`): what a protected request gives back is what it got."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction
from django.db.backends.postgresql.psycopg_any import is_psycopg3

from django_idempotency import once
from django_idempotency.exceptions import CommittedEarly, RequestInProgress, StoreUnavailable, TransactionBroken
from django_idempotency.models import IdempotencyRecord
from django_idempotency.stores.database.folded import can_fold
from tests.app.models import Payment
from tests.app.serving import POOLED, TIMEOUT, VENDOR
from tests.stores.leftovers import busy, leftovers

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(not (VENDOR == "postgresql" and is_psycopg3), reason="Django has psycopg's pool alone"),
    pytest.mark.skipif(POOLED, reason="behind another pool no connection is the same server process for long"),
]

SIZE = 2
THREADS = 8


class Refused(Exception):
    pass


@once("pool.pay", key=lambda event: event["id"], in_flight="wait", wait_timeout=timedelta(seconds=TIMEOUT))
def pay(event: dict[str, Any]) -> int:
    Payment.objects.create(amount=event["amount"], reference=event["id"])
    for statement in event.get("statements", ()):
        with connection.cursor() as cursor:
            cursor.execute(statement)
    if event.get("rolls back"):
        transaction.set_rollback(True)
    if event.get("raises"):
        raise Refused
    return event["amount"]


@pytest.fixture(params=[True, False], ids=["folded", "unfolded"])
def fold(request: pytest.FixtureRequest, settings: Any) -> bool:
    """The store's option, whatever the run's default is."""
    if request.param and not can_fold(connection):
        pytest.skip("this run has it off")
    backend = "django_idempotency.stores.database.DatabaseStore"
    settings.IDEMPOTENCY = {"STORES": {"default": {"BACKEND": backend, "OPTIONS": {"FOLD": request.param}}}}
    return request.param


class Pool:
    """The connections that all threads share, and what is to be seen on them when nobody has one."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING, "psycopg.pool")
        self.log = caplog
        self.before = self.states()

    def states(self) -> dict[int, tuple[Any, ...]]:
        """The state of each connection, by its server process: as the driver has it, and as the server does."""
        pool = connection.pool
        pool.open()
        taken = [pool.getconn(timeout=TIMEOUT) for _ in range(SIZE)]  # all of them: each must have been given back
        try:
            return {raw.info.backend_pid: self.state(raw) for raw in taken}
        finally:
            for raw in taken:
                pool.putconn(raw)

    @staticmethod
    def state(raw: Any) -> tuple[Any, ...]:
        driver = (raw.autocommit, raw.isolation_level, raw.read_only, raw.deferrable, raw.info.transaction_status.name)
        with raw.cursor() as cursor:
            return (*driver, leftovers(cursor))

    def is_as_before(self, *, lost: int = 0) -> bool:
        """
        Has each connection come back as it was? *lost* of them have been replaced by new ones.

        The pool rolls back what comes in a transaction, and says so in its log: nobody may have given it that to do.
        """
        connections.close_all()
        after = self.states()
        with connection.cursor() as cursor:
            assert busy(cursor) == []
        connection.close()
        told = [record.getMessage() for record in self.log.records if record.name == "psycopg.pool"]
        assert [message for message in told if "discarding closed connection" not in message] == []
        assert len(told) <= lost
        assert len(self.before.keys() - after.keys()) == lost
        assert {repr(state) for state in after.values()} == {repr(state) for state in self.before.values()}
        return True


@pytest.fixture
def pool(fold: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """Two connections for all threads."""
    configured = connection.settings_dict
    connection.close()
    monkeypatch.setitem(configured, "CONN_MAX_AGE", 0)  # Django refuses a pool of persistent connections
    configured["OPTIONS"]["pool"] = {"min_size": SIZE, "max_size": SIZE, "timeout": TIMEOUT}
    try:
        yield Pool(caplog)
    finally:
        connection.close()
        connection.close_pool()
        del configured["OPTIONS"]["pool"]


def in_threads(work: Callable[[int], Any]) -> list[Any]:
    """What *work* returns or raises in each of more threads than there are connections, all at once."""
    start = threading.Barrier(THREADS)

    def run(number: int) -> Any:
        start.wait(TIMEOUT)
        try:
            return work(number)
        except Exception as error:
            return type(error)
        finally:
            connections.close_all()  # as Django does at the end of a request

    connection.close()
    with ThreadPoolExecutor(THREADS) as executor:
        return list(executor.map(run, range(THREADS)))


def amounts() -> Counter[str]:
    return Counter(Payment.objects.values_list("reference", flat=True))


def test_executions_and_replays_give_back_what_they_got(pool):
    """One after the other, on whichever connection the pool has."""
    for number in range(2 * SIZE):
        event = {"id": f"event-{number}", "amount": number}
        for _ in range(2):
            assert pay(event) == number
            connection.close()

    assert amounts() == {f"event-{number}": 1 for number in range(2 * SIZE)}
    assert pool.is_as_before()


def test_more_threads_than_connections(pool):
    """Each thread executes its own keys, and replays those of the others: one effect for each."""

    def work(number: int) -> list[int]:
        return [pay({"id": f"event-{(number + step) % THREADS}", "amount": 7}) for step in range(THREADS)]

    assert in_threads(work) == [[7] * THREADS] * THREADS
    assert amounts() == {f"event-{number}": 1 for number in range(THREADS)}
    assert pool.is_as_before()


def test_a_race_for_one_key(pool):
    """Whoever waits for it holds a connection for the look at it only, so that the one who executes gets to its end."""
    results = in_threads(lambda number: pay({"id": "one", "amount": 7, "statements": ["SELECT pg_sleep(0.05)"]}))

    assert results == [7] * THREADS
    assert amounts() == {"one": 1}
    assert pool.is_as_before()


ENDS = {
    "raises": ({"raises": True}, Refused, 0),
    "an error of the database": ({"statements": ["SELECT 1/0"]}, None, 0),
    "a raw ROLLBACK": ({"statements": ["ROLLBACK"]}, TransactionBroken, 0),
    "a raw COMMIT": ({"statements": ["COMMIT"]}, CommittedEarly, 1),
    "a raw COMMIT, and more": ({"statements": ["COMMIT", "SELECT 1"]}, CommittedEarly, 1),
    "a raw COMMIT, and BEGIN": ({"statements": ["COMMIT", "BEGIN"]}, CommittedEarly, 1),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_handler_that_ends_badly(pool, end):
    """It raises, or breaks or ends the transaction: the connection that goes back is in none, and in autocommit."""
    more, error, effects = ENDS[end]

    for number in range(2 * SIZE):
        with pytest.raises(error or Exception):
            pay({"id": f"event-{number}", "amount": 1, **more})
        connection.close()

    assert Payment.objects.count() == effects * 2 * SIZE
    assert IdempotencyRecord.objects.count() == effects * 2 * SIZE
    assert pool.is_as_before()


def test_a_rollback_that_the_handler_asks_for(pool):
    """`set_rollback` leaves nothing, and a retry executes."""
    pay({"id": "one", "amount": 1, "rolls back": True})
    connection.close()
    assert not Payment.objects.exists()
    pay({"id": "one", "amount": 1})

    assert amounts() == {"one": 1}
    assert pool.is_as_before()


LOSE = "SELECT pg_terminate_backend(pg_backend_pid())"


def test_a_backend_that_is_killed_under_its_handler(pool):
    """The pool makes another connection in place of the lost one; the work is rolled back, the retry executes."""
    with pytest.raises(OperationalError):
        pay({"id": "one", "amount": 1, "statements": [LOSE]})
    connection.close()

    assert not Payment.objects.exists()
    assert pay({"id": "one", "amount": 1}) == 1
    assert amounts() == {"one": 1}
    assert pool.is_as_before(lost=1)


def test_a_backend_that_is_killed_in_the_pool(pool):
    """Nothing was done on it: the store is unavailable until the pool has noticed, and nothing else is."""
    victims = list(pool.before)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        victims.remove(cursor.fetchone()[0])
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", victims)
    connection.close()

    results = []
    for _ in range(2 * SIZE):
        try:
            results.append(pay({"id": "one", "amount": 1}))
        except StoreUnavailable:
            results.append(None)
        connection.close()

    assert results.count(None) == len(victims)
    assert amounts() == {"one": 1}
    assert pool.is_as_before(lost=len(victims))


def test_a_key_in_flight_is_refused_on_another_connection(pool):
    """A duplicate that does not wait gets its refusal, and gives its connection back at once."""

    @once("pool.refuse", key=lambda event: event["id"], in_flight="reject")
    def outer(event: dict[str, Any]) -> int:
        with ThreadPoolExecutor(1) as executor:
            for _ in range(2 * SIZE):
                with pytest.raises(RequestInProgress):
                    executor.submit(rival, event).result(TIMEOUT)
        Payment.objects.create(amount=1, reference=event["id"])
        return 1

    def rival(event: dict[str, Any]) -> int:
        try:
            return outer(event)
        finally:
            connections.close_all()

    assert outer({"id": "one"}) == 1
    assert amounts() == {"one": 1}
    assert pool.is_as_before()
