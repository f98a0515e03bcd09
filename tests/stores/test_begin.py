"""The claim's statement begins the transaction and the record's ends it; no session is left in one."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from unittest import mock

import pytest
from django.db import DatabaseError, connection, transaction

from django_idempotency import once
from django_idempotency.core.decision import Claimed
from django_idempotency.exceptions import CommittedEarly, RequestInProgress, StoreUnavailable, TryAgain
from django_idempotency.models import IdempotencyRecord
from django_idempotency.stores import stores
from django_idempotency.stores.database import DatabaseStore, folded
from django_idempotency.stores.database.postgresql import FUNCTIONS
from tests.app.models import Payment, Unique
from tests.app.serving import POOLED
from tests.lab.routines import BEGIN, BY_STATEMENTS, UNCERTAIN, change_routines
from tests.lab.statements import label

IS_POSTGRESQL = connection.vendor == "postgresql"
pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor == "sqlite", reason="nothing is folded on SQLite"),
    pytest.mark.skipif(BY_STATEMENTS, reason="this run has no procedures"),
    pytest.mark.skipif(IS_POSTGRESQL and not folded.can_fold(connection), reason="this run does not fold"),
]
by_procedures = pytest.mark.skipif(IS_POSTGRESQL, reason="no procedure begins or commits on PostgreSQL")


class Failed(Exception):
    """The handler's own."""


@once("begin.pay", key=lambda event: event["id"])
def pay(event: dict[str, Any]) -> int:
    Payment.objects.create(amount=5)
    for statement in event.get("statements", ()):
        send(statement)
    if event.get("statements"):
        Payment.objects.create(amount=6)
    if event.get("fails"):
        raise Failed
    return 5


EVENT = {"id": "one"}


def send(statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()


def session() -> int:
    return int(send("SELECT pg_backend_pid()" if IS_POSTGRESQL else "SELECT CONNECTION_ID()")[0])


def assert_in_autocommit() -> None:
    """What is written next is committed at once: another session sees it."""
    Unique.objects.create(name="next")
    with closing(connection.copy()) as other, other.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM app_unique WHERE name = 'next'")
        assert cursor.fetchone() == (1,)
    assert connection.get_autocommit()
    assert not connection.in_atomic_block
    if IS_POSTGRESQL:
        assert connection.connection.autocommit
        assert connection.connection.info.transaction_status == 0
        assert "_set_autocommit" not in vars(connection)
    else:
        assert send("SELECT @@autocommit") == (1,)
    Unique.objects.all().delete()


def assert_nothing_is_left() -> None:
    assert not Payment.objects.exists()
    assert not IdempotencyRecord.objects.exists()


def assert_executes_once() -> None:
    assert [pay(EVENT) for _ in range(2)] == [5, 5]
    assert Payment.objects.count() == 1
    assert [record.status for record in IdempotencyRecord.objects.all()] == [200]


@pytest.fixture(autouse=True)
def found_anew() -> Iterator[None]:
    """The store asks the server what is there."""
    store: Any = stores["default"]
    store._dialects.clear()
    connection.ensure_connection()
    yield
    store._dialects.clear()


CLAIM, BEGINNING, COMMITTING = range(3)
DROP = ("DROP PROCEDURE django_idempotency_claim_v2", *BEGIN.DROP)


def change(number: int, before: str, deed: str) -> None:
    """Create one of the procedures anew, with a *deed* before a part of its text."""
    claim = UNCERTAIN.MARIADB[0] if connection.mysql_is_mariadb else UNCERTAIN.MYSQL[1]
    text = (claim, BEGIN.BEGIN, BEGIN.COMMIT)[number]
    assert before in text
    send(DROP[number])
    send(text.replace(before, f"{deed} {before}"))


@pytest.fixture
def spoil() -> Iterator[Callable[..., None]]:
    yield change
    change_routines(create=True)


KILL = "KILL QUERY CONNECTION_ID();"
PLACES = {
    "before the claim": (BEGINNING, "CALL django_idempotency_claim_v2"),
    "with the claim": (CLAIM, "IF changed = 1 THEN"),
    "before the row": (CLAIM, "SELECT 'claimed'"),
    "behind the row": (BEGINNING, "BEGIN\n        DECLARE"),
}
LOST = 1205  # the claim's procedure takes it for a rival's lock, which it meets only before it has written


def error(number: int, text: str = "no") -> str:
    return f'SIGNAL SQLSTATE "HY000" SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = "{text}";'


# --- the claim ---


@by_procedures
@pytest.mark.parametrize("deed", [KILL, "KILL CONNECTION_ID();", error(1317)], ids=["query", "connection", "timeout"])
@pytest.mark.parametrize("place", PLACES)
def test_a_claim_that_is_killed(spoil, place, deed):
    """KILL QUERY passes by every handler of the procedures, and the session is still in the transaction."""
    spoil(*PLACES[place], deed)

    with pytest.raises(StoreUnavailable):
        pay(EVENT)

    assert_in_autocommit()
    assert_nothing_is_left()
    change_routines(create=True)
    assert_executes_once()


@by_procedures
def test_a_replay_that_is_killed(spoil):
    """The record stays what it is, and the session is as it was."""
    assert pay(EVENT) == 5
    spoil(*PLACES["behind the row"], KILL)

    with pytest.raises(StoreUnavailable):
        pay(EVENT)

    assert_in_autocommit()
    change_routines(create=True)
    assert_executes_once()


@by_procedures
@pytest.mark.parametrize("number", [1644, 1213, 1020, LOST])
@pytest.mark.parametrize("place", PLACES)
def test_an_error_in_the_claim(spoil, place, number):
    """It propagates, or is a rival's; nothing is left, and the session has its locks and temporary tables still."""
    if number == LOST and PLACES[place][0] == CLAIM:
        pytest.skip("the claim meets a lock only before it has written")
    ours = session()
    spoil(*PLACES[place], error(number))

    with pytest.raises(DatabaseError if number == 1644 else RequestInProgress):
        pay(EVENT)

    assert session() == ours
    assert_in_autocommit()
    assert_nothing_is_left()
    change_routines(create=True)
    assert_executes_once()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, TimeoutError])
@pytest.mark.parametrize("place", ["in the call", "behind the call", "before the atomic block"])
def test_a_process_that_is_interrupted_between_claim_and_handler(place, stop):
    """By Ctrl-C, by a worker's timeout: the claim is gone, and what the process writes next is not lost."""
    store: Any = stores["default"]
    dialect = store.dialect("default")
    begin = store.begin

    def interrupted(*args: Any) -> None:
        assert isinstance(begin(*args), Claimed)
        raise stop

    target, name, effect = {
        "in the call": (dialect, "claim_result" if IS_POSTGRESQL else "fetch_row", stop),
        "behind the call": (store, "begin", interrupted),
        "before the atomic block": (connection, "set_autocommit", stop),
    }[place]
    with mock.patch.object(target, name, side_effect=effect), pytest.raises(stop):
        pay(EVENT)

    assert_in_autocommit()
    assert_nothing_is_left()
    assert_executes_once()


@pytest.mark.skipif(not IS_POSTGRESQL, reason="the procedures end the transaction of a replay")
@pytest.mark.parametrize("stop", [KeyboardInterrupt, TimeoutError, DatabaseError])
def test_a_replay_that_is_interrupted_while_its_commit_is_on_the_way(stop):
    """No later statement of the process gets the answer to that COMMIT."""
    pay(EVENT)
    with (
        mock.patch.object(folded.CompletionRecord, "from_stored", side_effect=stop),
        pytest.raises((stop, StoreUnavailable)),
    ):
        pay(EVENT)

    assert_in_autocommit()
    assert_executes_once()


FAIL = """
    CREATE OR REPLACE FUNCTION django_idempotency_claim_v2(
        bigint, bytea, bytea, text, text, text, text, text, double precision, double precision,
        OUT boolean, OUT text, OUT smallint, OUT bytea, OUT bytea, OUT bytea, OUT text
    ) LANGUAGE plpgsql AS $$ BEGIN {0}; END $$
"""
DEEDS = {
    "a rival": ("RAISE 'no' USING ERRCODE = '40001'", RequestInProgress),
    "a cancelled statement": ("RAISE 'no' USING ERRCODE = '57014'", StoreUnavailable),
    "another error": ("RAISE 'no'", DatabaseError),
    "a killed session": ("PERFORM pg_terminate_backend(pg_backend_pid())", StoreUnavailable),
}


@pytest.mark.skipif(not IS_POSTGRESQL, reason="the procedures have tests of their own")
@pytest.mark.parametrize("deed", DEEDS)
def test_an_error_in_the_claims_message(deed):
    """Behind BEGIN: nothing is left, and a session that lives is in no transaction."""
    statement, raised = DEEDS[deed]
    ours = session()
    send_ddl(f"DROP FUNCTION {FUNCTIONS[0]}")
    send_ddl(FAIL.format(statement))
    try:
        with pytest.raises(raised):
            pay(EVENT)
    finally:
        send_ddl(f"DROP FUNCTION {FUNCTIONS[0]}")
        change_routines(create=True)

    assert POOLED or (session() == ours) is (deed != "a killed session")
    assert_in_autocommit()
    assert_nothing_is_left()
    assert_executes_once()


def send_ddl(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


# --- the record ---


@by_procedures
def test_a_record_that_is_killed_after_its_commit(spoil, caplog):
    """The work is durable, nobody says that it was forgotten, and the retry replays it."""
    caplog.set_level("INFO", logger="django_idempotency")
    spoil(COMMITTING, "SET autocommit = 1;", KILL)

    with pytest.raises(DatabaseError):
        pay(EVENT)

    assert not caplog.records
    assert_in_autocommit()
    assert Payment.objects.count() == 1
    assert_executes_once()


@once("begin.pay_with_retries", key=lambda event: event["id"], retries=3)
def pay_with_retries(event: dict[str, Any]) -> int:
    runs.append(event["id"])
    return 5


runs: list[str] = []
UNKNOWN = {3100: "no majority", 2013: "connection lost", 1180: "Got error 5 - 'Input/output error' during COMMIT"}


@by_procedures
@pytest.mark.parametrize("has_committed", [True, False])
@pytest.mark.parametrize("number", UNKNOWN)
def test_a_commit_of_unknown_outcome_is_not_run_again(spoil, number, has_committed):
    """Not even with `retries`: the client's retry finds out."""
    runs.clear()
    spoil(COMMITTING, "SET autocommit = 1;" if has_committed else "COMMIT;", error(number, UNKNOWN[number]))

    with pytest.raises(DatabaseError) as unknown:
        pay_with_retries(EVENT)

    assert unknown.value.args[0] == number
    assert len(runs) == 1
    assert_in_autocommit()
    assert IdempotencyRecord.objects.count() == has_committed
    change_routines(create=True)
    assert pay_with_retries(EVENT) == 5
    assert len(runs) == (1 if has_committed else 2)


LOST_TO_RIVALS = {
    3101: "Plugin instructed the server to rollback the current transaction.",
    1180: "Got error 149 - 'Lock deadlock; Retry transaction' during COMMIT",
    1030: "Got error 153 - 'No savepoint with that name' from storage engine",
    1213: "Deadlock found when trying to get lock; try restarting transaction",
}


@by_procedures
@pytest.mark.parametrize("number", LOST_TO_RIVALS)
def test_a_commit_that_lost_to_a_rival_is_run_again(spoil, number):
    """As often as `retries` says; then the client is told to try again."""
    runs.clear()
    spoil(COMMITTING, "COMMIT;", error(number, LOST_TO_RIVALS[number]))

    with pytest.raises(TryAgain):
        pay_with_retries(EVENT)

    assert len(runs) == 4
    assert_in_autocommit()
    assert_nothing_is_left()


@by_procedures
def test_a_rival_rolls_us_back_while_the_record_is_written(spoil):
    """A group of servers may do that behind the release of the savepoint: the record finds the rival's row."""
    rivals = "UPDATE django_idempotency_record SET status = 200 WHERE digest = this_digest;"
    spoil(COMMITTING, "UPDATE django_idempotency_record", rivals)
    with pytest.raises(TryAgain):
        pay(EVENT)

    assert_nothing_is_left()
    change_routines(create=True)
    assert_executes_once()


@by_procedures
@pytest.mark.parametrize("deed", [KILL, error(1180), error(1213)])
def test_a_record_that_fails_before_its_commit(spoil, deed):
    """All is rolled back."""
    spoil(COMMITTING, "COMMIT;", deed)

    with pytest.raises((DatabaseError, TryAgain)):
        pay(EVENT)

    assert_in_autocommit()
    assert_nothing_is_left()
    change_routines(create=True)
    assert_executes_once()


@by_procedures
@pytest.mark.parametrize(
    "statement",
    ["COMMIT", "START TRANSACTION", "SET autocommit = 1", "ALTER TABLE app_unique COMMENT = 'altered'"],
)
def test_a_handler_that_ends_the_transaction(statement):
    """What it committed is unsettled; what it did afterwards is rolled back, unless it asked for autocommit itself."""
    with pytest.raises(CommittedEarly):
        pay({**EVENT, "statements": [statement]})

    assert_in_autocommit()
    amounts = sorted(Payment.objects.values_list("amount", flat=True))
    assert amounts == ([5, 6] if statement.startswith("SET") else [5])
    assert [record.status for record in IdempotencyRecord.objects.all()] == [0]


def test_a_handler_that_raises():
    """Nothing is left, and its retry executes."""
    with pytest.raises(Failed):
        pay({**EVENT, "fails": True})

    assert_in_autocommit()
    assert_nothing_is_left()
    assert_executes_once()


# --- where it is not ours ---


@pytest.fixture
def begun() -> Iterator[mock.Mock]:
    """The calls of the procedure that begins."""
    dialect: Any = stores["default"].dialect("default")
    with mock.patch.object(dialect, "begin", wraps=dialect.begin) as begun:
        yield begun


def test_inside_a_transaction_nothing_is_begun(begun):
    """Of `atomic`, or of a project that has turned autocommit off."""
    with transaction.atomic():
        pay({"id": "atomic"})
        transaction.set_rollback(True)
    connection.set_autocommit(False)
    try:
        pay({"id": "manual"})
        connection.rollback()
    finally:
        connection.set_autocommit(True)

    assert not begun.called
    assert_nothing_is_left()


@pytest.mark.skipif(IS_POSTGRESQL, reason="psycopg refuses atomic blocks there")
@pytest.mark.parametrize("fold", [True, False])
def test_a_transaction_that_was_begun_past_django(settings, fold):
    """A raw BEGIN: what it wrote is committed with the operation, and by a replay, with the option and without."""
    backend = "django_idempotency.stores.database.DatabaseStore"
    settings.IDEMPOTENCY = {"STORES": {"default": {"BACKEND": backend, "OPTIONS": {"FOLD": fold}}}}
    for amount in (1, 2):
        send("BEGIN")
        Payment.objects.create(amount=amount)
        assert pay(EVENT) == 5

    assert_in_autocommit()
    assert sorted(Payment.objects.values_list("amount", flat=True)) == [1, 2, 5]


def test_what_a_projects_wrapper_writes_is_in_the_transaction():
    """A journal of statements: the claim's entry is rolled back with all else."""
    written = []

    def journal(execute, sql, *args):
        if label(sql) == "claim":
            written.append(Unique.objects.create(name="a claim"))
        return execute(sql, *args)

    with connection.execute_wrapper(journal), pytest.raises(Failed):
        pay({**EVENT, "fails": True})

    assert len(written) == 1
    assert not Unique.objects.exists()
    assert_nothing_is_left()


def test_the_option_turns_it_off(settings):
    """`FOLD: False` takes the plain path."""
    backend = "django_idempotency.stores.database.DatabaseStore"
    settings.IDEMPOTENCY = {"STORES": {"default": {"BACKEND": backend, "OPTIONS": {"FOLD": False}}}}

    assert not stores["default"].dialect("default").begins
    assert_executes_once()


def test_a_store_that_claims_in_another_way_is_asked_inside():
    """A subclass with a claim of its own."""

    class Own(DatabaseStore):
        def claim(self, using, attempt):
            return super().claim(using, attempt)

    with mock.patch.dict(stores._made, {"default": Own("default", {})}):
        assert_executes_once()
        assert stores["default"].begin("default", mock.Mock()) is None


@by_procedures
@pytest.mark.parametrize("when", ["before", "while a process runs"])
@pytest.mark.parametrize("procedure", range(3))
def test_a_server_without_one_of_the_procedures(spoil, procedure, when):
    """That has those of an earlier release, or from which these are taken back."""
    if when == "while a process runs":
        assert stores["default"].dialect("default").begins
    send(DROP[procedure])

    assert_executes_once()
    assert_in_autocommit()


# --- the connection ---


@by_procedures
def test_nothing_outlives_the_request():
    """A pooler's next client finds the session as it was."""
    level = "tx_isolation" if connection.mysql_is_mariadb else "transaction_isolation"
    asked = f"SELECT @@autocommit, @@{level}, @@innodb_lock_wait_timeout, @@sql_mode"
    before = send(asked)
    assert_executes_once()
    with pytest.raises(Failed):
        pay({"id": "two", "fails": True})

    assert send(asked) == before
    ours = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = CONNECTION_ID()"
    assert send(ours) == (0,)


@pytest.mark.parametrize("usable", [True, False])
def test_a_health_check_comes_before_the_claim(monkeypatch, usable):
    """`CONN_HEALTH_CHECKS`: asked once, and a connection that fails it is replaced before anything is claimed."""
    ours = session()
    connection.health_check_enabled, connection.health_check_done = True, False
    try:
        with mock.patch.object(connection, "is_usable", return_value=usable) as asked:
            assert pay(EVENT) == 5
        assert asked.call_count == 1
    finally:
        connection.health_check_enabled = False

    assert POOLED or (session() == ours) is usable  # a pooler may give the new connection the same session
    assert_executes_once()
    assert_in_autocommit()


def test_a_new_connection_for_each_request():
    """`CONN_MAX_AGE = 0`."""
    for _ in range(3):
        connection.close()
        assert pay(EVENT) == 5
    connection.close()

    assert Payment.objects.count() == 1
    assert_in_autocommit()
