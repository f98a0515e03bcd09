"""What an operator is told: which decision, on what, and never a key or a body."""

import logging
import traceback

import pytest
from django.db import Error, IntegrityError, connection, connections, transaction
from django.test import Client

from django_idempotency import once
from django_idempotency.core.keys import Identity
from django_idempotency.exceptions import CommittedEarly, KeyReused, OutcomeUnknown, RequestInProgress
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import TIMEOUT, VENDOR, end_own_connection, hearing, plain, post
from tests.app.views import answer, make_payment

KEY = "5f7c-secret-key"
CARD = "4111111111111111"
TOKEN = "Bearer token-of-a-client"
SECRETS = (KEY, CARD, TOKEN.split()[1])

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def heard():
    """Every signal, with all that it carries, in the order in which it was sent."""
    with hearing() as heard:
        yield heard


@once("secrets.event", key=lambda event: event["id"], fingerprint=lambda event: event["card"].encode())
def consume(event):
    return Payment.objects.create(amount=1).pk


def commit():
    """End the transaction, as DDL does on MariaDB and MySQL."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS away (x INT)" if connection.vendor == "mysql" else "COMMIT")


def handler(request):
    """Does what its body says, with a card number in all that it answers and raises."""
    match request.headers.get("X-Act"):
        case "refuse":
            make_payment(request)
            return answer(request, {"card": f"{CARD} was refused"}, 400)
        case "raise":
            raise ValueError(f"{CARD} was declined")
        case "commit":
            make_payment(request)
            commit()
            return make_payment(request)
        case "swallow":
            try:
                Payment.objects.create(pk=Payment.objects.create(amount=1).pk, amount=1)
            except IntegrityError:  # what a handler must not do
                pass
        case "stream":
            return answer(request, {"card": CARD * 100_000}, 200)  # over max_body
    Payment.objects.create(amount=10)
    return answer(request, {"card": CARD}, 201)


def every_decision(serve, monkeypatch):
    """Ask for each of them once at least, all under one key or its like, with a card in each body."""
    serve(plain(handler, required=True))
    client = Client(raise_request_exception=False)
    acts = ("", "", "refuse", "raise", "commit", "commit", "swallow", "stream")
    answers = []

    def ask(key, act="", **more):
        headers = {"X-Act": act, "Authorization": TOKEN, "X-Request-ID": f"request-{len(answers)}"}
        answers.append(post(client, {"amount": 1, "card": CARD, **more}, key=key, headers=headers).status_code)

    for act in acts:
        ask(f"{KEY}-{act}", act)
    ask(f"{KEY}-", more="another body")
    ask(None)
    ask(f'"{KEY}" "{KEY}"')
    for _ in range(2):
        consume({"id": KEY, "card": CARD})
    with pytest.raises(KeyReused):
        consume({"id": KEY, "card": "another"})
    connection.close()
    settings = connections["default"].settings_dict
    with monkeypatch.context() as patch:
        patch.setitem(settings, *(("NAME", "/nowhere/at/all") if VENDOR == "sqlite" else ("PORT", "1")))
        ask(f"{KEY}-away")
        connection.close()
    if VENDOR == "mariadb":
        connection.cursor().execute("DROP TABLE away")
    return answers


def written(record):
    """All that a handler of the logger could write of *record*."""
    error = "".join(traceback.format_exception(record.exc_info[1])) if record.exc_info else ""
    return f"{record.getMessage()} {record.args!r} {error}"


def test_no_log_line_and_no_signal_but_the_identity_has_a_key_or_a_body(serve, monkeypatch, caplog, heard):
    """Whatever becomes of a request. The identity in a line is a digest."""
    with caplog.at_level(logging.DEBUG, "django_idempotency"):
        answers = every_decision(serve, monkeypatch)

    assert answers == [201, 201, 400, 500, 500, 409, 500, 500, 422, 400, 400, 503]
    ours = [record for record in caplog.records if record.name.startswith("django_idempotency")]
    verbs = [record.getMessage().split()[0] for record in ours]
    assert {"Executed", "Replayed", "Refused", "Forgot", "Unsettled"} <= set(verbs)
    assert {"WARNING", "ERROR", "INFO"} == {record.levelname for record in ours}
    for record in ours:
        assert not any(secret in written(record) for secret in SECRETS), record.getMessage()
    for name, about in heard:
        identity = about.pop("identity")
        assert identity.key.startswith(KEY)
        assert not any(secret in f"{identity!r} {identity}" for secret in SECRETS)
        assert not any(secret in str(value) for value in about.values() for secret in SECRETS), name


def test_signals_carry_what_an_operator_needs(serve, monkeypatch, heard):
    """Whose key, sent to what, in which database; the record's status and request, the refusal's code, the error."""
    every_decision(serve, monkeypatch)

    of_views = [(name, about) for name, about in heard if about["identity"].operation == "POST act/"]
    assert {about["sender"] for _, about in heard} == {Identity}
    assert {(about["using"], about["in_atomic_block"]) for _, about in of_views} == {("default", False)}  # it stands
    assert all(about["identity"].scope for _, about in of_views)
    assert [
        (name, getattr(about.get("refusal"), "code", None) or getattr(about.get("record"), "request_id", None))
        for name, about in of_views
    ] == [
        ("executed", "request-0"),
        ("replayed", "request-0"),
        ("forgotten", None),
        ("forgotten", None),
        ("unsettled", None),
        ("refused", "outcome-unknown"),
        ("forgotten", None),
        ("forgotten", None),
        ("refused", "key-reused"),
        ("refused", "store-unavailable"),
    ]
    assert of_views[0][1]["record"].status == 201
    assert isinstance(of_views[4][1]["error"], CommittedEarly)
    assert [name for name, about in heard if about["identity"].operation == "secrets.event"] == [
        "executed",
        "replayed",
        "refused",
    ]


if VENDOR != "sqlite":  # where a duplicate waits for the first one

    def test_a_conflict_is_signalled_and_logged(serve, background, gate, heard, caplog):
        """409 while the first one runs: with its code, for whoever counts them."""

        def slow(request):
            gate.wait()
            return make_payment(request)

        serve(plain(slow))
        first = background(post, Client(), key=KEY)
        gate.reached()
        with caplog.at_level("INFO", "django_idempotency"):
            post(Client(), key=KEY)
        gate.open()
        first.result(TIMEOUT)

        assert isinstance(heard[0][1]["refusal"], RequestInProgress)
        lines = [record.getMessage() for record in caplog.records if record.name == "django_idempotency"]
        assert lines[0] == f"Refused {heard[0][1]['identity']}: request-in-progress"


def test_a_replays_line_names_the_request_that_was_executed(serve, caplog):
    """Which log line made this charge? From the line of a retry to the lines of the first request."""
    serve(plain(make_payment))
    with caplog.at_level("INFO", "django_idempotency"):
        for number in (1, 2, 3):
            post(Client(), key=KEY, headers={"X-Request-ID": f"request-{number}"})

    identity = IdempotencyRecord.objects.get()
    first, *retries = [record.getMessage() for record in caplog.records if record.name == "django_idempotency"]
    assert first == f"Executed {identity}"
    assert retries == [f"Replayed {identity}, first executed by request 'request-1'"] * 2


def test_a_request_id_writes_no_second_line(serve, caplog):
    """It is the client's to choose where no middleware is."""
    serve(plain(make_payment))

    class Forged(Client):
        def request(self, **request):
            return super().request(**request, HTTP_X_REQUEST_ID="1\nExecuted another")

    with caplog.at_level("INFO", "django_idempotency"):
        for _ in range(2):
            post(Forged(), key=KEY)

    replayed = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Replayed")]
    assert len(replayed) == 1
    assert "\n" not in replayed[0]
    assert "Executed another" in replayed[0]


if VENDOR != "sqlite":  # which has no connection to lose

    def test_a_lost_connection_costs_an_operation_beside_it_nothing(settings, heard):
        """The store is told that the outcome is unknown, and so are receivers, whose savepoint cannot be had."""
        memory = {"BACKEND": "django_idempotency.testing.memory.MemoryStore"}
        settings.IDEMPOTENCY = {"STORES": {"memory": memory}, "STORE": "memory"}

        @once("gateway.called", key=lambda: 1)
        def work():
            end_own_connection()
            raise SystemExit

        with pytest.raises((SystemExit, Error)), transaction.atomic():
            work()
        connection.close()

        assert [name for name, _ in heard] == ["unsettled"]
        with pytest.raises(OutcomeUnknown):
            work()
