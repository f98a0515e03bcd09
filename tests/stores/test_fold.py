"""BEGIN travels with the claim, COMMIT with the record, on all servers; nobody sees a difference."""

import re
from typing import Any
from unittest import mock

import pytest
from django.db import OperationalError, connection, transaction
from django.db.backends.postgresql.psycopg_any import is_psycopg3
from django.test.utils import CaptureQueriesContext

from django_idempotency import once
from django_idempotency.exceptions import CommittedEarly, PolicyError
from django_idempotency.models import IdempotencyRecord
from django_idempotency.stores import stores
from django_idempotency.stores.database import DatabaseStore
from django_idempotency.stores.database.dialects import dialect_for
from django_idempotency.stores.database.folded import FoldedPostgreSQL, can_fold
from tests.app.models import Payment
from tests.lab.routines import BY_STATEMENTS
from tests.lab.statements import FOLDED

pytestmark = pytest.mark.django_db(transaction=True)

FOLDED_BEGIN = re.compile(r"BEGIN[A-Z ]*; |CALL django_idempotency_begin_v")
IS_POSTGRESQL = connection.vendor == "postgresql"


def folds() -> bool:
    """Does this run fold? PostgreSQL's does, but for the run with FOLD=0; MariaDB's and MySQL's by their procedures."""
    if connection.vendor == "mysql":
        return not BY_STATEMENTS
    return IS_POSTGRESQL and can_fold(connection)


@once("fold.pay", key=lambda event: event["id"])
def pay(event: dict[str, Any]) -> int:
    Payment.objects.create(amount=event["amount"])
    for work in event.get("work", ()):
        WORK[work]()
    return event["amount"]


def commit_and_go_on() -> None:
    with connection.cursor() as cursor:
        cursor.execute("COMMIT")
    Payment.objects.create(amount=99)


WORK = {
    "commit and go on": commit_and_go_on,
    "iterate": lambda: list(Payment.objects.iterator(chunk_size=1)),
    "lock and iterate": lambda: list(Payment.objects.select_for_update().iterator(chunk_size=1)),
    "another": lambda: pay({"id": "inner", "amount": 7}),
}


def transactions_of(work: Any) -> list[str]:
    """The statements that carry a BEGIN or a COMMIT of ours with them."""
    with CaptureQueriesContext(connection) as captured:
        work()
    statements = [" ".join(query["sql"].split()) for query in captured.captured_queries]
    return [sql for sql in statements if FOLDED_BEGIN.match(sql) or FOLDED.search(sql)]


def test_a_first_execution_and_a_replay():
    """The claim brings BEGIN, the record COMMIT; a replay has no record to write."""
    event = {"id": "one", "amount": 5}
    first = transactions_of(lambda: pay(event))
    replay = transactions_of(lambda: pay(event))

    assert len(first) == (2 if folds() else 0)
    assert len(replay) == (1 if folds() else 0)
    assert Payment.objects.count() == 1
    assert connection.get_autocommit()


def test_inside_another_transaction_nothing_is_folded():
    """Where the transaction is not ours, neither is its end."""
    with transaction.atomic():
        assert transactions_of(lambda: pay({"id": "one", "amount": 5})) == []
        transaction.set_rollback(True)

    assert not Payment.objects.exists()
    assert not IdempotencyRecord.objects.exists()


def test_an_inner_operation_does_not_commit_the_outer_one():
    """The record of an operation inside a folded one's handler leaves the transaction open."""
    folded = transactions_of(lambda: pay({"id": "outer", "amount": 5, "work": ["another"]}))

    assert [bool(FOLDED.search(sql)) for sql in folded] == ([False, True] if folds() else [])
    assert sorted(Payment.objects.values_list("amount", flat=True)) == [5, 7]
    assert IdempotencyRecord.objects.filter(status=200).count() == 2


@pytest.mark.parametrize("work", ["iterate", "lock and iterate"])
def test_server_side_cursors_work_in_a_folded_transaction(work):
    """`iterator()` reads in chunks there as anywhere, with locks too: the driver is not in autocommit."""
    assert pay({"id": "one", "amount": 5, "work": [work]}) == 5
    assert Payment.objects.count() == 1


@pytest.mark.skipif(not IS_POSTGRESQL, reason="for SQLite and MariaDB it is in test_outcomes")
def test_what_follows_a_handlers_own_commit_is_rolled_back():
    """
    The driver is in autocommit then; what the handler goes on to write must not be committed row by row.

    psycopg2 alone does not read from the server that its transaction is over, and begins no other: nothing is undone,
    and the outcome is unknown as it is elsewhere.
    """
    with pytest.raises(CommittedEarly):
        pay({"id": "one", "amount": 5, "work": ["commit and go on"]})

    assert list(Payment.objects.values_list("amount", flat=True)) == ([5] if is_psycopg3 else [5, 99])
    assert IdempotencyRecord.objects.unsettled().count() == 1
    assert connection.get_autocommit()


@pytest.mark.skipif(not IS_POSTGRESQL, reason="for MariaDB and MySQL it is in test_begin")
def test_the_option_and_the_driver_decide(monkeypatch):
    """`FOLD: False`, and a server that binds parameters itself, take each statement by itself."""
    if not folds():
        pytest.skip("this run has it off")
    assert isinstance(dialect_for(connection), FoldedPostgreSQL)
    assert not isinstance(dialect_for(connection, fold=False), FoldedPostgreSQL)
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "server_side_binding", True)
    assert not isinstance(dialect_for(connection), FoldedPostgreSQL)


@pytest.mark.skipif(not (IS_POSTGRESQL and is_psycopg3), reason="no other driver binds on the server")
@pytest.mark.parametrize("binding", ["server_side_binding", "cursor_factory"])
def test_a_server_that_binds_parameters_takes_one_statement_at_a_time(binding):
    """Whichever of the driver's options asks for it."""
    from django.db.backends.postgresql.base import ServerBindingCursor

    options = connection.settings_dict["OPTIONS"]
    before = dict(options)
    options[binding] = {"server_side_binding": True, "cursor_factory": ServerBindingCursor}[binding]
    connection.close()
    stores.forget()
    try:
        assert [pay({"id": "one", "amount": 5}) for _ in range(2)] == [5, 5]
    finally:
        options.clear()
        options.update(before)
        connection.close()
        stores.forget()

    assert Payment.objects.count() == 1


@pytest.mark.parametrize("options", [{"FOLD": 1}, {"FOLD": "yes"}, {"fold": True}, {"LEASE": 5}], ids=repr)
def test_a_bad_option_is_named(options):
    """The store's options are checked when it is made, at start-up."""
    with pytest.raises(PolicyError, match=next(iter(options))):
        DatabaseStore("default", options)


def test_a_lost_reply_to_commit_is_not_announced_as_forgotten(caplog):
    """Nobody knows what came of it, folded or not: the retry finds out."""
    caplog.set_level("INFO", logger="django_idempotency")

    def lose(execute, sql, *args):
        result = execute(sql, *args)
        if sql.endswith("; COMMIT"):
            raise OperationalError("the connection was lost")
        return result

    def lose_plain():
        commit()
        raise OperationalError("the connection was lost")

    commit = connection._commit
    with (
        mock.patch.object(connection, "_commit", lose_plain),
        connection.execute_wrapper(lose),
        pytest.raises(OperationalError),
    ):
        pay({"id": "one", "amount": 5})

    assert not caplog.records
    assert pay({"id": "one", "amount": 5}) == 5
    assert Payment.objects.count() == 1
