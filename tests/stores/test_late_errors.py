"""An error that the server sends behind a result: drivers read it when the next result is asked for, or never."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from django.db import connection

from django_idempotency import once
from django_idempotency.exceptions import RequestInProgress, TryAgain
from django_idempotency.models import IdempotencyRecord
from django_idempotency.stores import stores
from tests.app.models import Payment

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "mysql", reason="procedures and compound statements have several results"),
]

UNCERTAIN = import_module("django_idempotency.migrations.0009_uncertain_ttl")
MARIADB = (*import_module("django_idempotency.migrations.0002_claim_function").MARIADB, *UNCERTAIN.MARIADB)
MYSQL = (*import_module("django_idempotency.migrations.0004_mysql_claim").PROCEDURES, *UNCERTAIN.MYSQL)

# As a cluster aborts a transaction: the result has been sent, then comes the error, and the transaction is gone.
ABORT = "ROLLBACK; SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock';"
CLAIM, COMPLETE = "SELECT 'claimed', '', '', '', '', '';", "SELECT ROW_COUNT();"


@once("late.pay", key=lambda event: event)
def pay(event: str) -> int:
    Payment.objects.create(amount=5)
    return 5


def execute(statements: Any) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@pytest.fixture(params=["procedure", "statement"])
def spoil(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Let the claim or the record, whose result is *select*, be aborted behind it."""
    store: Any = stores["default"]
    store._dialects.clear()
    by_procedure = request.param == "procedure"
    dialect = store.dialect("default")
    if by_procedure and not dialect.by_procedure:
        pytest.skip("the procedures are not there")
    if not by_procedure and not connection.mysql_is_mariadb:
        pytest.skip("MySQL's statements have one result each")
    dialect.begins = False  # those procedures that begin and commit are in test_begin
    procedures = MARIADB if connection.mysql_is_mariadb else MYSQL

    def spoil(select: str) -> None:
        if by_procedure:
            execute(text.replace(select, f"{select} {ABORT}") for text in procedures)
            return
        dialect.by_procedure = False
        for name in ("CLAIM", "COMPLETE"):
            setattr(dialect, name, getattr(dialect, name).replace(select, f"{select} {ABORT}"))

    yield spoil
    store._dialects.clear()
    if by_procedure:
        execute(procedures)


def test_an_abort_behind_the_records_result_is_no_success(spoil):
    """Its work is rolled back, so the client must not be told that it was done."""
    spoil(COMPLETE)

    with pytest.raises(TryAgain) as refusal:
        pay("one")
    assert "Deadlock" in str(refusal.value.__cause__)

    assert not Payment.objects.exists()
    assert not IdempotencyRecord.objects.exists()


def test_an_abort_behind_the_claims_result_is_a_lost_race(spoil):
    """The handler does not run without a claim."""
    spoil(CLAIM)

    with pytest.raises(RequestInProgress):
        pay("one")

    assert not Payment.objects.exists()
    assert not IdempotencyRecord.objects.exists()
