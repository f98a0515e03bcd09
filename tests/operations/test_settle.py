"""Settling by command: the request runs again, or retries get an answer that a person wrote."""

import logging

import pytest

from django_idempotency.core.decision import Claimed, Completed, Unsettled
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations import records
from tests.app.models import Payment
from tests.app.serving import is_replay
from tests.lab.caches import NOWHERE, cache
from tests.operations.records import record, save
from tests.operations.redis_store import identity
from tests.operations.test_unsettled import refusal, run

pytestmark = pytest.mark.django_db

ANSWER = ("--status", "201", "--body", '{"id":7}')


def unsettled_payment(api):
    """POST /pay/ with key-1, of which nothing but the claim and its effect is left; its identity."""
    assert api.post("/pay/", {"amount": 10}, headers={"Idempotency-Key": "key-1"}).status_code == 201
    IdempotencyRecord.objects.update(status=0, head=b"", body=b"")
    assert pay(api).json()["code"] == "outcome-unknown"
    return str(IdempotencyRecord.objects.get())


def pay(api):
    return api.post("/pay/", {"amount": 10}, headers={"Idempotency-Key": "key-1"})


def test_a_row_runs_again(api, caplog, django_capture_on_commit_callbacks):
    """The next request with the key runs, and the log says who was freed."""
    found = unsettled_payment(api)

    with caplog.at_level(logging.INFO, "django_idempotency"), django_capture_on_commit_callbacks(execute=True):
        text, _ = run("--run-again", found.upper())

    assert text == f"Freed {found} in database 'default': the next request with its key runs.\n"
    assert f"Freed {found}" in caplog.messages
    assert pay(api).status_code == 201
    assert Payment.objects.count() == 2


def test_retries_get_the_answer_that_is_stored(api):
    """Byte for byte, as a replay; and it stays."""
    found = unsettled_payment(api)

    text, _ = run("--answer", found, "--status", "201", "--body", '{"id":7, "by": "hand"}')

    assert text == f"Stored an answer of status 201 for {found} in database 'default': retries get it.\n"
    for _ in range(2):
        answered = pay(api)
        assert (answered.status_code, answered.content) == (201, b'{"id":7, "by": "hand"}')
        assert answered.headers["Content-Type"] == "application/json"
        assert is_replay(answered)
    assert Payment.objects.count() == 1
    assert f"{found} is completed in database 'default'" in refusal("--answer", found, *ANSWER)


def test_a_file_is_the_body(api, tmp_path):
    """With a content type of its own."""
    found = unsettled_payment(api)
    file = tmp_path / "body"
    file.write_bytes("né\n".encode())

    run("--answer", found, "--status", "200", "--body-file", str(file), "--content-type", "text/plain; charset=utf-8")

    answered = pay(api)
    assert (answered.status_code, answered.content) == (200, "né\n".encode())
    assert answered.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--status", "201", "--body", "{}", "--content-type", "a\x1bb"), "--content-type: "),
        (("--status", "201", "--body", "1" * 200), "--body: The body has 200 bytes, and 100 are allowed."),
    ],
)
def test_an_answer_that_no_handler_could_give(arguments, word, settings):
    """Exit code 2, and nothing is stored."""
    settings.IDEMPOTENCY = {"MAX_BODY": 100}
    [row] = save([record(answer=None)])

    assert refusal("--answer", str(row), *arguments, code=2).startswith(word)
    assert IdempotencyRecord.objects.get().status == 0


def test_the_result_of_an_event_is_json():
    """A redelivery reads it, and would fail at anything else for as long as the record is kept."""
    [row] = save([record(answer=None, request="")])

    assert "The result of an event is JSON" in refusal("--answer", str(row), "--status", "200", code=2)
    run("--answer", str(row), "--status", "200", "--body", "null")
    assert bytes(IdempotencyRecord.objects.get().body) == b"null"


@pytest.mark.parametrize("decision", ["--run-again", "--answer"])
def test_what_is_not_unsettled_is_not_settled(decision):
    """Completed, expired or unknown: it is said, and nothing is done."""
    completed, expired = save([record("a"), record("b", answer=None, expires_in=-60)])
    answer = ANSWER if decision == "--answer" else ()

    assert "is completed in database 'default'" in refusal(decision, str(completed), *answer)
    assert "is expired in database 'default'" in refusal(decision, str(expired), *answer)
    assert "is unsettled in database 'default'" in refusal(decision, "0" * 64, *answer)
    assert IdempotencyRecord.objects.count() == 2


@pytest.mark.parametrize("first", ["plain", "cached"])
def test_nothing_is_freed_past_another_stores_cache(settings, first):
    """Two stores have the table, and the one's replay cache is away: whichever comes first, the row stays."""
    backend = "django_idempotency.stores.database.DatabaseStore"
    both = {
        "plain": {"BACKEND": backend},
        "cached": {"BACKEND": backend, "OPTIONS": {"REPLAY_CACHE": "away"}},
    }
    settings.CACHES = {**settings.CACHES, "away": cache(NOWHERE)}
    settings.IDEMPOTENCY = {"STORES": {"default": both[first], **both}}
    [row] = save([record(answer=None)])

    assert refusal("--run-again", str(row)).startswith("Nothing was done: The replay cache does not answer")
    assert IdempotencyRecord.objects.exists()


# --- a store beside the databases ---


def test_a_key_that_was_freed_in_the_meantime_is_said(monkeypatch):
    """By another operator, after this one's look at it."""
    [row] = save([record(answer=None)])
    free = records.free
    monkeypatch.setattr(records, "free", lambda found: free(found) and free(found))

    assert "was freed in database 'default' in the meantime" in refusal("--run-again", str(row))


def test_what_is_not_the_stores_is_freed_only(keys):
    """No answer can be stored in it."""
    attempt = keys.attempt()
    keys.plant(attempt)

    assert "was not written by this package" in refusal("--answer", identity(attempt), *ANSWER)
    assert isinstance(keys.found(attempt), Unsettled)
    run("--run-again", identity(attempt))
    assert isinstance(keys.found(attempt), Claimed)


def test_a_store_that_does_not_answer_is_said(keys, away):
    """It hinders nobody who settles what another has; it is an error where the identity is in no other."""
    attempt = keys.attempt()
    keys.unsettle(attempt)

    assert "Store 'away': " in refusal("--run-again", "0" * 64)
    _, warned = run("--answer", identity(attempt), *ANSWER)
    assert "Store 'away': " in warned
    assert isinstance(keys.found(attempt), Completed)


def test_a_store_that_goes_away_is_told_with_a_doubt(keys, monkeypatch):
    """The call may have been carried out."""
    attempt = keys.attempt()
    keys.unsettle(attempt)

    def free(*args, **kwargs):
        raise ConnectionResetError("gone")

    monkeypatch.setattr(records, "free", free)

    said = refusal("--run-again", identity(attempt))
    assert said == "Store 'redis': gone It is not known whether this was done: list again."


def test_an_identity_in_two_places_is_settled_in_the_one_that_is_named(keys):
    attempt = keys.attempt()
    keys.unsettle(attempt)
    save([record("key-1", operation="POST charge/", answer=None)])

    said = refusal("--run-again", identity(attempt))
    assert "in database 'default' and store 'redis': name one with --store, --database or --schema" in said
    run("--run-again", identity(attempt), "--store", "redis")
    assert IdempotencyRecord.objects.exists()
    assert keys.store.find(None, attempt.identity.digest) is None


def test_a_busy_row_is_left_alone(monkeypatch):
    """The words of the refusal are said, where there is nothing else to be seen."""
    [row] = save([record(answer=None)])

    def free(*args, **kwargs):
        raise RequestInProgress

    monkeypatch.setattr(records, "free", free)

    assert refusal("--run-again", str(row)).startswith("Nothing was done: A request with this key is being executed.")
