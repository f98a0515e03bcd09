"""`manage.py idempotency_show`: what was asked and answered, whatever is stored and whatever is typed."""

import base64
import io
import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from django_idempotency.core.keys import Identity
from django_idempotency.core.record import BYTES, JSON, LEFT_OUT, TOMBSTONE, CompletionRecord
from django_idempotency.models import AnswerEnd, IdempotencyRecord
from tests.operations.records import ANSWER, record, save
from tests.operations.redis_store import identity

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.django_db


def show(*arguments):
    out = StringIO()
    call_command("idempotency_show", *arguments, stdout=out)
    return out.getvalue()


def shown(*arguments):
    """The records, as JSON."""
    return json.loads(show(*arguments, "--json"))


def refusal(*arguments):
    """The words of the refusal, which can be written anywhere."""
    with pytest.raises(CommandError) as error:
        show(*arguments)
    assert error.value.returncode == 1
    str(error.value).encode()  # can be written
    return str(error.value)


def values(text):
    """The labels and values of a record shown as text; headers by their names."""
    pairs = [line.split(None, 1) for line in text.splitlines()[1:] if line.startswith("  ") and line[2] != " "]
    return {pair[0]: pair[-1] for pair in pairs}


def test_what_was_asked_and_answered():
    """As text. The body's size is shown, the body is not."""
    [row] = save([record("key-1")])
    text = show("key-1")

    assert text.startswith("Record 1 of 1, in database 'default'\n")
    assert values(text) | {"header": "", "request": ""} == {
        "identity": row.digest.hex(),
        "key": "key-1",
        "scope": "auth.user:1",
        "operation": "POST pay/",
        "state": "completed",
        "asked": "POST shop.example pay/",
        "fingerprint": "01" * 32,
        "request": "",
        "executed": f"{row.executed_at:%Y-%m-%d %H:%M:%S} UTC",
        "expires": f"{row.expires_at:%Y-%m-%d %H:%M:%S} UTC",
        "status": "201 Created",
        "header": "",
        "body": "json, 20 bytes, application/json; --body shows it",
    }
    assert "  request id   r-1\n" in text
    assert "  header       Location: /payments/1/\n" in text
    assert "  header       Content-Length: (computed anew)\n" in text
    assert "amount" not in text


def test_the_body_for_those_who_ask():
    """Pretty, and its bytes exactly in JSON."""
    save([record("key-1")])

    assert '    {\n      "id": 1,\n      "amount": 10\n    }\n' in show("key-1", "--body")
    [found] = shown("key-1", "--body")
    assert base64.b64decode(found["answer"]["body"]["base64"]) == ANSWER.body
    assert json.loads(found["answer"]["body"]["text"]) == {"id": 1, "amount": 10}


def test_json():
    """All that is known, in names that scripts can rely on; without the body unless it is asked for."""
    [row] = save([record("key-1")])

    assert shown("key-1") == [
        {
            "database": "default",
            "schema": None,
            "store": None,
            "identity": row.digest.hex(),
            "key": "key-1",
            "scope": "auth.user:1",
            "operation": "POST pay/",
            "state": "completed",
            "method": "POST",
            "host": "shop.example",
            "route": "pay/",
            "fingerprint": "01" * 32,
            "request_id": "r-1",
            "executed_at": row.executed_at.isoformat(),
            "expires_at": row.expires_at.isoformat(),
            "answer": {
                "status": 201,
                "reason": "Created",
                "headers": [
                    ["Content-Type", "application/json"],
                    ["Content-Length", None],
                    ["Location", "/payments/1/"],
                ],
                "body": {"kind": "json", "media_type": "application/json", "size": 20, "instead": None},
            },
            "run": None,
            "problems": [],
        }
    ]


@pytest.mark.parametrize(
    ("instead", "body", "says"),
    [
        (LEFT_OUT, b"", "not stored (option store_body)"),
        (JSON, b'{"payment":7}', "a reference (option record): json, 13 bytes; --body shows it"),
        (BYTES, b"\x00\xff", "a reference (option record): binary, 2 bytes; --body shows it"),
    ],
)
def test_what_is_stored_in_the_place_of_a_body(instead, body, says):
    """A reader must not take a reference for the answer."""
    save([record("key-1", answer=CompletionRecord(status=201, body=body, instead=instead))])

    assert values(show("key-1"))["body"] == says
    assert shown("key-1")[0]["answer"]["body"]["instead"] == instead


def test_states():
    """A claim without an outcome has no answer; an expired record has."""
    save([record("unknown", answer=None), record("old", expires_in=-60)])

    assert [(each["state"], each["answer"]) for each in shown("unknown")] == [("unsettled", None)]
    assert values(show("unknown"))["status"] == "unknown"
    assert [each["state"] for each in shown("old")] == ["expired"]


def test_a_key_of_several_scopes_and_operations():
    """All are shown, the oldest first; options narrow it down."""
    save(
        [
            record("key-1", scope=scope, operation=operation)
            for scope in ("auth.user:1", "auth.user:2")
            for operation in ("POST pay/", "invoice.paid")
        ]
    )

    assert len(shown("key-1")) == 4
    assert show("key-1").count("Record ") == 4
    assert {each["operation"] for each in shown("key-1", "--scope", "auth.user:2")} == {"POST pay/", "invoice.paid"}
    [one] = shown("key-1", "--scope", "auth.user:2", "--operation", "invoice.paid")
    assert (one["scope"], one["operation"]) == ("auth.user:2", "invoice.paid")
    assert "in this scope or operation" in refusal("key-1", "--scope", "auth.user:3")


def test_by_identity():
    """As a log line shows it, in either case; a key that only looks like one is found as a key."""
    save([record("key-1"), record("ab" * 32)])
    identity = Identity("auth.user:1", "POST pay/", "key-1").digest.hex()

    for spelling in (identity, identity.upper()):
        assert [each["key"] for each in shown(spelling)] == ["key-1"]
    assert [each["key"] for each in shown("ab" * 32)] == ["ab" * 32]
    assert "No record of" in refusal("cd" * 32)


@pytest.mark.django_db(databases=["default", "other"])
def test_a_database_is_named():
    """The others are not asked."""
    save([record("key-1")], "other")

    assert [each["database"] for each in shown("key-1", "--database", "other")] == ["other"]
    assert "in 'default'" in refusal("key-1")
    assert "DATABASES has no 'missing'" in refusal("key-1", "--database", "missing")


def test_an_unknown_key():
    """Exit code 1, and a word on why it may be so."""
    assert refusal("key-1") == "No record of 'key-1' in 'default': it was never used, was freed, or is purged."


def test_a_key_of_255_strange_characters():
    """Every printable character, a leading dash too."""
    key = ("-" + "".join(map(chr, range(0x20, 0x7F))) * 3)[:255]
    save([record(key)])

    out = StringIO()
    call_command("idempotency_show", "--json", "--", key, stdout=out)
    assert [each["key"] for each in json.loads(out.getvalue())] == [key]


@pytest.mark.parametrize(
    "key", ["", "k" * 256, "a\0b", "a\udce9b", "é", "a\nb", "\x1b[31mred", "\u202eright"], ids=repr
)
def test_what_can_be_no_key(key):
    """Nothing is asked of a database that would refuse it, and a terminal shows the words as they are."""
    said = refusal(key)

    assert "cannot be an idempotency key, which has 1 to 255 printable ASCII characters" in said
    assert said.isprintable()


@pytest.mark.parametrize("option", ["--scope", "--operation"])
@pytest.mark.parametrize("value", ["a\0b", "a\udce9b"], ids=repr)
def test_what_can_be_no_scope(option, value):
    """The same for the filters."""
    said = refusal("key-1", option, value)

    assert said.startswith(f"{option} has a character that no database stores")
    assert said.isprintable()


def test_stored_text_gives_a_terminal_no_orders():
    """Wherever it stands: scope, request, headers, body."""
    order = "\x1b]0;owned\x07\x1b[2J\u202e"
    answer = CompletionRecord(
        status=200, reason=order, headers=(("Content-Type", "text/plain"), ("X-Order", order)), body=order.encode()
    )
    save([record("key-1", scope=order, operation=order, answer=answer, request=f"POST {order} pay/", request_id=order)])

    for text in (show("key-1", "--body"), show("key-1", "--body", "--json")):
        assert all(line.isprintable() for line in text.splitlines())
        assert "x1b" in text


def test_a_broken_row_is_shown():
    """What can be read of it, and a word on the rest."""
    save([record("key-1", head=b"\xff not json", body=b"\xff\xfe\x00")])

    assert "  problem " in show("key-1", "--body")
    [found] = shown("key-1", "--body")
    assert found["problems"]
    assert found["answer"]["headers"] is None
    assert base64.b64decode(found["answer"]["body"]["base64"]) == b"\xff\xfe\x00"


def test_a_binary_body_is_not_printed():
    """Its bytes are in the JSON."""
    answer = CompletionRecord(status=200, headers=(("Content-Type", "image/png"),), body=b"\x89PNG\x00")
    save([record("key-1", answer=answer)])

    assert "binary, 5 bytes, image/png; --json --body has its bytes" in show("key-1", "--body")


def test_a_large_body_is_whole():
    """A page cuts it, the command does not."""
    body = b"x" * (1 << 20)
    save([record("key-1", answer=CompletionRecord(status=200, headers=(("Content-Type", "text/plain"),), body=body))])

    assert "x" * len(body) in show("key-1", "--body")


def test_a_terminal_without_unicode():
    """What its encoding lacks is spelled out."""
    save([record("key-1", scope="zoë")])
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    call_command("idempotency_show", "key-1", stdout=out)
    out.flush()

    assert b"scope        zo\\xeb" in out.buffer.getvalue()


def test_a_record_of_a_store(keys):
    """Found by its identity, and by its key where scope and operation are given; as a row is shown."""
    attempt = keys.attempt("key-1")
    keys.complete(attempt)
    keys.claim(keys.attempt("flying"))

    text = show(identity(attempt), "--body")
    assert text.startswith("Record 1 of 1, in store 'redis'\n")
    assert values(text)["status"] == "201 Created"
    assert '      "amount": 10\n' in text
    of_request = ("--scope", "auth.user:1", "--operation", "POST charge/")
    for arguments in (("key-1", *of_request), (identity(attempt).upper(),), (identity(attempt), *of_request)):
        [found] = shown(*arguments)
        assert (found["store"], found["database"], found["key"]) == ("redis", None, "key-1")
    assert "in this scope or operation" in refusal(identity(attempt), "--scope", "auth.user:2")
    assert "is in flight" in refusal("flying", *of_request)
    assert refusal("key-1").endswith("For store 'redis', give an identity, or --scope and --operation with the key.")


def test_stores_and_databases_that_are_named(keys):
    """With a store, it alone is asked; with a database, no store beside it."""
    attempt = keys.attempt("key-1")
    keys.complete(attempt)
    save([record("key-1", operation="POST charge/")])

    def places(*arguments):
        return [each["store"] or each["database"] for each in shown(identity(attempt), *arguments)]

    assert places() == ["default", "redis"]
    assert places("--store", "redis") == ["redis"]
    assert places("--store", "default") == places("--database", "default") == ["default"]


def test_what_is_not_the_stores_is_said_to_be_so(keys):
    """Nothing but the identity is known of it, and nothing else is made up."""
    attempt = keys.attempt()
    keys.plant(attempt, "\x1b]0;owned\x07")

    text = show(identity(attempt))
    assert "was not written by this package" in text
    assert "1970" not in text
    assert all(line.isprintable() for line in text.splitlines())


def test_a_store_that_does_not_answer_hides_no_other(keys, away, capsys):
    """What others have is shown; then the error is said, with exit code 1."""
    attempt = keys.attempt()
    keys.complete(attempt)
    out = StringIO()

    with pytest.raises(CommandError, match=r"^Store 'away': ") as error:
        call_command("idempotency_show", identity(attempt), stdout=out)

    assert error.value.returncode == 1
    assert "in store 'redis'" in out.getvalue()
    assert refusal("0" * 64).startswith("Store 'away': ")


def test_an_error_of_the_database_is_no_traceback(monkeypatch):
    """It is said in the words of the database."""
    from django.db import OperationalError
    from django.db.models import QuerySet

    def fail(self):
        raise OperationalError("the server went away")

    monkeypatch.setattr(QuerySet, "__iter__", fail)

    assert refusal("key-1") == "Database 'default': the server went away"


def test_invalid_utf_8_on_the_command_line():
    """As a shell hands it over: exit code 1, a clear word, no traceback."""
    process = subprocess.run(
        [sys.executable, "-m", "django", "idempotency_show", b"a\xe9b"],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        capture_output=True,
        check=False,
    )

    assert process.returncode == 1
    assert rb"'a\udce9b' cannot be an idempotency key" in process.stderr
    assert b"Traceback" not in process.stderr
    assert not IdempotencyRecord.objects.exists()


@pytest.mark.parametrize("purged", [False, True], ids=["not yet purged", "purged"])
def test_a_tombstone_shows_no_answer(purged):
    """Whether the purge has taken it out or not."""
    [row] = save([record("key-1", **({"status": TOMBSTONE, "head": b"", "body": b""} if purged else {}))])
    if not purged:
        AnswerEnd.objects.create(digest=row.digest, executed_at=row.executed_at, ends_at=row.executed_at)

    text = values(show("key-1", "--body"))
    [stored] = shown("key-1", "--body")

    assert (text["state"], text["status"]) == ("tombstone", "not kept any more")
    assert not text.keys() & {"header", "body", "problem"}
    assert (stored["state"], stored["answer"], stored["problems"]) == ("tombstone", None, [])
