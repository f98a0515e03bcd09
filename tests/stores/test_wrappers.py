"""What a project puts around the database's statements, `execute_wrapper` and debug cursors, on every path of ours."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from django_idempotency import once
from django_idempotency.models import IdempotencyRecord
from django_idempotency.stores.database.folded import can_fold
from tests.app.models import Payment, Unique
from tests.app.serving import VENDOR
from tests.lab.routines import BY_STATEMENTS
from tests.lab.statements import FOLDED_COMMIT, label

pytestmark = pytest.mark.django_db(transaction=True)

FOLDS = VENDOR == "postgresql" and can_fold(connection)
RECORD = FOLDED_COMMIT if FOLDS else "record"
# Before the atomic block, if no wrapper is installed: the log of statements is none.
BEGINS = FOLDS or (VENDOR == "mariadb" and not BY_STATEMENTS)
LOOK_UP = ["look-up"] if VENDOR == "sqlite" else []  # what is there already is found before the transaction


@once("wrapped.pay", key=lambda event: event["id"])
def pay(event: dict[str, Any]) -> int:
    Payment.objects.create(amount=event["amount"])
    if "then" in event:
        THEN[event["then"]]()
    return event["amount"]


THEN: dict[str, Callable[[], None]] = {}
EVENT = {"id": "one", "amount": 5}


def is_idle() -> bool:
    """Is the connection in autocommit, and in no transaction, for Django and for the driver?"""
    if VENDOR == "postgresql" and connection.connection is not None:
        assert not connection.connection.info.transaction_status  # idle, as an enum or a number
        assert connection.connection.autocommit
    return connection.get_autocommit() and not connection.in_atomic_block


def assert_executed_once() -> None:
    """Another delivery gets the result, and there is one effect."""
    assert pay(EVENT) == 5
    assert Payment.objects.count() == 1
    assert [record.status for record in IdempotencyRecord.objects.all()] == [200]
    assert is_idle()


# --- wrappers that change a statement, or send their own ---


COMMENTS = {"before": "/* trace 1 */ {}", "after": "{} /* trace 1 */", "on lines of its own": "-- trace 1\n{}\n-- end"}


@pytest.mark.parametrize("comment", COMMENTS)
def test_a_wrapper_may_comment_on_our_statements(comment):
    """As those do that carry a trace's number to the database's log."""

    def wrapper(execute, sql, params, many, context):
        return execute(COMMENTS[comment].format(sql), params, many, context)

    with connection.execute_wrapper(wrapper):
        assert [pay(EVENT) for _ in range(2)] == [5, 5]

    assert_executed_once()


def test_what_a_projects_wrapper_sends_before_us_is_in_the_transaction():
    """A wrapper that sets something for the transaction finds it there: BEGIN is not folded away from it."""
    if VENDOR != "postgresql":
        pytest.skip("no setting here is a transaction's own")
    seen = []

    def ask(function: str) -> str:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {function}")
            return cursor.fetchone()[0]

    def set_first(execute, sql, params, many, context):
        if not seen:
            seen.append("set")
            ask("set_config('wrapped.tenant', 't1', true)")
        return execute(sql, params, many, context)

    THEN["tenant"] = lambda: seen.append(ask("current_setting('wrapped.tenant', true)"))
    with connection.execute_wrapper(set_first):
        assert pay({**EVENT, "then": "tenant"}) == 5

    assert seen == ["set", "t1"]
    assert ask("current_setting('wrapped.tenant', true)") in (None, "")
    assert pay({**EVENT, "then": "tenant"}) == 5
    assert Payment.objects.count() == 1


@pytest.fixture
def one_statement_each(vendor):
    """The claim and the record are one statement each."""
    if vendor == "mysql" and BY_STATEMENTS:
        pytest.skip("without the procedures they are several on MySQL")


@pytest.mark.usefixtures("one_statement_each")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_wrapper_may_write_for_each_statement(when):
    """A journal of statements: what it writes before and after ours is committed, the record's entry too."""
    busy = []

    def journal(execute, sql, params, many, context):
        if busy or label(sql) == "BEGIN":
            return execute(sql, params, many, context)
        busy.append(True)
        try:
            if when == "before":
                Unique.objects.create(name=f"{Unique.objects.count()} {label(sql)}")
            result = execute(sql, params, many, context)
            if when == "after":
                Unique.objects.create(name=f"{Unique.objects.count()} {label(sql)}")
            return result
        finally:
            busy.clear()

    connection.ensure_connection()
    with connection.execute_wrapper(journal):
        assert pay(EVENT) == 5

    written = [name.partition(" ")[2] for name in Unique.objects.order_by("pk").values_list("name", flat=True)]
    # A claim that finds itself in a transaction already does not bring its own, and so neither does the record.
    record = "record" if when == "before" else RECORD
    assert [name for name in written if name != "COMMIT"] == [*LOOK_UP, "claim", "INSERT app_payment", record]
    assert_executed_once()


# --- wrappers that raise ---


class Stopped(Exception):
    """Not an error of a database: a wrapper's own."""


PLACES = [
    ("claim", "before"),
    ("claim", "after"),
    ("INSERT app_payment", "before"),
    ("INSERT app_payment", "after"),
    (RECORD, "before"),
    (RECORD, "after"),
]


@pytest.mark.parametrize("error", [Stopped, OperationalError])
@pytest.mark.parametrize(("statement", "when"), PLACES, ids=lambda value: value)
def test_a_wrapper_that_raises(statement, when, error, caplog):
    """Around any statement: one effect or none, nothing stays open, the next delivery knows, and so does the log."""
    caplog.set_level(logging.INFO, "django_idempotency")

    def stop(execute, sql, params, many, context):
        if label(sql) != statement:
            return execute(sql, params, many, context)
        if when == "before":
            raise error
        execute(sql, params, many, context)
        raise error

    with connection.execute_wrapper(stop), pytest.raises(Exception) as caught:  # noqa: PT011 the cause tells
        pay(EVENT)

    assert isinstance(caught.value, error) or isinstance(caught.value.__cause__, error)
    assert is_idle()
    # COMMIT was in that message.
    committed = (statement, when) == (FOLDED_COMMIT, "after")
    assert Payment.objects.count() == IdempotencyRecord.objects.count() == committed
    told = [record.getMessage().split()[0] for record in caplog.records]
    assert "Executed" not in told or committed
    assert_executed_once()


def test_a_wrapper_that_raises_in_the_handlers_own_block():
    """What the handler catches around a block of its own costs that block alone, on every path."""

    def stop(execute, sql, params, many, context):
        if "app_unique" in sql:
            raise Stopped
        return execute(sql, params, many, context)

    def in_a_block() -> None:
        try:
            with transaction.atomic():
                Unique.objects.create(name="never")
        except Stopped:
            pass  # as a handler does that can do without it

    THEN["block"] = in_a_block
    with connection.execute_wrapper(stop):
        assert pay({**EVENT, "then": "block"}) == 5

    assert not Unique.objects.exists()
    assert Payment.objects.count() == 1
    assert is_idle()


# --- debug cursors ---


@contextmanager
def forced() -> Iterator[None]:
    connection.force_debug_cursor = True
    try:
        yield
    finally:
        connection.force_debug_cursor = False


LOGGED: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "DEBUG": lambda: override_settings(DEBUG=True),
    "force_debug_cursor": forced,
    "CaptureQueriesContext": lambda: CaptureQueriesContext(connection),
}


@pytest.fixture
def logged() -> Iterator[Callable[[], list[str]]]:
    """What `connection.queries` holds since the test began, one line each."""
    connection.ensure_connection()
    connection.queries_log.clear()
    yield lambda: [" ".join(query["sql"].split()) for query in list(connection.queries_log)]
    connection.queries_log.clear()


def names(logged: list[str]) -> list[str]:
    return [label(re.sub(r"SET status = \d+", "SET status = %s", sql)) for sql in logged]


@pytest.mark.usefixtures("one_statement_each")
@pytest.mark.parametrize("way", LOGGED)
def test_what_the_log_of_statements_shows(way, logged):
    """Django's own BEGIN and COMMIT are in it on every path; folded, they are in our statements too, where they act."""
    pay({"id": "warm", "amount": 1})
    with LOGGED[way]():
        pay(EVENT)
        first = logged()
        connection.queries_log.clear()
        pay(EVENT)
        replay = logged()

    if BEGINS:
        assert names(first) == ["claim", "BEGIN", "INSERT app_payment", FOLDED_COMMIT, "COMMIT"]
        assert names(replay) == (["claim", "COMMIT"] if FOLDS else ["claim"])
    else:
        assert names(first) == [*LOOK_UP, "BEGIN", "claim", "INSERT app_payment", RECORD, "COMMIT"]
        assert names(replay) == (LOOK_UP or ["BEGIN", "claim", "COMMIT"])
    if VENDOR == "postgresql":
        assert any(sql.startswith("BEGIN; ") for sql in first) == FOLDS
        assert any(sql.startswith("BEGIN; ") for sql in replay) == FOLDS


def test_the_log_shows_values_in_place(logged):
    """As for any statement, so that one can be tried by hand: the key is in the claim, and no placeholder in ours."""
    with CaptureQueriesContext(connection):
        pay({"id": "a-key", "amount": 7})
        statements = logged()

    record = FOLDED_COMMIT if BEGINS else RECORD
    ours = {name: sql for name, sql in zip(names(statements), statements, strict=True) if name in ("claim", record)}
    assert ours.keys() == {"claim", record}
    assert "a-key" in ours["claim"]
    assert not any("%s" in sql for sql in ours.values())


def test_a_wrapper_that_is_installed_during_a_handler_stays():
    """On the handler's own connection and on another one, as tracing installs itself when it is first needed."""

    def mine(execute, *args):
        return execute(*args)

    @once("wrappers.install", key=lambda event: event)
    def install(event: str) -> int:
        for each in connections.all():
            each.execute_wrappers.append(mine)
        return 1

    before = {each.alias: list(each.execute_wrappers) for each in connections.all()}
    try:
        install("one")
        after = {each.alias: list(each.execute_wrappers) for each in connections.all()}
    finally:
        for each in connections.all():
            each.execute_wrappers[:] = before[each.alias]

    assert after == {alias: [*wrappers, mine] for alias, wrappers in before.items()}
