"""`manage.py idempotency_unsettled`: the executions whose outcome is not known, wherever they are."""

import json
import re
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from django_idempotency.management.commands.idempotency_unsettled import Command
from tests.operations.records import record, save
from tests.operations.redis_store import identity

pytestmark = pytest.mark.django_db


def run(*arguments):
    """What the command writes, and what it warns of."""
    out, err = StringIO(), StringIO()
    call_command("idempotency_unsettled", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def listed(*arguments):
    """The list, as JSON."""
    return json.loads(run(*arguments, "--json")[0])


def refusal(*arguments, code=1):
    """The words of the refusal, with this exit code."""
    with pytest.raises(CommandError) as error:
        run(*arguments)
    assert error.value.returncode == code
    return str(error.value)


def made(hours=1, **fields):
    """A row without an outcome, executed this long ago."""
    return record(answer=None, executed_at=timezone.now() - timedelta(hours=hours), **fields)


def test_nothing_is_unsettled():
    """That is no error: whoever asks each night hears of what there is."""
    save([record("completed"), record("expired", answer=None, expires_in=-60)])

    assert run() == ("No outcome is unsettled in database 'default'.\n", "")
    assert listed() == []


def test_what_never_expires_says_so():
    """It is listed until somebody has settled it, or until its own time is over."""
    save([record("forever", answer=None), record("until", answer=None, uncertain_until=timezone.now() + timedelta(1))])

    assert [each["expires_at"] is None for each in sorted(listed(), key=lambda each: each["key"])] == [True, False]
    assert re.search(r"expires +never", run()[0])


def test_the_oldest_first():
    """Of the databases, with what was asked; no more than the limit."""
    save([made(1, key="new"), made(3, key="oldest"), made(2, key="old")])

    assert [each["key"] for each in listed()] == ["oldest", "old", "new"]
    text, warned = run("--limit", "2")
    assert text.count("Unsettled ") == 2
    for part in ("in database 'default'", "oldest", "auth.user:1", "POST pay/", "POST shop.example pay/", "r-1"):
        assert part in text
    assert "  status       unknown" in text
    assert "the oldest 2" in warned
    assert run("--limit", "3")[1] == ""


@pytest.mark.django_db(databases=["default", "other"])
def test_a_database_is_named():
    """The others are not asked."""
    save([made(key="here")])
    save([made(key="there")], "other")

    assert [(each["key"], each["database"]) for each in listed("--database", "other")] == [("there", "other")]
    assert [each["key"] for each in listed()] == ["here"]
    assert "DATABASES has no 'missing'" in refusal("--database", "missing")


def test_every_store_is_asked(keys):
    """A store beside the databases too, in one list with them; not what is in flight or completed there."""
    save([made(1, key="row")])
    keys.unsettle(keys.attempt("redis"))
    keys.claim(keys.attempt("in flight"))
    keys.complete(keys.attempt("completed"))

    row, stored = listed()
    assert (row["key"], row["database"], row["store"]) == ("row", "default", None)
    assert stored == stored | {
        "database": None,
        "store": "redis",
        "identity": identity(keys.attempt("redis")),
        "key": "redis",
        "scope": "auth.user:1",
        "operation": "POST charge/",
        "state": "unsettled",
        "route": "charge/",
        "request_id": "r-1",
        "answer": None,
    }
    assert "Unsettled 2 of 2, in store 'redis'" in run()[0]


def test_a_store_is_named(keys):
    """It alone is asked; a database alone, where that is named; and both, where both are."""
    save([made(1, key="row")])
    keys.unsettle(keys.attempt("redis"))

    def found(*arguments):
        return [each["key"] for each in listed(*arguments)]

    assert found("--store", "redis") == ["redis"]
    assert found("--store", "default") == ["row"]
    assert found("--database", "default") == ["row"]
    assert found("--store", "redis", "--database", "default") == ["row", "redis"]
    assert "STORES has no 'missing'; it has default, redis." in refusal("--store", "missing")


def test_a_store_that_does_not_answer_hides_no_other(keys, away, capsys):
    """What the others have is listed; then the error is said, with exit code 1."""
    keys.unsettle(keys.attempt("redis"))
    out = StringIO()

    with pytest.raises(CommandError, match=r"^Store 'away': .*127.0.0.1:1") as error:
        call_command("idempotency_unsettled", stdout=out)

    assert error.value.returncode == 1
    assert identity(keys.attempt("redis")) in out.getvalue()
    assert "No outcome" not in out.getvalue()


def test_what_is_not_the_stores_is_said_to_be_so(keys):
    """Of a claim that somebody wrote over nothing is known, and nothing is made up."""
    attempt = keys.attempt()
    keys.unsettle(attempt)
    keys.plant(attempt)

    [found] = listed()
    assert (found["identity"], found["executed_at"], found["expires_at"]) == (identity(attempt), None, None)
    assert found["problems"] == ["What is stored here was not written by this package, or only in part."]
    text, _ = run()
    assert "was not written by this package" in text
    assert "1970" not in text


def test_a_setting_that_is_wrong_is_said(settings):
    settings.IDEMPOTENCY = {"STORES": {"redis": {"BACKEND": "missing.Store"}}}

    assert "'missing.Store' cannot be imported" in refusal()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--limit", "0"), "must be a whole number from 1"),
        (("--run-again", "abc"), "must be an identity of 64 hexadecimal digits"),
        (("--answer", "0" * 64), "--answer needs the answer's --status"),
        (("--answer", "0" * 64, "--status", "199"), "must be a whole number from 200 to 599"),
        (("--answer", "0" * 64, "--run-again", "0" * 64), "not allowed with"),
        (("--status", "201"), "--status is for --answer"),
        (("--run-again", "0" * 64, "--body", ""), "--body is for --answer"),
        (("--run-again", "0" * 64, "--json"), "--json is for the list"),
        (("--answer", "0" * 64, "--status", "201", "--body", "1", "--body-file", "f"), "not both"),
        (("--answer", "0" * 64, "--status", "201", "--body-file", "/missing/file"), "No such file"),
    ],
)
def test_a_bad_argument(arguments, word, capsys):
    """Exit code 2, before anything is asked or done."""
    with pytest.raises((CommandError, SystemExit)) as error:
        typed(*arguments)

    assert getattr(error.value, "returncode", getattr(error.value, "code", None)) == 2
    assert word in f"{error.value}{capsys.readouterr().err}"


def typed(*arguments):
    """As from a command line, but for Django's end of it, which closes all connections."""
    command = Command()
    command._called_from_command_line = True
    parser = command.create_parser("manage.py", "idempotency_unsettled")
    command.execute(**vars(parser.parse_args(arguments)))
