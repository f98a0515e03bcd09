"""Counts of decisions: exact, written after the response, harmless wherever they cannot be."""

import subprocess
import sys
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync
from asgiref.testing import ApplicationCommunicator
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.mail.backends import locmem
from django.db import connection, connections, transaction
from django.test import Client, RequestFactory
from django.test import utils as test_utils
from django.test.utils import CaptureQueriesContext

from django_idempotency import conf, exceptions, once
from django_idempotency.exceptions import PolicyError
from django_idempotency.models import DecisionCount, IdempotencyRecord, StorageSample
from django_idempotency.operations import counts as statistics
from django_idempotency.operations import table_size, tally
from tests.app.models import Payment
from tests.app.serving import TIMEOUT, VENDOR, plain, post, without_table
from tests.app.views import answer, make_payment
from tests.operations.counting import totals
from tests.operations.records import live

ROOT = Path(__file__).resolve().parents[2]
OPERATION = "POST act/"


@pytest.fixture
def anonymous():
    return Client(raise_request_exception=False)


# --- what is counted ---


def test_each_column_is_in_the_table_and_each_refusal_has_a_column():
    """But key-expired and try-again, of the others, and those of requests without an identity, nobody's decisions."""
    fields = {field.name for field in DecisionCount._meta.fields} - {"pk", "hour", "operation"}
    codes = {error.code for error in vars(exceptions).values() if isinstance(getattr(error, "code", None), str)}

    assert fields == set(statistics.COLUMNS)
    without_identity = {"body-incomplete", "key-invalid", "key-missing", "length-required", "receipt-unavailable"}
    decisions = {"executed", "replayed", "forgotten", "unsettled"}
    assert codes - without_identity - {"key-expired", "try-again"} == set(statistics.OF_DECISION) - decisions
    assert set(tally.OBSERVATIONS) <= set(statistics.POSITIONS)


@pytest.mark.django_db(transaction=True)
def test_each_decision_is_counted_in_its_column(counter, anonymous, serve, background, gate):
    """Under its operation, and once."""

    def handler(request):
        if request.idempotency.key == "refused":
            return answer(request, {}, 400)
        if request.idempotency.key == "slow":
            gate.wait()
        if request.idempotency.key == "commits" and connection.vendor == "mysql":
            connection.cursor().execute("CREATE TABLE IF NOT EXISTS away (x INT)")  # commits, as DDL does there
        elif request.idempotency.key == "commits":
            make_payment(request)
            connection.cursor().execute("COMMIT")
        return make_payment(request)

    serve(plain(handler))
    post(anonymous, key="1")
    post(anonymous, key="1")
    post(anonymous, key="1")
    post(anonymous, {"amount": 11}, key="1")
    post(anonymous, key="refused")
    assert post(anonymous, key="commits").status_code == 500
    assert post(anonymous, key="commits").json()["code"] == "outcome-unknown"
    post(anonymous, key="2")
    expected = {
        "executions": 2,
        "replays": 2,
        "mismatches": 1,
        "forgotten": 1,
        "unsettled": 1,
        "unknown_outcomes": 1,
    }
    if VENDOR != "sqlite":  # where a duplicate waits
        slow = background(post, Client(), key="slow")
        gate.reached()
        assert post(anonymous, key="slow").status_code == 409
        gate.open()
        slow.result(TIMEOUT)
        expected |= {"executions": 3, "conflicts": 1}
    if VENDOR == "mariadb":
        connection.cursor().execute("DROP TABLE away")

    assert totals() == totals(operation=OPERATION) == expected
    assert not counter.tally.rows


@pytest.mark.django_db(transaction=True)
def test_a_refusal_without_a_column_is_counted_too(counter):
    """Codes may come that the table does not know yet."""
    statistics.count("default", OPERATION, "key-expired")
    assert totals() == {"other_refusals": 1}


@pytest.mark.django_db(transaction=True)
def test_the_hour_is_that_of_utc(counter, monkeypatch):
    """By the process's clock, whatever TIME_ZONE says."""
    moment = datetime(2026, 3, 29, 1, 59, 59, tzinfo=UTC)
    monkeypatch.setattr(statistics.time, "time", moment.timestamp)

    statistics.count("default", OPERATION, "executed")

    (count,) = DecisionCount.objects.all()
    assert count.begins_at == datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert str(count) == "POST act/, 2026-03-29 01:00 UTC"
    assert DecisionCount.objects.since(count.hour).exists()
    assert not DecisionCount.objects.before(count.hour).exists()


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_counts_are_where_the_records_are(counter, anonymous, serve):
    """Each database of a sharded project has its own, and its own samples of storage."""
    serve(plain(make_payment, using="other"))
    post(anonymous)
    assert DecisionCount.objects.using("other").get().executions == 1
    assert StorageSample.objects.using("other").get().records == 1
    assert not totals()
    assert not samples()


@pytest.mark.django_db(transaction=True)
def test_execution_inside_a_transaction_counts_when_that_has_committed(counter, anonymous, serve):
    """What an outer block rolls back was no execution."""
    serve(plain(make_payment))

    with transaction.atomic():
        post(anonymous, key="kept")
        assert not counter.tally.rows
    with transaction.atomic():
        post(anonymous, key="gone")
        transaction.set_rollback(True)
    counter.flush()

    assert totals() == {"executions": 1}


@pytest.mark.django_db(transaction=True)
def test_operations_that_differ_in_case_are_two(counter):
    """Whatever a database's collation takes for equal."""
    for operation in ("POST pay/", "POST Pay/", "POST páy/"):
        statistics.count("default", operation, "executed")
        statistics.count("default", operation, "executed")
    assert sorted(DecisionCount.objects.values_list("operation", "executions")) == [
        ("POST Pay/", 2),
        ("POST pay/", 2),
        ("POST páy/", 2),
    ]


# --- when they are written ---


@pytest.mark.django_db(transaction=True)
def test_no_statement_before_the_response_has_been_sent(counter, serve):
    """The upsert comes when the server closes the response, and is the only statement then, but once in an hour."""
    serve(plain(make_payment))
    post(Client())  # with which the process takes its sample of storage
    environ = RequestFactory().post(
        "/act/", {"amount": 1}, content_type="application/json", headers={"Idempotency-Key": "1"}
    ).environ  # fmt: skip
    connection.ensure_connection()

    with CaptureQueriesContext(connection) as before:
        response = WSGIHandler()(environ, lambda *args: None)
        b"".join(response)
    with CaptureQueriesContext(connection) as after:
        response.close()

    assert len(before) >= 3
    assert not any("idempotency_count" in query["sql"] for query in before)
    assert [query["sql"][:36] for query in after] == ["INSERT INTO django_idempotency_count"]
    assert totals() == {"executions": 2}


@pytest.mark.django_db(transaction=True)
def test_under_asgi(counter, serve, monkeypatch):
    """There too they are written when the response has been sent, on the request's own thread."""
    threads = []

    def handler(request):
        threads.append(threading.get_ident())
        return make_payment(request)

    def write(*args, write=statistics.write):
        threads.append(threading.get_ident())
        return write(*args)

    serve(plain(handler))
    monkeypatch.setattr(statistics, "write", write)
    # The handler's thread ends with the request, and its connection with it.
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 0)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/act/",
        "headers": [(b"host", b"testserver"), (b"idempotency-key", b"1"), (b"content-type", b"application/json")],
    }

    async def ask():
        communicator = ApplicationCommunicator(ASGIHandler(), scope)
        await communicator.send_input({"type": "http.request", "body": b'{"amount": 1}'})
        start = await communicator.receive_output(TIMEOUT)
        await communicator.wait(TIMEOUT)
        return start["status"]

    assert async_to_sync(ask)() == 201
    assert totals() == {"executions": 1}
    assert len(threads) == 2
    assert len(set(threads)) == 1


@pytest.mark.django_db(transaction=True)
def test_not_more_often_than_the_interval(counter, anonymous, serve, monkeypatch):
    """What comes in between is kept in memory, and written with what comes after."""
    now = [1000.0]
    monkeypatch.setattr(statistics, "INTERVAL", 5.0)
    monkeypatch.setattr(statistics.time, "monotonic", lambda: now[0])
    serve(plain(make_payment))

    seen = []
    for seconds in (0, 1, 3.5, 1):
        now[0] += seconds
        post(anonymous)
        seen.append(sum(totals().values()))

    assert seen == [1, 1, 1, 4]


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_was_opened_to_write_is_closed(counter, monkeypatch):
    """Django closes a request's connection before: one that we open has nobody else to close it."""
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", 0)
    counter.serves_requests = True
    statistics.count("default", OPERATION, "executed")
    connection.close()

    statistics._after_response()

    assert connection.connection is None
    assert totals() == {"executions": 1}
    statistics.count("default", OPERATION, "executed")
    statistics._after_response()
    assert connection.connection is not None
    assert totals() == {"executions": 2}


@once("counts.event", key=lambda event: event["id"])
def consume(event):
    return Payment.objects.create(amount=event["amount"]).amount


@pytest.mark.django_db(transaction=True)
def test_a_worker_writes_after_a_decision(counter):
    """It serves no request that could be finished; not inside a transaction of its own."""
    consume({"id": 1, "amount": 10})
    assert totals() == {"executions": 1}

    with transaction.atomic():
        consume({"id": 1, "amount": 10})
        assert totals() == {"executions": 1}
    consume({"id": 1, "amount": 10})
    assert totals() == {"executions": 1, "replays": 2}
    assert DecisionCount.objects.get().operation == "counts.event"


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_a_worker_writes_nothing_inside_a_handler(counter, caplog):
    """Nor to another database, which might let the outer claim wait: what it writes is no work of the handler's."""
    counter.tally.add(("other", None), OPERATION, 0)

    @once("counts.outer", key=str)
    def outer(event):
        consume({"id": 1, "amount": 10})
        consume({"id": 1, "amount": 10})
        assert not statistics.flush()
        with CaptureQueriesContext(connections["other"]) as captured:
            consume({"id": 1, "amount": 10})
        assert not captured.captured_queries
        assert not DecisionCount.objects.using("other").exists()

    counter._due = float("inf")
    consume({"id": 1, "amount": 10})
    counter._due = 0.0
    outer(1)

    assert not [record for record in caplog.records if "other" in record.getMessage()]
    assert DecisionCount.objects.using("other").get().executions == 1
    assert totals(operation="counts.event") == {"executions": 1, "replays": 3}
    assert totals(operation="counts.outer") == {"executions": 1}


@pytest.mark.django_db(transaction=True)
def test_a_process_that_serves_requests_writes_only_after_them(counter, serve, anonymous):
    """A decision of `@once` inside a view is part of a request."""

    def handler(request):
        consume({"id": 1, "amount": 10})
        assert not totals()
        return make_payment(request)

    serve(handler)
    post(anonymous)
    assert totals() == {"executions": 1}


if VENDOR == "postgresql":

    @pytest.mark.django_db(transaction=True)
    def test_parameters_bound_by_the_server(counter, monkeypatch):
        """The option `server_side_binding` gives every value a type."""
        monkeypatch.setitem(connection.settings_dict["OPTIONS"], "server_side_binding", True)
        connection.close()
        for operation in ("a", "b"):
            counter.tally.add(("default", None), operation, 0)
        counter.flush()
        connection.close()
        assert totals() == {"executions": 2}


# --- what may go wrong ---


@pytest.mark.django_db(transaction=True)
def test_a_missing_table_harms_no_request_and_loses_nothing(counter, anonymous, serve, caplog):
    """It is said once, with the remedy, and what was counted meanwhile is written later."""
    serve(plain(make_payment))
    with without_table("django_idempotency_count"):
        assert [post(anonymous).status_code for _ in range(3)] == [201] * 3
        assert not statistics.flush()
    lines = [record.getMessage() for record in caplog.records if "Counts" in record.getMessage()]

    assert len(lines) == 1
    assert "manage.py migrate" in lines[0]
    assert post(anonymous).status_code == 201
    assert totals() == {"executions": 1, "replays": 3}


@pytest.mark.django_db(transaction=True)
def test_a_failure_is_not_repeated_at_each_request(counter, anonymous, serve, monkeypatch):
    """The next attempt is a longer while later: each would be a line in the server's log."""
    monkeypatch.setattr(statistics, "PAUSE", 1e9)
    attempts = []
    write = statistics.write
    monkeypatch.setattr(statistics, "write", lambda using, rows: attempts.append(using) or write(using, rows))
    serve(plain(make_payment))
    with without_table("django_idempotency_count"):
        for _ in range(3):
            post(anonymous)
    assert attempts == ["default"]


@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_away_is_counted_when_it_is_back(counter, anonymous, serve, monkeypatch):
    """503 `store-unavailable` is a decision too, of which the database cannot know yet."""
    serve(plain(make_payment))
    connection.close()
    settings = connections["default"].settings_dict
    with monkeypatch.context() as patch:
        if VENDOR == "sqlite":
            patch.setitem(settings, "NAME", "/nowhere/at/all.sqlite3")
        else:
            patch.setitem(settings, "PORT", "1")
        assert post(anonymous).status_code == 503
        assert counter.tally.rows
        connection.close()

    assert statistics.flush()
    assert totals() == {"unavailable": 1}


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_a_worker_that_is_told_to_end_keeps_the_counts_of_all_databases(counter, monkeypatch):
    """Those too whose turn had not come."""
    counter.tally.add(("default", None), OPERATION, 0)
    counter.tally.add(("other", None), OPERATION, 0)

    def upsert(*args):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(statistics, "upsert", upsert)
        with pytest.raises(SystemExit):
            counter.flush()

    assert counter.flush()
    assert totals() == {"executions": 1}
    assert DecisionCount.objects.using("other").get().executions == 1


@pytest.mark.django_db(transaction=True)
def test_without_autocommit_it_is_said_that_nothing_can_be_written(counter, monkeypatch, caplog):
    """Once: there a transaction is always open. What found room is kept, and nothing but that."""
    monkeypatch.setattr(tally, "MAX_ROWS", 1)
    with monkeypatch.context() as patch:
        patch.setitem(connection.settings_dict, "AUTOCOMMIT", False)
        connection.close()
        for _ in range(3):
            consume({"id": 1, "amount": 10})
            connection.commit()
        statistics.count("default", OPERATION, "executed")
        assert not statistics.flush()
        assert not connection.run_on_commit
        connection.close()
    lines = [record.getMessage() for record in caplog.records if "Counts" in record.getMessage()]

    assert len(lines) == 1
    assert "AUTOCOMMIT" in lines[0]
    assert statistics.flush()
    assert totals() == totals(operation="counts.event") == {"executions": 1, "replays": 2}


def test_memory_is_bounded(counter, monkeypatch, caplog):
    """Of what cannot be written, so many rows are kept; how much was dropped is said."""
    monkeypatch.setattr(tally, "MAX_ROWS", 3)
    monkeypatch.setattr(statistics, "write", lambda using, rows: False)
    for number in range(5):
        counter.tally.add(("default", None), f"operation {number}", 0)
        counter.tally.add(("default", None), "operation 0", 0)

    counter.flush()
    counter.tally.add(("default", None), "operation 4", 0)
    counter.flush()

    assert {operation: row[0] for (_, _, operation), row in counter.tally.rows.items()} == {
        "operation 0": 6,
        "operation 1": 1,
        "operation 2": 1,
    }
    assert [record.args[0] for record in caplog.records if "not counted" in record.getMessage()] == [2, 1]


def test_operations_without_end_are_counted_as_other(counter, monkeypatch):
    """A callable may name a new one for each request: the table must not grow by each. The next hour begins anew."""
    monkeypatch.setattr(tally, "MAX_OPERATIONS", 2)
    now = [0]
    monkeypatch.setattr(statistics.time, "time", lambda: now[0])
    for operation in "abcda":
        counter.tally.add(("default", None), operation, 0)
    now[0] = statistics.HOUR
    counter.tally.add(("default", None), "d", 0)

    assert {key: row[0] for key, row in counter.tally.rows.items()} == {
        (("default", None), 0, "a"): 2,
        (("default", None), 0, "b"): 1,
        (("default", None), 0, tally.OTHER): 2,
        (("default", None), 1, "d"): 1,
    }


@pytest.mark.django_db(transaction=True)
def test_names_that_are_cut_alike_are_one_row(counter):
    """PostgreSQL refuses an upsert that meets one row twice."""
    counter.tally.add(("default", None), "a" * 300, 0)
    counter.tally.add(("default", None), "a" * 301, 0)
    assert counter.flush()
    assert DecisionCount.objects.get().executions == 2


def test_threads_count_exactly(counter):
    """No addition is lost between two of them."""
    barrier = threading.Barrier(8)

    def add():
        barrier.wait(TIMEOUT)
        for _ in range(2000):
            counter.tally.add(("default", None), OPERATION, 0)

    threads = [threading.Thread(target=add) for _ in range(8)]
    taken = Counter()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken.update({key: row[0] for key, row in counter.tally.take()[0].items()})
    taken.update({key: row[0] for key, row in counter.tally.take()[0].items()})

    assert taken.total() == 8 * 2000


# --- processes ---


@pytest.mark.race
def test_processes_that_end_leave_exact_sums(transactional_db):
    """Three at once on the same rows, each a fork of one that had counted already; the last counts at its exit."""
    command = [sys.executable, "-m", "tests.operations.counting", str(connection.settings_dict["NAME"]), "3", "10"]

    subprocess.run(command, cwd=ROOT, check=True, timeout=TIMEOUT * 3)

    assert totals() == {"executions": 3 * 10 + 1, "replays": 3 * 10 + 3}


# --- silence ---


def test_a_test_run_is_told_by_what_only_a_test_run_does(monkeypatch):
    """Not by `mail.outbox`, which any process has that makes a `locmem` backend; nor by an import of Django's tools."""
    locmem.EmailBackend()
    assert statistics.is_under_test()
    monkeypatch.delattr(test_utils._TestState, "saved_data")
    assert not statistics.is_under_test()
    monkeypatch.delattr(test_utils, "_TestState")  # as while another thread imports it
    assert not statistics.is_under_test()
    monkeypatch.delitem(sys.modules, "django.test.utils")
    assert not statistics.is_under_test()


@pytest.mark.django_db
def test_a_test_case_sees_nothing(anonymous, serve, django_capture_on_commit_callbacks, django_assert_num_queries):
    """No statement, no hook, nothing in memory: a project's tests count their queries and their hooks."""
    serve(plain(make_payment))
    with (
        django_capture_on_commit_callbacks(execute=True) as callbacks,
        django_assert_num_queries(6 if VENDOR == "sqlite" else 5),  # 5 or 4, as the manual says, and the payment
    ):
        post(anonymous)

    assert callbacks == []
    assert not statistics.counter.tally.rows


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_the_switch_is_checked(settings, value):
    """With all else in the setting, at start-up."""
    settings.IDEMPOTENCY = {"COUNTS": value}
    with pytest.raises(PolicyError, match="COUNTS"):
        conf.project_options()


# --- storage ---


@pytest.fixture
def clock(monkeypatch):
    """The time, of which tests may make any other."""
    now = [datetime(2026, 3, 1, 12, 30, tzinfo=UTC)]
    monkeypatch.setattr(statistics.time, "time", lambda: now[0].timestamp())
    return now


def samples():
    return list(StorageSample.objects.order_by("hour").values_list("hour", "records"))


@pytest.mark.django_db(transaction=True)
def test_storage_is_sampled_with_the_first_counts_of_an_hour(counter, anonymous, serve, clock):
    """Not again in the same hour, whatever has been stored since."""
    serve(plain(make_payment))
    hour = statistics.hour_of(clock[0].timestamp())

    post(anonymous, key="1")
    post(anonymous, key="2")
    assert samples() == [(hour, 1)]
    clock[0] += timedelta(hours=1)
    post(anonymous, key="3")
    assert samples() == [(hour, 1), (hour + 1, 3)]

    first, second = StorageSample.objects.order_by("hour")
    assert first.begins_at == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert str(second) == "2026-03-01 13:00 UTC"
    assert (first.size is None) == (VENDOR == "sqlite")
    assert first.size is None or first.size > 0
    table_size.sample("default", hour)  # by another process: the last sample of an hour stays
    assert samples() == [(hour, 3), (hour + 1, 3)]


@pytest.mark.django_db(transaction=True)
def test_a_sample_is_no_part_of_an_open_transaction(counter, clock):
    """Nor one of the purge that a test runs inside of one."""
    with transaction.atomic():
        statistics.sample("default")
    assert not samples()
    statistics.sample("default")
    assert samples() == [(statistics.hour_of(clock[0].timestamp()), 0)]


@pytest.mark.django_db(transaction=True)
def test_a_sample_that_fails_harms_nothing(counter, anonymous, serve, caplog):
    """Counts are written once all the same, the log says why, and the next attempt is an hour later."""
    serve(plain(make_payment))
    with without_table("django_idempotency_storage"):
        assert [post(anonymous).status_code for _ in range(3)] == [201] * 3
    assert totals() == {"executions": 1, "replays": 2}
    (line,) = [record.getMessage() for record in caplog.records if "sampled" in record.getMessage()]
    assert "django_idempotency_storage" in line


@pytest.mark.django_db(transaction=True)
def test_many_records_are_not_counted(monkeypatch):
    """A server's own estimate serves, and where there is none counting stops somewhere."""
    live(7)
    assert table_size.measure("default").records == 7
    monkeypatch.setattr(table_size, "COUNTED", 4)
    monkeypatch.setattr(table_size, "COUNTED_WITHOUT_ESTIMATE", 5)
    if VENDOR != "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"ANALYZE {'TABLE' if VENDOR == 'mariadb' else ''} django_idempotency_record")

    with CaptureQueriesContext(connection) as captured:
        many = table_size.measure("default")

    assert (many.records, many.is_estimate) == (5 if VENDOR == "sqlite" else 7, True)
    counting = [query["sql"] for query in captured if "COUNT" in query["sql"]]
    assert len(counting) == (VENDOR == "sqlite")
    assert all("LIMIT 6" in sql for sql in counting)


@pytest.mark.django_db(transaction=True)
def test_without_counts_there_are_no_samples_either(counter, settings, monkeypatch, anonymous, serve):
    """`COUNTS` in the setting switches off both."""
    with monkeypatch.context() as patch:
        patch.setattr(statistics, "is_under_test", lambda: True)
        statistics.sample("default")
    settings.IDEMPOTENCY = {"COUNTS": False}
    statistics.sample("default")
    serve(plain(make_payment))
    post(anonymous)
    assert IdempotencyRecord.objects.count() == 1
    assert not totals()
    assert not counter.tally.rows
    assert not samples()


# --- the end of counts ---
