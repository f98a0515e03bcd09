"""`importing.import_records` and `manage.py idempotency_import`, over rows as the real packages have written them."""

import json
import os
import pickle
import uuid
from datetime import timedelta
from io import StringIO
from itertools import count as count_from

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.http import HttpResponse
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now
from redis import Redis
from rest_framework.test import APIClient

from django_idempotency import moving
from django_idempotency.core.keys import Identity
from django_idempotency.models import DatabaseNow, IdempotencyRecord
from django_idempotency.operations import importing
from django_idempotency.operations.houses import djangorestframework_idempotency_key as hardcore
from django_idempotency.operations.houses import drf_idempotency, drf_idempotencykey, idemkit
from django_idempotency.operations.houses.base import Source
from django_idempotency.operations.importing import HOUSES, Imported, import_records
from django_idempotency.operations.locations import database
from django_idempotency.operations.records import settle
from django_idempotency.stores.database import DatabaseStore
from tests.app.models import Payment
from tests.app.serving import VENDOR, drf, is_replay
from tests.app.views import make_payment
from tests.lab.caches import NOWHERE, REDIS_URL, need_redis
from tests.moving import captured
from tests.moving.captured import ANSWERED, BODIES, KILLED
from tests.operations.records import ANSWER

pytestmark = pytest.mark.django_db(transaction=True)

HC = "djangorestframework-idempotency-key"
TABLES = {
    "drf-idempotency": drf_idempotency.Row,
    "drf-idempotencykey": drf_idempotencykey.Row,
    HC: hardcore.Row,
}
if VENDOR in ("postgresql", "sqlite"):  # MySQL makes no primary key of a text; the package has PostgreSQL alone
    TABLES["idemkit"] = idemkit._row(idemkit.TABLE)
ROWS = {
    "drf-idempotency": captured.DRF_IDEMPOTENCY,
    "drf-idempotencykey": captured.DRF_IDEMPOTENCYKEY,
    HC: captured.REST_FRAMEWORK_IDEMPOTENCY_KEY,
    "idemkit": captured.IDEMKIT,
}


def idemkit_by_user(request, key):
    return moving.idemkit(request, key, scope=captured.IDEMKIT_SCOPE)


OPTIONS = {
    "drf-idempotency": moving.drf_idempotency,
    "drf-idempotencykey": moving.drf_idempotencykey,
    "django-idempotency-key": moving.django_idempotency_key,
    HC: moving.djangorestframework_idempotency_key,
    "idemkit": idemkit_by_user,
}


@pytest.fixture
def tables():
    """The tables of the packages, and a function that writes a captured row into one of them."""
    with connection.schema_editor() as editor:
        for model in TABLES.values():
            editor.create_model(model)

    def write(package, key, /, *, ago=timedelta(minutes=1), lives=timedelta(hours=1), **changes):
        row = ROWS[package][key]
        began, ends = now() - ago, now() - ago + lives
        times = {
            "drf-idempotency": {"created_at": began, "expires_at": ends},
            "drf-idempotencykey": {"created_at": began},
            HC: {
                "last_run_at": began,
                "locked_at": None if row.get("response_code") else began,
            },
            "idemkit": {"claimed_at": began, "lease_until": ends},
        }
        TABLES[package].objects.create(**row | times[package] | changes)

    yield write
    with connection.schema_editor() as editor:
        for model in TABLES.values():
            editor.delete_model(model)


@pytest.fixture
def old_redis():
    """A prefix in the Redis of this run, and a client."""
    need_redis()
    prefix = f"old-{uuid.uuid4()}:"
    with Redis.from_url(REDIS_URL) as client:
        yield prefix, client
        for key in client.scan_iter(f"{prefix}*"):
            client.delete(key)


@pytest.fixture
def user():
    return User.objects.create_user("payer", pk=captured.USER)


@pytest.fixture
def api(user):
    """The caller whose requests were captured, with the same token."""
    from rest_framework.authtoken.models import Token

    Token.objects.create(user=user, key=captured.TOKEN)
    client = APIClient(raise_request_exception=False)
    client.credentials(HTTP_AUTHORIZATION=f"Token {captured.TOKEN}")
    return client


def run(package, *arguments, code=0):
    out = StringIO()
    ended = 0
    try:
        call_command("idempotency_import", "--from", package, *arguments, stdout=out, stderr=out)
    except SystemExit as error:
        ended = error.code
    assert ended == code, out.getvalue()
    return out.getvalue()


def retry(client, key=ANSWERED, **changes):
    body = changes.get("body") or BODIES[key]
    return client.post("/moved/", body, content_type="application/json", headers={"Idempotency-Key": key})


def served(serve, package, **options):
    serve(drf(make_payment, moved_from=OPTIONS[package], **options), route="moved/")


def count(package, *rows):
    """Import without a command."""
    return import_records(HOUSES[package], Source(using="default"), database("default"), *rows)


def answer_killed():
    """Let the request that was in flight have its answer."""
    rows = captured.DRF_IDEMPOTENCY
    kept = {"key": KILLED, "fingerprint": rows[KILLED]["fingerprint"], "expires_at": now() + timedelta(days=1)}
    TABLES["drf-idempotency"].objects.filter(key=KILLED).update(**rows[ANSWERED] | kept)


# --- what a retry gets ---


@pytest.mark.parametrize("package", TABLES)
def test_a_retry_gets_the_imported_answer(package, tables, serve, api):
    """And nothing runs: neither for an answered request, nor for one that was killed."""
    served(serve, package)
    tables(package, ANSWERED)
    tables(package, KILLED)
    assert run(package, "--answer=anyone").startswith("Imported 1 answer and 1 unknown outcome from")

    answer = retry(api)
    assert (answer.status_code, answer.content, is_replay(answer)) == (201, b'{"paid":10}', True)
    assert answer["Content-Type"] == "application/json"
    assert retry(api, KILLED).json()["code"] == "outcome-unknown"
    assert retry(api, body=b'{"amount": 11}').status_code == 422
    assert not Payment.objects.exists()


def test_a_key_of_today_is_not_touched(tables, serve, api):
    """It runs, and is replayed, as without the option."""
    served(serve, "drf-idempotency")
    tables("drf-idempotency", ANSWERED)
    run("drf-idempotency", "--answer=anyone")

    answers = [api.post("/moved/", {"amount": 5}, headers={"Idempotency-Key": "new"}) for _ in range(2)]
    assert [is_replay(answer) for answer in answers] == [False, True]
    assert Payment.objects.count() == 1
    assert IdempotencyRecord.objects.get(key="new").scope == f"auth.user:{captured.USER}"


@pytest.mark.parametrize(("whose", "gets", "other_gets"), [
    ("--answer=anyone", 200, 200),
    ("--answer=nobody", 409, 409),
    (f"--scope=auth.user:{captured.USER}", 200, 201),
])  # fmt: skip
def test_whose_the_answers_are(whose, gets, other_gets, tables, serve, api, other_api):
    """Of a package that does not know it. 201 is an execution of the other user's own."""
    served(serve, "drf-idempotency")
    tables("drf-idempotency", ANSWERED, response_status_code=200)
    run("drf-idempotency", whose)

    assert (retry(api).status_code, retry(other_api).status_code) == (gets, other_gets)


def test_the_user_is_known_to_one_package(tables, serve, api, other_api):
    served(serve, "drf-idempotencykey", scope=lambda request: "tenant")  # whatever the scope is today
    tables("drf-idempotencykey", ANSWERED)
    run("drf-idempotencykey")

    assert is_replay(retry(api))
    assert not is_replay(retry(other_api))
    assert "Erased 1 record" in erase(f"auth.user:{captured.USER}")


def erase(scope):
    out = StringIO()
    call_command("idempotency_erase", "--scope", scope, stdout=out)
    return out.getvalue()


def test_after_its_time_a_key_is_new(tables, serve, api):
    """It runs once, under its own scope: nothing is written for anyone."""
    served(serve, "drf-idempotency")
    tables("drf-idempotency", ANSWERED)
    run("drf-idempotency", "--answer=anyone")
    IdempotencyRecord.objects.update(expires_at=DatabaseNow())

    assert [is_replay(retry(api)) for _ in range(2)] == [False, True]
    assert set(IdempotencyRecord.objects.live().values_list("scope", flat=True)) == {f"auth.user:{captured.USER}"}


def test_a_changed_row_is_an_unknown_outcome(tables, serve, api):
    served(serve, "drf-idempotency")
    tables("drf-idempotency", ANSWERED)
    run("drf-idempotency", "--answer=anyone")
    IdempotencyRecord.objects.update(head=b"{")

    assert retry(api).json()["code"] == "outcome-unknown"
    IdempotencyRecord.objects.update(status=1)
    assert retry(api).json()["code"] == "key-expired"


def test_an_operator_settles_an_imported_outcome(tables, serve, api):
    """As of any other request, with a status."""
    served(serve, "drf-idempotency")
    tables("drf-idempotency", KILLED)
    run("drf-idempotency", "--answer=anyone")
    record = database("default").unsettled(1)[0]
    assert (record.request, record.operation) == ("request to drf-idempotency", "moved from drf-idempotency")

    assert settle(record, ANSWER)
    assert retry(api, KILLED).content == ANSWER.body


def test_in_phases(tables, serve, api):
    served(serve, "drf-idempotency", mode="phased")
    tables("drf-idempotency", ANSWERED)
    run("drf-idempotency", "--answer=anyone")

    assert is_replay(retry(api))


def test_a_store_outside_the_databases(tables, serve, api, keys):
    """The same verbs, twice."""
    served(serve, "drf-idempotency", store="redis")
    tables("drf-idempotency", ANSWERED)
    tables("drf-idempotency", KILLED)

    for written in ("Imported 1 answer and 1 unknown outcome", "Imported 0 answers and 0 unknown outcomes"):
        assert run("drf-idempotency", "--answer=anyone", "--store=redis").startswith(written)
    assert is_replay(retry(api))
    assert retry(api, KILLED).json()["code"] == "outcome-unknown"
    answer_killed()
    assert "Imported 1 answer" in run("drf-idempotency", "--answer=anyone", "--store=redis")
    assert is_replay(retry(api, KILLED))


def test_a_store_that_is_away(tables, serve, api, away):
    """Nothing is run."""
    served(serve, "drf-idempotency", store="away")

    assert retry(api).status_code == 503
    assert not Payment.objects.exists()


# --- what is imported ---


def test_a_second_import_does_nothing(tables):
    tables("drf-idempotency", ANSWERED)
    tables("drf-idempotency", KILLED)
    count("drf-idempotency")
    rows = list(IdempotencyRecord.objects.order_by("digest").values())

    assert count("drf-idempotency") == Imported(left={"here already": 2})
    assert list(IdempotencyRecord.objects.order_by("digest").values()) == rows


def test_an_answer_takes_the_place_of_an_unknown_outcome(tables):
    """Its request was in flight at the first import."""
    tables("drf-idempotency", KILLED)
    assert count("drf-idempotency").unknown == 1
    answer_killed()
    assert run("drf-idempotency", "--answer=anyone", "--dry-run").startswith("Would import 1 answer and 0 unknown")

    assert count("drf-idempotency") == Imported(answers=1)
    assert IdempotencyRecord.objects.get().status == 201


def test_ahead_of_the_move_requests_in_flight_are_left(tables):
    """The last import finds what has become of them."""
    tables("drf-idempotency", ANSWERED)
    tables("drf-idempotency", KILLED)

    written = run("drf-idempotency", "--answer=anyone", "--ahead")
    assert "Imported 1 answer and 0 unknown outcomes" in written
    assert "Left: 1 record, without an answer yet." in written
    assert count("drf-idempotency") == Imported(unknown=1, left={"here already": 1})


def test_what_is_here_is_never_overwritten(tables):
    """Nor is what an operator has decided."""
    tables("drf-idempotency", KILLED)
    count("drf-idempotency")
    settle(database("default").unsettled(1)[0], ANSWER)
    answer_killed()
    assert ANSWER.body != b'{"paid":10}'

    assert count("drf-idempotency").left == {"here already": 1}
    assert IdempotencyRecord.objects.get().record.body == ANSWER.body


def test_lifetimes_are_kept(tables):
    """The package's own; where it has none, the project's `ttl` after the request."""
    tables("drf-idempotency", ANSWERED, lives=timedelta(days=7))
    tables(HC, ANSWERED, ago=timedelta(hours=20))
    tables("drf-idempotencykey", ANSWERED, ago=timedelta(minutes=20))
    for package in ("drf-idempotency", HC, "drf-idempotencykey"):
        count(package)

    left = {
        record.operation.removeprefix("moved from "): (record.expires_at - now()).total_seconds()
        for record in IdempotencyRecord.objects.all()
    }
    assert left == pytest.approx(
        {
            "drf-idempotency": 7 * 86400 - 60,
            HC: 4 * 3600,
            "drf-idempotencykey": 40 * 60,
        },
        rel=0.02,
    )


def test_the_setting_of_another_lifetime(tables, settings):
    settings.IDEMPOTENCY_KEY_EXPIRATION_MINUTES = 5
    tables("drf-idempotencykey", ANSWERED, ago=timedelta(minutes=6))

    assert run("drf-idempotencykey") == (
        "Imported 0 answers and 0 unknown outcomes from drf-idempotencykey into database 'default'.\n"
        "  Left: 1 record, expired.\n"
    )


def test_an_unknown_outcome_expires_with_its_key(tables):
    """It is not for ever, as it was not there; but longer than the lock, which says nothing of a killed process."""
    tables("drf-idempotency", KILLED, lives=timedelta(seconds=30))
    count("drf-idempotency")

    record = IdempotencyRecord.objects.get()
    assert (record.uncertain_until - now()).total_seconds() == pytest.approx(86400 - 60, rel=0.02)


@pytest.mark.parametrize(
    ("package", "changes", "expected"),
    [
        ("drf-idempotencykey", {"user": None}, {"of no user": 1}),
        ("drf-idempotencykey", {"response_content_type": "application/pdf", "response_body": ""}, "unknown"),
        ("drf-idempotencykey", {"response_code": 2010}, "unknown"),
        (HC, {"recovery_point": "started"}, {"of a request whose work was rolled back": 1}),
        (HC, {"recovery_point": "charged"}, "unknown"),
        (HC, {"response_code": None}, "unknown"),
        ("drf-idempotency", {"response_body": "!"}, "unknown"),
        ("drf-idempotency", {"response_headers": {"X-A": "a\r\nb"}}, "unknown"),
        ("drf-idempotency", {"key": ""}, {"unreadable": 1}),
    ],
)  # fmt: skip
def test_what_cannot_be_answered(package, changes, expected, tables):
    """What took effect, and cannot be answered, is never run again; what did not is not imported."""
    tables(package, ANSWERED, **changes)
    expected = Imported(unknown=1) if expected == "unknown" else Imported(left=expected)
    assert count(package) == expected


def test_an_answer_without_a_body(tables):
    tables(HC, ANSWERED, response_code=204, response_body="null")
    count(HC)

    record = IdempotencyRecord.objects.get().record
    assert (record.status, record.headers, record.body) == (204, (), b"")


def test_cookies_are_not_imported(tables):
    tables("drf-idempotency", ANSWERED, response_headers={"Set-Cookie": "a=b", "X-A": "1"})
    count("drf-idempotency")

    assert IdempotencyRecord.objects.get().record.headers == (("X-A", "1"),)


def test_batches(tables, monkeypatch):
    """Of reading and of writing. An import that is stopped goes on at the next run."""
    monkeypatch.setattr(importing, "BATCH_SIZE", 3)
    monkeypatch.setattr("django_idempotency.operations.houses.base.BATCH_SIZE", 2)
    for number in range(7):
        tables("drf-idempotency", ANSWERED, key=f"key-{number}")
    steps = []
    source = Source(using="default")
    copy = lambda **options: import_records(HOUSES["drf-idempotency"], source, database("default"), **options)  # noqa: E731

    assert HOUSES["drf-idempotency"].count(source) == 7
    stopped = copy(progress=steps.append, stop=lambda: True)
    assert (stopped.answers, stopped.finished) == (3, False)
    assert copy(progress=steps.append) == Imported(answers=4, left={"here already": 3})
    assert steps == [3, 3, 3, 1]


def test_a_batch_is_written_whole_or_not_at_all(tables, monkeypatch):
    """As if the process were killed in the middle of one. The next run writes the rest."""
    monkeypatch.setattr(importing, "BATCH_SIZE", 2)
    for number in range(4):
        tables("drf-idempotency", ANSWERED, key=f"key-{number}")
    complete, calls = DatabaseStore.complete, count_from(1)

    def die(*arguments):
        if next(calls) == 4:
            raise KeyboardInterrupt
        complete(*arguments)

    monkeypatch.setattr(DatabaseStore, "complete", die)
    with pytest.raises(KeyboardInterrupt):
        count("drf-idempotency")

    assert set(IdempotencyRecord.objects.values_list("key", "status")) == {("key-0", 201), ("key-1", 201)}
    assert count("drf-idempotency") == Imported(answers=2, left={"here already": 2})


@pytest.mark.skipif(VENDOR == "sqlite", reason="one import waits for the other's batch")
def test_two_imports_at_once(tables, background, gate):
    """A record that the other one is writing is left, and said to be: the next run finds it."""
    tables("drf-idempotency", ANSWERED)
    complete = DatabaseStore.complete

    def hold(*arguments):
        complete(*arguments)
        gate.wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatabaseStore, "complete", hold)
        first = background(count, "drf-idempotency")
        gate.reached()
    second = count("drf-idempotency")
    assert (second.left, second.finished) == ({"in use at this moment": 1}, False)
    gate.open()

    assert first.result() == Imported(answers=1)
    assert count("drf-idempotency").finished


def test_two_statements_more(serve, api):
    """For a key of today, while the option is set."""
    sent = []
    for options in ({}, {"moved_from": moving.drf_idempotency}):
        serve(drf(lambda request: HttpResponse(), **options), route="moved/")
        retry(api, str(uuid.uuid4()), body=b"{}")  # what is asked once
        with CaptureQueriesContext(connection) as queries:
            retry(api, str(uuid.uuid4()), body=b"{}")
        sent.append(len(queries))

    assert sent[1] == sent[0] + 2


def test_inside_a_transaction_no_batch_could_commit(tables):
    with transaction.atomic(), pytest.raises(RuntimeError, match="An import commits each batch"):
        count("drf-idempotency")


# --- a Redis ---


def test_drf_idempotency_in_redis(old_redis, serve, api):
    prefix, client = old_redis
    served(serve, "drf-idempotency")
    for key in (ANSWERED, KILLED):
        stored = {**captured.DRF_IDEMPOTENCY[key], "created_at": now().isoformat()}
        client.set(f"{prefix}{key}", json.dumps(stored), ex=3600)
    client.set(f"{prefix}odd", "{")
    client.rpush(f"{prefix}list", "x")

    written = run("drf-idempotency", "--answer=anyone", "--redis", REDIS_URL, "--prefix", prefix, code=3)
    assert written.splitlines()[0].startswith("Imported 1 answer and 1 unknown outcome")
    assert "  Left: 1 record, unreadable." in written
    assert retry(api).content == b'{"paid":10}'
    assert HOUSES["drf-idempotency"].count(Source(using="default", redis=REDIS_URL, prefix=prefix)) == 4


def test_idemkit_in_redis(old_redis, serve, api):
    prefix, client = old_redis
    served(serve, "idemkit")
    for row in captured.IDEMKIT.values():
        stored = {**row, "claimed_at_ms": int(now().timestamp() * 1000), "response_body_b64": "eyJwYWlkIjoxMH0="}
        stored = {name: value for name, value in stored.items() if name != "response_body" and value is not None}
        client.set(f"{prefix}{row['effective_key']}", json.dumps(stored), ex=3600)
    client.set(f"{prefix}the project's own", "x")

    written = run("idemkit", "--answer=anyone", "--redis", REDIS_URL, "--prefix", prefix)
    assert written.startswith("Imported 1 answer and 1 unknown outcome")
    assert is_replay(retry(api))
    assert retry(api, KILLED).status_code == 409


def test_pickled_responses(old_redis, serve, api):
    """Without the loading of a pickle; another body is another key, as it was for the package."""
    prefix, client = old_redis
    served(serve, "django-idempotency-key")
    client.set(f"{prefix}{captured.CACHE_KEY}", captured.IN_CACHE, ex=3600)
    client.set(f"{prefix}session", pickle.dumps("the project's own"))

    run("django-idempotency-key", "--answer=anyone", "--redis", REDIS_URL, "--prefix", prefix)
    answer = retry(api)
    assert (answer.status_code, answer.content, answer["Location"]) == (201, b'{"paid":10}', "/payments/1/")
    assert is_replay(answer)
    assert retry(api, body=b'{"amount": 11}').status_code == 201


class Evil:
    """Its loading makes a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_no_pickle_is_loaded(old_redis, tmp_path):
    """Neither the outer one nor the inner one."""
    prefix, client = old_redis
    evil = pickle.dumps(Evil(str(tmp_path / "loaded")))
    for number, value in enumerate((evil, pickle.dumps(evil))):
        client.set(f"{prefix}{number:064}", value)

    written = run("django-idempotency-key", "--answer=anyone", "--redis", REDIS_URL, "--prefix", prefix, code=3)
    assert "Left: 2 records, unreadable." in written
    assert not (tmp_path / "loaded").exists()


NO_RESPONSES = {"empty": b"", "number": pickle.dumps(1), "bytes": pickle.dumps(b"x")}
NO_RESPONSES["dict"] = pickle.dumps(pickle.dumps({"status_code": 201}))


@pytest.mark.parametrize("value", NO_RESPONSES.values(), ids=NO_RESPONSES)
def test_a_pickle_that_is_no_response(value, old_redis):
    prefix, client = old_redis
    client.set(f"{prefix}{'0' * 64}", value)

    written = run("django-idempotency-key", "--answer=anyone", "--redis", REDIS_URL, "--prefix", prefix, code=3)
    assert "Left: 1 record, unreadable." in written


# --- the command ---


def test_it_must_be_said_whose_the_answers_are():
    with pytest.raises(CommandError, match="--answer anyone") as caught:
        run("drf-idempotency")
    assert caught.value.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("drf-idempotencykey", "--scope=auth.user:1"), "knows whose its keys are"),
        (("drf-idempotency", "--scope="), "cannot be a scope"),
        (("drf-idempotencykey", "--redis", REDIS_URL), "keeps its records in a database"),
        (("drf-idempotency", "--answer=nobody", "--source=elsewhere"), "DATABASES has no 'elsewhere'"),
        (("drf-idempotency", "--answer=nobody"), "database 'default' has no table 'drf_idempotency_idempotencyrecord'"),
        (("idemkit", "--answer=nobody", "--table=other"), "has no table 'other'"),
        (("django-idempotency-key", "--answer=nobody"), "name it with --redis URL"),
        (("idemkit", "--answer=nobody", "--redis", NOWHERE), "Connection refused"),
        (("drf-idempotencykey", "--database=default", "--database=other"), "Name one place to write to"),
    ],
)
def test_what_is_wrong_is_said(arguments, message):
    with pytest.raises(CommandError, match=message):
        run(*arguments)


def test_a_dry_run_writes_nothing(tables):
    tables("drf-idempotency", ANSWERED)
    tables("drf-idempotency", KILLED, ago=timedelta(days=2))

    assert run("drf-idempotency", "--answer=anyone", "--dry-run") == (
        "Would import 1 answer and 0 unknown outcomes from drf-idempotency into database 'default'.\n"
        "  Left: 1 record, expired.\n"
    )
    assert not IdempotencyRecord.objects.exists()
    count("drf-idempotency")
    assert "Left: 1 record, here already." in run("drf-idempotency", "--answer=anyone", "--dry-run")


def test_imported_records_are_found_by_their_key(tables):
    """As `idempotency_show` shows them."""
    tables("drf-idempotency", ANSWERED)
    run("drf-idempotency", "--answer=anyone")
    out = StringIO()
    call_command("idempotency_show", ANSWERED, stdout=out)

    assert "moved from drf-idempotency" in out.getvalue()
    assert Identity("anyone", "moved from drf-idempotency", ANSWERED).digest.hex() in out.getvalue()
