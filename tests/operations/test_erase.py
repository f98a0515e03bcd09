"""`erasing.erase` and `manage.py idempotency_erase`: what is stored for a person is gone, and for others it stays."""

import os
import signal
import subprocess
import sys
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.cache import caches
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.http import HttpResponse
from django.utils.timezone import now

from django_idempotency import once
from django_idempotency.core.decision import Completed, InFlight
from django_idempotency.models import AnswerEnd, IdempotencyRecord
from django_idempotency.operations import erasing
from django_idempotency.operations.erasing import Erased, erase
from django_idempotency.operations.locations import database
from django_idempotency.operations.purging import purge
from django_idempotency.testing import expire
from tests.app.serving import VENDOR, drf, is_replay, post
from tests.lab.caches import NOWHERE, cache
from tests.operations.records import record, save

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.django_db(transaction=True)

PERSON = "auth.user:7"
# Collations of MySQL take these for the person's.
ALIKE = ("AUTH.user:7", "auth.user:7 ", "auth.us\u00e9r:7", "auth.user:77", "")


def run(*arguments: str, scope: str = PERSON, code: int = 0) -> str:
    out = StringIO()
    ended = 0
    try:
        call_command("idempotency_erase", "--scope", scope, *arguments, stdout=out, stderr=out)
    except SystemExit as error:
        ended = int(error.code or 0)
    assert ended == code, out.getvalue()
    return out.getvalue()


def scopes() -> list[str]:
    return sorted(IdempotencyRecord.objects.values_list("scope", flat=True))


def test_the_records_of_a_scope_are_erased_and_no_others(monkeypatch):
    """In batches. Scopes compare byte for byte, whatever the collation."""
    monkeypatch.setattr(erasing, "BATCH_SIZE", 3)
    save([record(scope=PERSON) for _ in range(7)] + [record(scope=PERSON, expires_in=-60)])
    save([record(scope=scope, operation=f"{n}") for n, scope in enumerate(ALIKE)])
    batches: list[int] = []

    assert erase(database("default"), PERSON, dry_run=True) == Erased(count=8, unsettled=0, in_flight=0)
    assert erase(database("default"), PERSON, progress=batches.append).count == 8

    assert batches == [3, 3, 2]
    assert scopes() == sorted(ALIKE)


def test_nothing_of_a_tombstone_is_left(api, serve, user):
    """Neither its row, nor the end of an answer that is not purged yet; others' ends stay."""
    serve(drf(lambda request: HttpResponse("secret"), tombstone_ttl=timedelta(days=90)))
    scope = f"auth.user:{user.pk}"
    post(api, key="buried")
    expire()
    purge()
    for key in ("ended", "answers"):
        post(api, key=key)
    expire("ended")
    later = now() + timedelta(days=1)
    AnswerEnd.objects.create(digest=b"x" * 32, executed_at=later, ends_at=later)

    assert erase(database("default"), scope, dry_run=True) == erase(database("default"), scope)
    assert scopes() == []
    assert [bytes(end.digest) for end in AnswerEnd.objects.all()] == [b"x" * 32]


def test_more_than_one_page(monkeypatch):
    """Of the look through the table."""
    monkeypatch.setattr("django_idempotency.stores.database.store.PAGE", 2)
    save([record(scope=PERSON) for _ in range(5)])

    assert "Erased 5 records from database 'default'." in run()
    assert scopes() == []


def test_an_unknown_outcome_is_left_unless_it_is_asked_for():
    """Its key would run again, although the first request may have taken effect. An expired one is new anyway."""
    save([record(scope=PERSON, answer=None), record(scope=PERSON, answer=None, expires_in=-60), record(scope=PERSON)])

    assert "Left: 1 of unknown outcome." in run("--dry-run")
    assert len(scopes()) == 3
    written = run(code=3)
    assert "Erased 2 records" in written
    assert "--include-unsettled" in written
    assert "Erased 1 record from" in run("--include-unsettled")
    assert scopes() == []


@pytest.mark.skipif(VENDOR == "sqlite", reason="its one writer is waited for")
@pytest.mark.parametrize("seen", [True, False], ids=["claimed anew", "new"])
def test_a_request_in_flight_is_left(background, seen, gate):
    """Of a key that was used before, the old record is seen and left; a new one is not seen yet. Others are erased."""
    save([record(scope=PERSON)])
    if seen:
        save([record("key-1", scope=PERSON, operation="erase.slow", expires_in=-60)])
    request = background(slow, "key-1", gate)
    gate.reached()

    written = run(code=3 if seen else 0)
    gate.open()
    request.result()

    assert "Erased 1 record from" in written
    assert ("Left: 1 in flight." in written) is seen
    assert scopes() == [PERSON]
    run()
    assert scopes() == []


@once("erase.slow", key=lambda key, gate: key, scope=lambda key, gate: PERSON)
def slow(key, gate):
    gate.wait()
    return key


def test_inside_a_transaction_nothing_is_erased():
    """No batch could be committed."""
    save([record(scope=PERSON)])

    with transaction.atomic(), pytest.raises(CommandError, match="call it outside"):
        run()
    assert scopes() == [PERSON]


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_every_database_is_looked_through(settings):
    """That is named, or that an option `using` names."""
    settings.IDEMPOTENCY = {"USING": "other"}
    save([record(scope=PERSON)])
    save([record(scope=PERSON)], using="other")

    assert run().count("Erased 1 record from database") == 2
    assert not IdempotencyRecord.objects.using("other").exists()


@pytest.mark.parametrize("scope", ["", "x" * 256, "a\0b"])
def test_what_cannot_be_a_scope(scope):
    with pytest.raises(CommandError, match="cannot be a scope") as error:
        run(scope=scope)
    assert error.value.returncode == 2


def test_a_replay_cache_forgets_too(settings, serve, api, user):
    """Else it would go on to answer. If it does not answer itself, nothing is erased."""
    backend = "django_idempotency.stores.database.DatabaseStore"
    prefix = f"erase-{os.getpid()}"

    def configure(url):
        settings.CACHES = {**settings.CACHES, "replays": cache(url, KEY_PREFIX=prefix)}
        settings.IDEMPOTENCY = {"STORES": {"default": {"BACKEND": backend, "OPTIONS": {"REPLAY_CACHE": "replays"}}}}

    configure(cache()["LOCATION"])
    serve(drf(lambda request: HttpResponse("secret")))
    assert [is_replay(post(api)) for _ in range(2)] == [False, True]

    configure(NOWHERE)
    with pytest.raises(CommandError, match="The replay cache does not answer"):
        run(scope=f"auth.user:{user.pk}")
    assert len(scopes()) == 1

    configure(cache()["LOCATION"])
    run(scope=f"auth.user:{user.pk}")
    assert not is_replay(post(api))
    caches["replays"].delete_pattern("*")


# --- a store outside the databases ---


def test_a_redis_store(keys):
    """Every state of an identity; only the claim in flight and the unknown outcome stay."""
    mine = {name: keys.attempt(name, scope=PERSON) for name in ("done", "flying", "unknown")}
    other = keys.attempt("done", scope="auth.user:77")
    keys.complete(mine["done"])
    claim = keys.claim(mine["flying"])
    keys.unsettle(mine["unknown"])
    keys.complete(other)

    written = run("--store", "redis", code=3)

    assert "Erased 1 record from store 'redis'" in written
    assert "Left: 1 in flight" in written
    assert "Left: 1 of unknown outcome" in written
    assert keys.store.find(None, mine["done"].identity.digest) is None
    assert isinstance(keys.found(other), Completed)
    assert isinstance(keys.found(mine["flying"]), InFlight)
    keys.store.release(mine["flying"], claim)
    assert "Erased 1 record from" in run("--store", "redis", "--include-unsettled")
    left = b"".join(b"".join(_fields(keys, name)) for name in keys.store.redis.client.scan_iter(_all(keys)))
    assert PERSON.encode() + b" " not in left + b" "


def _all(keys):
    return keys.store.redis.make_key("*")


def _fields(keys, name):
    client = keys.store.redis.client
    return client.hgetall(name).values() if client.type(name) == b"hash" else []


@pytest.mark.parametrize("form", ["{key}|{prefix}", "{prefix}[*]{key}"])
def test_keys_of_a_projects_own_form(keys, settings, form):
    """A KEY_FUNCTION may hide the names, or put what SCAN takes for a pattern into them."""

    def function(key, prefix, version):
        return form.format(key=key, prefix=prefix)

    settings.CACHES = {**settings.CACHES, "keys": settings.CACHES["keys"] | {"KEY_FUNCTION": function}}
    settings.IDEMPOTENCY = {**settings.IDEMPOTENCY}
    attempt = keys.attempt("done", scope=PERSON)
    keys.complete(attempt)

    assert "Erased 1 record from store 'redis'" in run("--store", "redis")
    assert keys.store.find(None, attempt.identity.digest) is None


def test_a_store_that_is_away_hides_no_other(keys, away):
    """The database and the other store are erased, and the error is said."""
    save([record(scope=PERSON)])
    keys.complete(keys.attempt("done", scope=PERSON))

    with pytest.raises(CommandError, match="Store 'away'"):
        run()
    assert scopes() == []
    assert keys.store.find(None, keys.attempt("done", scope=PERSON).identity.digest) is None


# --- killed ---


@pytest.mark.kill
def test_a_kill_in_the_middle_leaves_whole_batches_and_the_next_run_goes_on():
    """Each batch commits by itself."""
    save([record(scope=PERSON) for _ in range(20)])
    code = (
        "import django; django.setup()\n"
        "import os, signal\n"
        "from django.db import connection\n"
        f"connection.settings_dict['NAME'] = {str(connection.settings_dict['NAME'])!r}\n"
        "from django_idempotency.operations import erasing, locations\n"
        "erasing.BATCH_SIZE = 6\n"
        "batches = []\n"
        "def progress(count):\n"
        "    batches.append(count)\n"
        "    len(batches) == 2 and os.kill(os.getpid(), signal.SIGKILL)\n"
        f"erasing.erase(locations.database('default'), {PERSON!r}, progress=progress)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    assert len(scopes()) == 8
    assert "Erased 8 records" in run()
    assert scopes() == []
