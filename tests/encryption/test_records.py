"""Sealed rows of the DatabaseStore: what is in them, what opens them, and what a request gets if nothing does."""

import logging
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection

from django_idempotency.encryption import LABEL
from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations.records import settle
from django_idempotency.probes import NOT_DONE
from tests.app.models import Payment
from tests.app.serving import drf, is_replay, post
from tests.encryption.conftest import NEW, OLD, OTHER, SECRET, pay
from tests.operations.admin_urls import urlpatterns
from tests.operations.pages import page, text
from tests.operations.records import ANSWER, record

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("paying")]


def raw(table="django_idempotency_record"):
    """All that is in the table, as one string of bytes."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table}")
        return b"|".join(
            bytes(value) if isinstance(value, (bytes, memoryview)) else str(value).encode()
            for row in cursor.fetchall()
            for value in row
        )


def is_unknown(response):
    return (response.status_code, response.json()["code"]) == (409, "outcome-unknown")


def assert_refused(client, caplog, **about):
    """409, nothing has run, and the log names the identity and no secret."""
    before = Payment.objects.count()
    caplog.clear()
    response = post(client, **about)
    assert is_unknown(response)
    assert Payment.objects.count() == before
    errors = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert any(str(each) in errors[0] for each in IdempotencyRecord.objects.all())
    for leak in (SECRET, OLD, NEW, OTHER, "key-1"):
        assert leak not in caplog.text + response.content.decode()


def test_a_replay_is_the_answer_and_the_row_does_not_have_it(api, encrypt):
    encrypt({"a": OLD}, REQUIRE=True)

    first, again = post(api), post(api)

    assert (first.status_code, is_replay(again), Payment.objects.count()) == (201, True, 1)
    assert (again.content, again["X-Card"]) == (first.content, SECRET)
    assert SECRET.encode() not in raw()
    assert b"X-Card" not in raw()
    assert IdempotencyRecord.objects.get().record.body == first.content


def test_an_old_key_still_opens_and_the_new_one_seals(api, encrypt):
    encrypt({"old": OLD})
    post(api, key="1")
    encrypt({"new": NEW, "old": OLD})
    post(api, key="2")

    assert all(is_replay(post(api, key=key)) for key in "12")
    heads = {each.key: bytes(each.head) for each in IdempotencyRecord.objects.all()}
    assert heads == {"1": LABEL + b"\3old", "2": LABEL + b"\3new"}


@pytest.mark.parametrize("keys", [{"new": NEW}, {"old": OTHER}], ids=["lost", "wrong"])
def test_without_its_key_nothing_runs_again(api, encrypt, keys, caplog):
    """And with the key back, the answer is there."""
    encrypt({"old": OLD})
    first = post(api)

    encrypt(keys)
    assert_refused(api, caplog)

    encrypt({"new": NEW, "old": OLD})
    again = post(api)
    assert (again.content, is_replay(again)) == (first.content, True)


def test_without_the_setting_nothing_runs_again(api, encrypt, caplog):
    """It was taken out too early."""
    encrypt({"old": OLD})
    post(api)
    encrypt(None)
    assert_refused(api, caplog)


@pytest.mark.parametrize("option", ["probe", "retry"])
def test_no_option_makes_it_run_again(serve, api, encrypt, caplog, option):
    """Neither what asks the other system, nor what takes unknown outcomes for harmless."""
    serve(drf(pay, uncertain=(lambda record: NOT_DONE) if option == "probe" else "retry"))
    encrypt({"old": OLD})
    post(api)
    encrypt({"new": NEW})
    assert_refused(api, caplog)


def flip(column):
    def change(mine, other):
        value = bytearray(getattr(mine, column))
        value[-1] ^= 1
        return {column: bytes(value)}

    return change


TAMPERED = {
    "a flipped bit in the body": flip("body"),
    "a flipped bit in the head": flip("head"),
    "another status": lambda mine, other: {"status": 200},
    "the answer of another row": lambda mine, other: {"head": other.head, "body": other.body},
    "the body of another row": lambda mine, other: {"body": other.body},
    "a body that is cut off": lambda mine, other: {"body": bytes(mine.body)[:-1]},
    "no body": lambda mine, other: {"body": b""},
    "half a head": lambda mine, other: {"head": bytes(mine.head)[:-1]},
    "the mark alone": lambda mine, other: {"head": LABEL},
    "no head": lambda mine, other: {"head": b""},
    "the plain head of another": lambda mine, other: {"head": ANSWER.head(), "body": ANSWER.body},
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_row_that_was_changed_answers_nobody(api, encrypt, caplog, name):
    encrypt({"a": OLD}, REQUIRE=True)
    post(api)
    post(api, key="key-2")
    mine, other = (IdempotencyRecord.objects.get(key=f"key-{number}") for number in (1, 2))
    IdempotencyRecord.objects.filter(pk=mine.pk).update(**TAMPERED[name](mine, other))

    assert_refused(api, caplog)
    assert is_replay(post(api, key="key-2"))


def test_the_answer_of_an_earlier_execution_has_no_place_for_the_body_of_a_later_one(api, encrypt, caplog):
    """They are sealed as one, although they are two columns."""
    encrypt({"a": OLD})
    post(api)
    earlier = IdempotencyRecord.objects.get()
    IdempotencyRecord.objects.all().delete()
    post(api)
    nonce = bytes(earlier.body)[:12]
    IdempotencyRecord.objects.update(body=nonce + bytes(IdempotencyRecord.objects.get().body)[12:])
    assert_refused(api, caplog)


def test_rows_from_before_are_read_until_sealed_ones_are_required(api, encrypt, caplog):
    first = post(api)
    encrypt({"a": OLD})
    assert post(api).content == first.content
    encrypt({"a": OLD}, REQUIRE=True)
    assert_refused(api, caplog)


def test_keys_come_before_sealing_and_stay_after_it(api, encrypt):
    """With CURRENT None nothing is sealed and all is read, so no process of a deploy meets what it cannot open."""
    encrypt({"a": OLD})
    post(api, key="1")
    encrypt({"a": OLD}, CURRENT=None)
    post(api, key="2")

    assert all(is_replay(post(api, key=key)) for key in "12")
    assert SECRET.encode() in raw()


# --- operators ---


def show(*arguments):
    out = StringIO()
    call_command("idempotency_show", "key-1", *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def with_admin(settings, paying):
    """The admin beside the view."""
    settings.ROOT_URLCONF = (*settings.ROOT_URLCONF, *urlpatterns)


@pytest.mark.usefixtures("with_admin")
def test_the_admin_decrypts_for_those_who_may_see_it(api, encrypt, operator):
    encrypt({"a": OLD})
    post(api)
    row = IdempotencyRecord.objects.get()

    may, may_not = operator("view_stored_response"), operator(name="another")
    assert text(may.get(page("change", row))).count(SECRET) == 2
    assert SECRET in may.get(page("body", row)).content.decode()
    assert SECRET not in text(may_not.get(page("change", row)))
    assert may_not.get(page("body", row)).status_code == 403


@pytest.mark.usefixtures("with_admin")
def test_operators_are_told_why_an_answer_cannot_be_shown(api, encrypt, operator):
    encrypt({"old": OLD})
    post(api)
    encrypt({"new": NEW})
    row, says = IdempotencyRecord.objects.get(), "The stored answer cannot be decrypted: its key"

    client = operator("view_stored_response")
    shown = text(client.get(page("change", row)))
    assert shown.count(says) == 2
    assert client.get(page("body", row)).content == b""
    for out in (show(), show("--json", "--body")):
        assert says in out
        assert SECRET not in out


def test_show_decrypts(api, encrypt):
    encrypt({"a": OLD})
    post(api)
    assert SECRET in show("--body")


def test_an_operators_answer_is_sealed_with_the_scopes_key(api, keys):
    unsettled = record("key-1", scope="auth.user:7", answer=None)
    unsettled.save(force_insert=True)

    assert settle(unsettled, ANSWER)

    assert ANSWER.body not in raw()
    assert set(keys.keys) == {"auth.user:7"}
    assert IdempotencyRecord.objects.get().record.body == ANSWER.body
