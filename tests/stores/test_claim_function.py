"""The claim as a routine of the server: the same claim, faster. Where the routine is missing, the statement serves."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import ProgrammingError, connection, transaction
from django.test.utils import CaptureQueriesContext

from django_idempotency import once
from django_idempotency.core.decision import Claimed, Completed, InFlight, Unsettled
from django_idempotency.core.keys import Attempt, Identity
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.migrations._routines import CreateRoutines
from django_idempotency.models import IdempotencyRecord
from django_idempotency.stores import stores
from django_idempotency.stores.database.dialects import dialect_for
from tests.app.models import Payment
from tests.lab.routines import BY_STATEMENTS, FIRST, UNCERTAIN, change_routines

pytestmark = pytest.mark.django_db(transaction=True)

IS_POSTGRESQL = connection.vendor == "postgresql"
needs_routines = pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no routines")
needs_postgresql = pytest.mark.skipif(not IS_POSTGRESQL, reason="roles and schemas as PostgreSQL has them")


@once("function.pay", key=lambda event: event)
def pay(event: str) -> int:
    Payment.objects.create(amount=5)
    return 5


def by_routine(dialect: Any) -> bool:
    return dialect.statements.by_function if IS_POSTGRESQL else dialect.by_procedure


@pytest.fixture
def routines() -> Iterator[None]:
    """The routines are there, and the store has not looked for them yet."""
    store: Any = stores["default"]
    store._dialects.clear()
    change_routines(create=False)  # a function that is replaced keeps what was granted and revoked
    change_routines(create=True)
    yield
    store._dialects.clear()
    change_routines(create=False)
    if not BY_STATEMENTS:
        change_routines(create=True)


def attempt(key: str = "one", ttl: float = 60) -> Attempt:
    return Attempt(identity=Identity("tests", "function", key), fingerprint=b"f" * 32, ttl=ttl)


@needs_routines
def test_this_run_takes_the_path_that_it_says():
    """The suite runs with the routines, and once more without: each on its own path."""
    assert by_routine(dialect_for(connection)) is not BY_STATEMENTS


@needs_postgresql
@pytest.mark.parametrize(("max_age", "wanted"), [(0, False), (60, True), (None, True)])
def test_a_connection_that_serves_one_request_gets_statements(routines, monkeypatch, max_age, wanted):
    """The server would parse the functions anew for each request."""
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", max_age)

    assert by_routine(dialect_for(connection)) is wanted


@needs_routines
def test_the_question_is_no_statement_of_a_request(routines):
    """A project that counts its statements counts the same for a process's first request and for all that follow."""
    counts = []
    for event in ("first", "second"):
        with CaptureQueriesContext(connection) as captured:
            pay(event)
        counts.append(len(captured))

    assert by_routine(stores["default"].dialect("default"))
    assert counts[0] == counts[1]


@needs_routines
@pytest.mark.parametrize("outer", [False, True], ids=["alone", "inside atomic"])
def test_routines_that_go_away_while_a_process_runs_cost_a_retry_at_most(routines, outer):
    """A migration that is taken back: the statement serves. Only an outer PostgreSQL transaction has to be retried."""
    assert pay("before") == 5
    change_routines(create=False)
    if outer and IS_POSTGRESQL:
        with pytest.raises(RequestInProgress), transaction.atomic():
            pay("after")
    with transaction.atomic() if outer else contextmanager(lambda: iter([None]))():
        assert pay("after") == 5

    assert not by_routine(stores["default"].dialect("default"))
    assert pay("after") == 5
    assert Payment.objects.count() == 2


@needs_routines
def test_a_record_routine_that_goes_away_alone_costs_a_retry_at_most(routines):
    """On PostgreSQL the execution under way fails and is rolled back; MariaDB's goes on with the statement."""
    name = "django_idempotency_complete_v1"
    drop = next(each for each in (*FIRST.DROP_POSTGRESQL, *FIRST.DROP_PROCEDURES) if name in each)
    if not IS_POSTGRESQL:
        stores["default"].dialect("default").begins = False  # the record that commits is in test_begin
    assert pay("before") == 5
    with connection.cursor() as cursor:
        cursor.execute(drop if IS_POSTGRESQL else f"DROP PROCEDURE {name}")
    if IS_POSTGRESQL:
        with pytest.raises(ProgrammingError):
            pay("after")
    assert pay("after") == pay("after") == 5

    assert not by_routine(stores["default"].dialect("default"))
    assert Payment.objects.count() == 2


@needs_routines
@pytest.mark.parametrize("routine", [True, False], ids=["routine", "statement"])
@pytest.mark.parametrize("ours", [True, False], ids=["claimed by a routine", "claimed by a statement"])
def test_both_spellings_find_each_others_claims_and_records(routines, other, ours, routine):
    """In flight, completed, expired, unsettled: whoever wrote it, whoever asks."""
    writer, reader = dialect_for(connection), dialect_for(other)
    for dialect, wanted in ((writer, ours), (reader, routine)):
        if not wanted:
            plain(dialect)
        assert by_routine(dialect) is wanted
    record = CompletionRecord(status=201, headers=(("X-One", "1"),), body=b"\x00body")

    with connection.cursor() as mine:
        with transaction.atomic():
            claim = writer.claim(mine, attempt())
            assert isinstance(claim, Claimed)
            with rolled_back(other) as theirs:
                assert isinstance(reader.claim(theirs, attempt()), InFlight)
            assert writer.complete(mine, attempt().identity.digest, claim, (201, record.head(), record.body))
        with rolled_back(other) as theirs:
            match reader.claim(theirs, attempt()):
                case Completed(found, fingerprint):
                    assert (found.status, found.headers, found.body) == (201, (("X-One", "1"),), b"\x00body")
                    assert fingerprint == b"f" * 32
                case result:
                    pytest.fail(f"{result} instead of the record")
        IdempotencyRecord.objects.update(status=0)
        with rolled_back(other) as theirs:
            assert isinstance(reader.claim(theirs, attempt()), Unsettled)
        IdempotencyRecord.objects.update(expires_at="2020-01-01T00:00:00Z")
        with rolled_back(other) as theirs:
            assert isinstance(reader.claim(theirs, attempt()), Unsettled)
        IdempotencyRecord.objects.update(uncertain_until="2020-01-01T00:00:00Z")
        with rolled_back(other) as theirs:
            assert isinstance(reader.claim(theirs, attempt()), Claimed)

    row = IdempotencyRecord.objects.get()
    assert (row.scope, row.operation, row.key, row.status) == ("tests", "function", "one", 0)


def plain(dialect: Any) -> None:
    if IS_POSTGRESQL:
        dialect.statements = dialect.PLAIN
    else:
        dialect.by_procedure = False


@pytest.fixture
def other() -> Iterator[Any]:
    """A second connection to the same database."""
    copy = connection.copy()
    yield copy
    copy.close()


@contextmanager
def rolled_back(other: Any) -> Iterator[Any]:
    """A cursor in a transaction of *other*, of which nothing is left."""
    other.set_autocommit(False)
    with other.cursor() as cursor:
        yield cursor
    other.rollback()
    other.set_autocommit(True)


@needs_routines
def test_the_migration_shows_its_sql_and_can_be_taken_back(routines):
    """`sqlmigrate` shows the DBA what will run; backwards, nothing of it is left."""
    out = StringIO()
    is_mysql = not IS_POSTGRESQL and not connection.mysql_is_mariadb
    call_command("sqlmigrate", "django_idempotency", "0004" if is_mysql else "0002", stdout=out)
    assert "django_idempotency_claim_v1" in out.getvalue()
    assert by_routine(dialect_for(connection))
    change_routines(create=False)
    assert not by_routine(dialect_for(connection))


def test_a_migration_for_another_product_does_nothing():
    """The same migration runs on every database."""
    with connection.schema_editor() as editor, CaptureQueriesContext(connection) as captured:
        CreateRoutines("another", ["nonsense"], ["nonsense"]).database_forwards(
            "django_idempotency", editor, None, None
        )

    assert not [query for query in captured.captured_queries if "nonsense" in query["sql"]]


@pytest.fixture
def role(request: pytest.FixtureRequest) -> Iterator[str]:
    """A role that may use the table, and nothing else."""
    name = f"{connection.settings_dict['NAME']}_role"
    with connection.cursor() as cursor:
        cursor.execute(f'CREATE ROLE "{name}"')
        cursor.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "{name}"')
        cursor.execute(f'GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO "{name}"')
        cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        yield name
        cursor.execute("RESET ROLE")
        cursor.execute(f'DROP OWNED BY "{name}"')
        cursor.execute(f'DROP ROLE "{name}"')


@needs_postgresql
def test_who_may_not_create_functions_is_told_and_served_by_statements(role, caplog, routines):
    """The migration goes on, with a warning; the store finds nothing, and works."""
    change_routines(create=False)
    with connection.cursor() as cursor:
        cursor.execute(f'SET ROLE "{role}"')
        change_routines(create=True)
        assert "Plain statements serve in their place" in caplog.text
        assert pay("one") == pay("one") == 5
        assert not by_routine(stores["default"].dialect("default"))

    assert Payment.objects.count() == 1


@needs_postgresql
@pytest.mark.parametrize("found_before", [False, True], ids=["never", "taken back while a process runs"])
def test_who_may_not_execute_the_functions_is_served_by_statements(role, routines, found_before):
    """A function that is there but not ours to call is as good as none; a claim that finds out starts again."""
    functions = [
        statement.partition("EXISTS ")[2] for statement in (*FIRST.DROP_POSTGRESQL, *UNCERTAIN.DROP_POSTGRESQL)
    ]
    with connection.cursor() as cursor:
        if found_before:
            cursor.execute(f'SET ROLE "{role}"')
            assert pay("before") == 5
            assert by_routine(stores["default"].dialect("default"))
            cursor.execute("RESET ROLE")
        for function in functions:
            cursor.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
        cursor.execute(f'SET ROLE "{role}"')
        assert pay("after") == pay("after") == 5
        assert not by_routine(stores["default"].dialect("default"))

    assert Payment.objects.count() == 1 + found_before


def test_the_look_up_is_by_primary_key():
    """An unknown outcome does not expire: that is asked of the one row, not of an index of times."""
    pay("one")
    digest = bytes(IdempotencyRecord.objects.get().digest)
    IdempotencyRecord.objects.bulk_create(
        IdempotencyRecord(
            digest=bytes([number // 256, number % 256]) * 16, scope="s", operation="o", key=str(number),
            fingerprint=b"f" * 32, executed_at="2020-01-01T00:00:00Z", expires_at="2020-01-01T00:00:00Z",
        )
        for number in range(2000)
    )  # fmt: skip
    explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    if connection.vendor == "mysql" and not connection.mysql_is_mariadb:
        explain = "EXPLAIN FORMAT=TRADITIONAL"
    with connection.cursor() as cursor:
        if IS_POSTGRESQL:
            cursor.execute("ANALYZE django_idempotency_record")
        cursor.execute(f"{explain} {dialect_for(connection).FIND}", (digest,))
        plan = str(cursor.fetchall())

    keys = {"postgresql": "django_idempotency_record_pkey", "sqlite": "(digest=?)", "mysql": "PRIMARY"}
    assert keys[connection.vendor] in plan


@needs_postgresql
def test_plans_that_were_made_for_a_small_table_do_not_read_a_large_one(routines):
    """A connection keeps the functions' plans; the table grows under them."""
    scans = "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'django_idempotency_record'"
    assert [pay(f"small-{number}") for number in range(8)] == [5] * 8
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE django_idempotency_record")
        assert [pay(f"analyzed-{number}") for number in range(8)] == [5] * 8
        dialect = dialect_for(connection)
        for key in ("large", "large", "other"):
            with transaction.atomic():
                cursor.execute(scans)
                before = cursor.fetchone()
                dialect.claim(cursor, attempt(key))
                cursor.execute(scans)
                assert (cursor.fetchone() or (0,)) == (before or (0,))


@needs_postgresql
def test_the_function_writes_to_the_table_that_the_search_path_names(routines, other):
    """Tenants in schemas: one function serves each one's table, under each one's lock, whatever its plans remember."""
    ours, theirs = dialect_for(connection), dialect_for(other)
    with connection.cursor() as mine, other.cursor() as second:
        mine.execute("CREATE SCHEMA tenant; CREATE TABLE tenant.django_idempotency_record"
                     " (LIKE public.django_idempotency_record INCLUDING ALL)")  # fmt: skip
        try:
            with transaction.atomic():
                assert isinstance(ours.claim(mine, attempt()), Claimed)
                for path, result in (("public", InFlight), ("tenant, public", Claimed), ("public", InFlight)):
                    second.execute(f"SET search_path TO {path}")
                    with rolled_back(other) as cursor:
                        assert isinstance(theirs.claim(cursor, attempt()), result)
                        cursor.execute("SELECT count(*) FROM tenant.django_idempotency_record")
                        assert cursor.fetchone() == (1 if result is Claimed else 0,)
                transaction.set_rollback(True)
        finally:
            mine.execute("DROP SCHEMA tenant CASCADE")
    assert not IdempotencyRecord.objects.exists()
