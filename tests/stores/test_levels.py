"""Isolation level, READ ONLY and DEFERRABLE, as a project sets them on its connections: a handler has them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.backends.postgresql.psycopg_any import is_psycopg3
from django.db.backends.signals import connection_created

from django_idempotency import once
from django_idempotency.exceptions import StoreUnavailable
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import POOLED, VENDOR

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(VENDOR != "postgresql", reason="they are a part of PostgreSQL's BEGIN"),
]

SHOWN = ("transaction_isolation", "transaction_read_only", "transaction_deferrable")
seen: list[tuple[str, ...]] = []  # by the handler


def shown() -> tuple[str, ...]:
    """What the server says of the transaction that we are in."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(f'current_setting({name!r})' for name in SHOWN)}")
        return cursor.fetchone()


@once("levels.pay", key=lambda event: event["id"])
def pay(event: dict[str, Any]) -> int:
    seen.append(shown())
    Payment.objects.create(amount=event["amount"])
    return event["amount"]


@pytest.fixture
def on_each_connection() -> Iterator[Callable[[Callable[[Any], None]], None]]:
    """Have a function called with the driver's connection whenever Django has made one, as projects do."""
    receivers = []

    def on_each_connection(prepare: Callable[[Any], None]) -> None:
        def receiver(connection: Any, **kwargs: Any) -> None:
            if connection.alias == "default":
                prepare(connection.connection)

        connection_created.connect(receiver)
        receivers.append(receiver)
        connection.close()

    yield on_each_connection
    for receiver in receivers:
        connection_created.disconnect(receiver)
    connection.close()


@pytest.fixture
def options() -> Iterator[dict[str, Any]]:
    """The `OPTIONS` of the database, to be changed."""
    options = connection.settings_dict["OPTIONS"]
    before = dict(options)
    connection.close()
    yield options
    connection.close()
    options.clear()
    options.update(before)


def assert_as_in_a_block_of_the_projects_own(expected: tuple[str, ...]) -> None:
    """A handler's transaction is what `atomic` would have begun; a replay runs nothing."""
    seen.clear()
    with transaction.atomic():
        assert shown() == expected
    assert [pay({"id": "one", "amount": 5}) for _ in range(2)] == [5, 5]
    assert seen == [expected]
    assert Payment.objects.count() == 1
    with transaction.atomic():
        assert shown() == expected
    assert connection.get_autocommit()


LEVELS = ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_in_options(options, level):
    """`OPTIONS["isolation_level"]`, which Django gives to the driver."""
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    options["isolation_level"] = IsolationLevel[level.replace(" ", "_")]

    assert_as_in_a_block_of_the_projects_own((level.lower(), "off", "off"))


@pytest.mark.skipif(not is_psycopg3, reason="psycopg2 sets them by other names")
@pytest.mark.parametrize("read_only", [None, False], ids=["", "READ WRITE"])
@pytest.mark.parametrize("deferrable", [None, True, False], ids=["", "DEFERRABLE", "NOT DEFERRABLE"])
@pytest.mark.parametrize("level", [None, *LEVELS[-2:]], ids=str)
def test_whatever_is_set_on_the_connection(on_each_connection, level, deferrable, read_only):
    """A receiver of `connection_created` sets them on the driver's connection, each or none."""
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    def prepare(raw: Any) -> None:
        raw.isolation_level = None if level is None else IsolationLevel[level.replace(" ", "_")]
        raw.deferrable = deferrable
        raw.read_only = read_only

    on_each_connection(prepare)

    expected = (level or "read committed").lower(), "off", "on" if deferrable else "off"
    assert_as_in_a_block_of_the_projects_own(expected)


@pytest.mark.skipif(POOLED, reason="a pooler takes no options when a client connects")
def test_defaults_of_the_session(options):
    """`OPTIONS["options"]`, which the server is given when Django connects; the driver does not know of them."""
    options["options"] = "-c default_transaction_isolation=serializable -c default_transaction_deferrable=on"

    assert_as_in_a_block_of_the_projects_own(("serializable", "off", "on"))


@pytest.mark.skipif(not is_psycopg3, reason="psycopg2 sets them by other names")
def test_a_read_only_connection_executes_nothing(on_each_connection):
    """A claim is a write: 503, and nothing stays."""
    read_only = [True]
    on_each_connection(lambda raw: setattr(raw, "read_only", read_only[0]))

    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            pay({"id": "one", "amount": 5})
        assert not connection.connection.info.transaction_status  # idle, as an enum or a number
        assert connection.get_autocommit()
    assert not Payment.objects.exists()
    assert not IdempotencyRecord.objects.exists()
    read_only[0] = False
    connection.close()

    assert pay({"id": "one", "amount": 5}) == 5
    assert Payment.objects.count() == 1
