"""Observe mode: everything runs as before, nothing is answered, and what atomic mode would have done is counted."""

import logging
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection, transaction
from django.http import FileResponse, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext

from django_idempotency import current_operation, idempotent, once
from django_idempotency.core.keys import KEY_FIELD, Identity
from django_idempotency.core.observation import TOLERANCE
from django_idempotency.models import DatabaseNow, DecisionCount, IdempotencyRecord, ObservedRun
from django_idempotency.operations import observations, purging
from django_idempotency.protection import by_default, observing
from tests.app.models import Payment, Unique
from tests.app.serving import TIMEOUT, VENDOR, is_replay, plain, post, without_table
from tests.app.views import Mixed, answer, make_payment
from tests.edges.test_streams import FORM, CutOff
from tests.lab.caches import NOWHERE, cache
from tests.operations.counting import totals

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).resolve().parents[2]
OPERATION = "POST act/"
TWICE = {"observed": 2, "would_replay": 1, "ran_twice": 1}
MIDDLEWARE = "django_idempotency.middleware.IdempotencyMiddleware"


@pytest.fixture(autouse=True)
def _observe(settings, counter, monkeypatch):
    """The whole project observes, as outside of tests, and says anew what it says once."""
    settings.IDEMPOTENCY = {"MODE": "observe"}
    monkeypatch.setattr(observations, "_resumes_at", 0.0)
    monkeypatch.setattr(observations, "_failed", set())
    observing.warned.clear()
    by_default._said.clear()


@pytest.fixture
def anonymous():
    return Client(raise_request_exception=False)


# --- what is observed ---


def test_a_duplicate_runs_and_is_counted(protect, client, serve, atomic_requests, caplog):
    """In DRF and in Django, with and without ATOMIC_REQUESTS. No record is written, and no replay is sent."""
    serve(protect(make_payment))

    with caplog.at_level(logging.INFO, "django_idempotency"):
        first, second = post(client), post(client)

    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() != second.json()
    assert not is_replay(second)
    assert not IdempotencyRecord.objects.exists()
    assert totals() == totals(operation=OPERATION) == TWICE
    (line,) = [record for record in caplog.records if "ran twice" in record.getMessage()]
    assert line.levelname == "WARNING"
    assert "key-1" not in line.getMessage()


def test_each_decision_is_counted_in_its_column(anonymous, serve, caplog):
    """Runs without an effect are no first runs. What names no identity is counted, too."""

    def handler(request):
        if "status" in request.GET:
            return answer(request, {}, int(request.GET["status"]))
        return make_payment(request)

    serve(plain(handler, required=True, key_format="[0-9]+"))
    statuses = []
    with caplog.at_level(logging.INFO, "django_idempotency"):
        for key, data, query in [
            ("1", {"amount": 10}, "?status=422"),  # no effect
            ("1", {"amount": 10}, ""),
            ("1", {"amount": 10}, "?status=422"),  # another query: a mismatch
            ("1", {"amount": 11}, ""),  # a mismatch
            (None, {"amount": 10}, ""),
            ("x", {"amount": 10}, ""),
            ("1", {"amount": "no number"}, ""),  # raises; a mismatch
            ("1", {"amount": 10}, ""),  # a duplicate
        ]:
            statuses.append(post(anonymous, data, f"/act/{query}", key=key).status_code)

    assert statuses == [422, 201, 422, 201, 201, 201, 500, 201]
    assert totals() == {"observed": 6, "would_mismatch": 3, "would_refuse": 2, "would_replay": 1, "ran_twice": 1}
    said = " ".join(record.getMessage() for record in caplog.records)
    assert all(code in said for code in ("key-missing", "key-invalid", "key-reused"))


def test_a_duplicate_that_was_refused_by_the_handler_did_not_run_twice(anonymous, serve):
    """Its client got a 409 of the handler's in the place of its answer."""

    def handler(request):
        if Payment.objects.exists():
            return answer(request, {}, 409)
        return make_payment(request)

    serve(plain(handler))
    assert [post(anonymous).status_code for _ in range(2)] == [201, 409]
    assert totals() == {"observed": 2, "would_replay": 1}


@pytest.mark.parametrize("atomic_requests", [True], indirect=True)
def test_what_was_rolled_back_had_no_effect(atomic_requests, anonymous, serve):
    """Though the handler answered 201. What comes after it is the first run."""

    def handler(request):
        response = make_payment(request)
        transaction.set_rollback(request.idempotency.key == "gone")
        return response

    serve(plain(handler))
    assert [post(anonymous, key="gone").status_code for _ in range(2)] == [201, 201]
    assert totals() == {"observed": 2}
    assert not Payment.objects.exists()
    assert not ObservedRun.objects.exists()


def test_what_could_not_be_stored_is_sent_and_counted(anonymous, serve, template):
    """Streams are not read, templates are rendered when Django renders them."""
    serve(plain(lambda request: StreamingHttpResponse(iter([b"a", b"b"]))))
    assert post(anonymous, key="stream").getvalue() == b"ab"
    serve(plain(lambda request: HttpResponse(b"x" * 11), max_body=10))
    assert post(anonymous, key="large").content == b"x" * 11
    serve(plain(lambda request: TemplateResponse(request, template, {"name": "y" * 10}), max_body=10))
    assert post(anonymous, key="template").content == b"y" * 10
    assert totals() == {"observed": 3, "would_refuse": 2}
    assert {bytes(each).hex() for each in ObservedRun.objects.values_list("digest", flat=True)} == {
        str(Identity("anonymous", OPERATION, key)) for key in ("stream", "large", "template")
    }


@pytest.mark.parametrize(
    "options", [{}, {"store_body": False}, {"record": lambda *args: 1, "replay": lambda *args: HttpResponse()}]
)
def test_a_file_is_stored(anonymous, serve, options):
    """Whatever of it is stored."""
    serve(plain(lambda request: FileResponse(BytesIO(b"file")), **options))
    assert post(anonymous).getvalue() == b"file"
    assert totals() == {"observed": 1}


@pytest.fixture
def template():
    return engines["django"].from_string("{{ name }}")


def test_after_the_ttl_a_key_is_new_again_and_a_purge_forgets_its_run(anonymous, serve):
    """By the database's clock."""
    serve(plain(make_payment))
    post(anonymous)
    ObservedRun.objects.update(expires_at=DatabaseNow())
    post(anonymous)
    assert totals() == {"observed": 2}
    post(anonymous)
    assert totals() == {"observed": 3, "would_replay": 1, "ran_twice": 1}

    ObservedRun.objects.update(expires_at=DatabaseNow())
    post(anonymous, key="live")
    purging.purge()

    assert [str(run) for run in ObservedRun.objects.all()] == [str(Identity("anonymous", OPERATION, "live"))]


def test_nothing_that_was_observed_is_ever_answered(anonymous, serve, settings):
    """When the mode has become atomic, the first request of each key executes."""
    serve(plain(make_payment))
    observed = post(anonymous)
    settings.IDEMPOTENCY = {"MODE": "atomic"}

    executed, replayed = post(anonymous), post(anonymous)

    assert executed.json() == replayed.json() != observed.json()
    assert (is_replay(executed), is_replay(replayed)) == (False, True)


# --- nothing of a request depends on it ---


def statements(key="1"):
    """The statements of a request before its response is closed, and those after."""
    headers = {} if key is None else {"Idempotency-Key": key}
    environ = RequestFactory().post(
        "/act/", {"amount": 1}, content_type="application/json", headers=headers
    ).environ  # fmt: skip
    with CaptureQueriesContext(connection) as before:
        response = WSGIHandler()(environ, lambda *args: None)
        b"".join(response)
    with CaptureQueriesContext(connection) as after:
        response.close()
    return (
        [query["sql"] for query in before],
        [query["sql"] for query in after if "idempotency_count" not in query["sql"]],
    )


def test_statements(serve, monkeypatch, vendor, atomic_requests):
    """The request's own are those without the package; at most two follow its response, and none without a sample."""
    monkeypatch.setattr("django_idempotency.operations.counts.sample", lambda using: None)  # of storage
    connection.ensure_connection()
    serve(make_payment)
    bare, _ = statements()
    serve(plain(make_payment))
    before, after = statements()
    again, after_again = statements()
    failed_before, _ = statements(key=None)
    serve(plain(make_payment, observe_sample=0))
    unsampled, after_unsampled = statements()

    assert len(bare) == len(before) == len(again) == len(failed_before) == len(unsampled)
    assert not any("idempotency" in sql for sql in before + again + unsampled)
    assert len(after) == (2 if vendor == "mysql" else 1)
    assert len(after_again) == 2
    assert not after_unsampled


def test_a_rival_waits_for_nothing(anonymous, serve, background, gate, atomic_requests):
    """The second request begins and ends while the first one runs; one of the two would have been refused."""
    if VENDOR == "sqlite" and atomic_requests:
        pytest.skip("SQLite has one writer, with or without the package")

    def handler(request):
        if "slow" in request.GET:
            gate.wait()
        return make_payment(request)

    serve(plain(handler, fingerprint=lambda request: b""))
    slow = background(post, Client(), url="/act/?slow")
    gate.reached()
    assert post(anonymous).status_code == 201
    time.sleep(20 * TOLERANCE)  # so that the two overlap by more than the clocks' fineness
    gate.open()
    assert slow.result(TIMEOUT).status_code == 201
    assert totals() == {"observed": 2, "would_conflict": 1, "ran_twice": 1}


def test_a_double_click_would_wait(serve, background, gate):
    """A form's key waits for the first answer, whatever `in_flight` says."""

    def handler(request):
        if "slow" in request.GET:
            gate.wait()
        return HttpResponseRedirect(f"/{Payment.objects.create(amount=1).pk}/")

    serve(plain(handler, fingerprint=lambda request: b""))

    def click(query):
        return Client().post(f"/act/{query}", {KEY_FIELD: "key-1"})

    slow = background(click, "?slow")
    gate.reached()
    assert click("").status_code == 302
    time.sleep(2 * TOLERANCE)
    gate.open()
    assert slow.result(TIMEOUT).status_code == 302
    assert totals() == TWICE


@pytest.mark.race
def test_of_simultaneous_runs_all_but_one_are_duplicates(counter, serve, background, caplog):
    """However their statements are interleaved, and on a key that has just expired, too."""
    serve(plain(make_payment))
    threads, keys = 6, [str(number) for number in range(8)]
    barrier = threading.Barrier(threads)

    def send():
        client = Client()
        for key in keys:
            barrier.wait(TIMEOUT)
            assert post(client, key=key).status_code == 201

    for _ in range(2):
        for each in [background(send) for _ in range(threads)]:
            each.result(TIMEOUT * 3)
        ObservedRun.objects.update(expires_at=DatabaseNow())

    assert counter.flush()  # what a thread left while another one wrote
    found = totals()
    duplicates = 2 * len(keys) * (threads - 1)
    assert found["observed"] == 2 * len(keys) * threads, [record.getMessage() for record in caplog.records]
    assert found["ran_twice"] == duplicates
    assert found.get("would_replay", 0) + found.get("would_conflict", 0) == duplicates


@pytest.mark.kill
@pytest.mark.parametrize(("instant", "is_known"), [("handler", False), ("before", False), ("after", True)])
def test_a_process_that_is_killed(instant, is_known, anonymous, serve):
    """Its run is kept or lost. Either way the retry runs, and no record says otherwise."""
    command = [sys.executable, "-m", "tests.operations.observing", str(connection.settings_dict["NAME"]), instant]
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=TIMEOUT * 3).returncode == -signal.SIGKILL
    assert Payment.objects.count() == 1

    serve(plain(make_payment))
    assert post(anonymous).status_code == 201

    assert totals() == {"observed": 1, **({"would_replay": 1, "ran_twice": 1} if is_known else {})}
    assert not IdempotencyRecord.objects.exists()


# --- errors of its own ---


def broken(*args):
    raise LookupError("of the project's callable")


@pytest.mark.parametrize("option", ["scope", "key", "fingerprint", "operation", "should_store", "using", "key_format"])
def test_an_error_of_an_option_reaches_the_log_alone(option, anonymous, serve, caplog):
    """Once per operation: in atomic mode it would have failed each request."""
    serve(plain(make_payment, **{option: broken}))

    assert [post(anonymous).status_code for _ in range(2)] == [201, 201]

    assert [record.name for record in caplog.records if "Cannot observe" in record.getMessage()] == [
        "django_idempotency"
    ]


@pytest.mark.parametrize("atomic_requests", [True], indirect=True)
@pytest.mark.parametrize("option", ["scope", "should_store"])
def test_a_statement_of_an_option_that_fails_leaves_the_transaction_usable(option, atomic_requests, anonymous, serve):
    """PostgreSQL would refuse all further statements, and roll back at COMMIT without an error."""

    def query(_):
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM no_such_table")

    serve(plain(make_payment, **{option: query}))

    assert [post(anonymous).status_code for _ in range(2)] == [201, 201]
    assert Payment.objects.count() == 2


@pytest.mark.parametrize("loss", ["table", "autocommit"])
def test_a_database_that_cannot_be_written_costs_the_observation_alone(loss, anonymous, serve, monkeypatch, caplog):
    """The client gets its answer; the log says so once, and later runs are observed again."""
    serve(plain(make_payment))
    if loss == "table":
        with without_table("django_idempotency_observed"):
            assert [post(anonymous).status_code for _ in range(2)] == [201, 201]
    else:
        with monkeypatch.context() as patch:
            patch.setattr(observations, "in_transaction", lambda using: True)
            assert [post(anonymous).status_code for _ in range(2)] == [201, 201]
    assert len([record for record in caplog.records if "are not observed" in record.getMessage()]) == 1
    assert not totals()

    monkeypatch.setattr(observations, "_resumes_at", 0.0)
    assert [post(anonymous).status_code for _ in range(2)] == [201, 201]
    assert totals() == TWICE


@pytest.mark.parametrize("length", ["0", "100"], ids=["chunked", "with a length"])
def test_a_client_that_is_gone_is_no_empty_body(length, serve, anonymous):
    """A server may say so only once, and we have read first: the handler must not take the rest for the whole."""

    def handler(request):
        body = request.META["wsgi.input"].read() if length == "0" else request.read()
        return HttpResponse(Payment.objects.create(amount=len(body)).pk)

    serve(plain(handler))
    extra = {"CONTENT_LENGTH": length, "wsgi.input": CutOff(ConnectionResetError())}
    if length == "0":
        extra |= {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
    assert anonymous.post("/act/", headers={"Idempotency-Key": "1"}, **extra).status_code == 500
    assert not Payment.objects.exists()
    assert totals() == {"would_refuse": 1}


@pytest.mark.parametrize("media_type", [FORM, "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("key", ["1", None])
def test_a_client_that_is_gone_sends_no_empty_form(media_type, key, serve, anonymous):
    """Not with a key in the header, and not while we look for one in the form."""
    serve(plain(lambda request: HttpResponse(Payment.objects.create(amount=len(request.POST)).pk)))
    extra = {"CONTENT_LENGTH": "100", "CONTENT_TYPE": media_type, "wsgi.input": CutOff(ConnectionResetError())}

    headers = {} if key is None else {"Idempotency-Key": key}
    assert anonymous.post("/act/", headers=headers, **extra).status_code == 500
    assert not Payment.objects.exists()


def test_a_store_that_is_away_is_not_asked(anonymous, serve, settings):
    """Nor is a Redis: what it would have held is observed in the database."""
    settings.CACHES = {**settings.CACHES, "away": cache(NOWHERE)}
    settings.IDEMPOTENCY = {
        "MODE": "observe",
        "STORES": {"redis": {"BACKEND": "django_idempotency.stores.redis.RedisStore", "OPTIONS": {"CACHE": "away"}}},
    }
    serve(plain(make_payment, store="redis"))
    assert [post(anonymous).status_code for _ in range(2)] == [201, 201]
    assert totals() == TWICE


# --- the handle ---


@pytest.mark.parametrize("share", [1, 0])
def test_the_handle(share, protect, client, user, serve):
    """Its keys are those of atomic mode, whether the key is in the sample or not; without a usable key it is None."""
    seen = []

    def handler(request):
        handle = request.idempotency
        assert current_operation() is handle
        seen.append(handle and (handle.key, handle.scope, handle.identity, handle.derive_key("gateway")))
        return make_payment(request)

    serve(protect(handler, mode="atomic"))
    post(client)
    serve(protect(handler, observe_sample=share))
    for key in ("key-1", None, "ä"):
        assert post(client, key=key).status_code == 201

    assert seen[0] == seen[1]
    assert seen[2:] == [None, None]


def test_a_handler_inside_a_handler_is_one_run(api, serve):
    """Mixin and decorator, `super()`: the request did not run twice."""

    class Inner(Mixed):
        @idempotent(mode="observe")
        def post(self, request, format=None):
            return idempotent(lambda request: make_payment(request))(request)

    serve(Inner.as_view())
    assert post(api).status_code == 201
    assert totals() == {"observed": 1}


# --- other roads ---


@once("observed.event", key=lambda event: event["id"])
def consume(event):
    Payment.objects.create(amount=1)
    if event.get("fails"):
        raise LookupError
    return event.get("result", 1)


def test_an_event_runs_again_and_is_counted():
    """What it returns or raises is what the function does; inside a transaction it counts when that has committed."""
    assert [consume.run({"id": 1}).replayed for _ in range(2)] == [False, False]
    assert totals() == totals(operation="observed.event") == TWICE
    with transaction.atomic():
        consume({"id": 1})
        consume({"id": 2})
        assert totals() == TWICE
    assert totals() == {"observed": 4, "would_replay": 2, "ran_twice": 2}
    with pytest.raises(LookupError):
        consume({"id": 3, "fails": True})
    opaque = object()
    assert consume({"id": 3, "result": opaque}) is opaque
    assert consume({"id": None}) == 1

    assert Payment.objects.count() == 7
    assert totals() == {"observed": 6, "would_replay": 2, "ran_twice": 2, "would_refuse": 2}


def test_an_event_that_would_have_been_too_old(caplog):
    """Is refused by atomic mode, and no error of ours."""
    late = once("observed.late", key=lambda event: event, key_max_age=timedelta(hours=1))(lambda event: event)

    assert late("00000000-0000-7000-8000-000000000000")

    assert totals() == {"would_refuse": 1}
    assert not [record for record in caplog.records if "Cannot observe" in record.getMessage()]


@pytest.mark.parametrize("unprotected", ["refuse", "warn"])
def test_the_middleware_refuses_nothing(unprotected, anonymous, serve, settings, atomic_requests):
    """It observes each view in its place, and a key that an unprotected view ignores is only counted."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, MIDDLEWARE]
    settings.IDEMPOTENCY = {"MODE": "observe", "UNPROTECTED": unprotected, "EXEMPT": ["exempt/"]}
    serve(make_payment)
    assert [post(anonymous).status_code for _ in range(2)] == [201, 201]
    assert totals() == TWICE
    serve(make_payment, route="exempt/")
    assert post(anonymous, url="/exempt/").status_code == 201
    assert totals(operation="POST exempt/") == {"ignored": 1}


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_runs_are_kept_where_records_would_be(anonymous, serve):
    """In the database that `using` names. A duplicate that the handler's own constraint stops did not run twice."""

    def handler(request):
        Unique.objects.create(name="one")
        return make_payment(request)

    serve(plain(handler, using="other"))
    assert [post(anonymous).status_code for _ in range(2)] == [201, 500]
    assert ObservedRun.objects.using("other").count() == 1
    assert not ObservedRun.objects.exists()
    assert DecisionCount.objects.using("other").get().would_replay == 1
