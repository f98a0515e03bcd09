"""`crash_points`: right views survive kill -9 at every point, and each wrong one is told what it does wrong."""

import os
import re
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.core.cache import caches
from django.db import connections
from django.test import TestCase, TransactionTestCase, override_settings

from django_idempotency.models import IdempotencyRecord
from django_idempotency.stores import stores
from django_idempotency.testing.calls import Call
from django_idempotency.testing.crashes import crash_points
from django_idempotency.testing.findings import NotProved
from django_idempotency.testing.processes import CannotFork
from tests.app.models import Child, Payment, Unique
from tests.kit.crash_gallery import ACCOUNT
from tests.proof.bugs import RecordOutside

REDIS_URL = os.environ.get("REDIS_URL", "")

pytestmark = [pytest.mark.django_db(transaction=True, databases=["default", "other"]), pytest.mark.kill]


@pytest.fixture(autouse=True)
def _gallery(settings, tmp_path):
    settings.ROOT_URLCONF = "tests.kit.crash_gallery"
    settings.MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}  # Django 6.1 asks
    settings.LEDGER = tmp_path / "ledger.txt"


@pytest.fixture
def gateway(settings) -> Iterator[list[str]]:
    """A server of somebody else's; the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        settings.GATEWAY_PORT = server.server_address[1]
        yield asked
        server.shutdown()
        thread.join()


def post(name: str) -> Call:
    return Call.post(f"/{name}/", {"to": "shop"})


def test_a_right_view_takes_effect_once():
    """What a handler does in its own transaction survives a kill at each of its points; all of it is put back."""
    account = Payment.objects.create(amount=100, reference=ACCOUNT)
    Unique.objects.create(name="once")

    report = crash_points(post("transfer"))

    assert len(report.points) > 10
    assert {point.verdict for point in report.points} == {"once"}
    assert {point.reply.replayed for point in report.points} == {True, False}
    assert re.search(r"\n +\d+  before INSERT app_payment +201 +once\n", str(report))
    assert list(Payment.objects.values_list("pk", "amount")) == [(account.pk, 100)]
    assert Unique.objects.count() == 1
    assert not Child.objects.exists()
    assert not IdempotencyRecord.objects.exists()


# What is said of each wrong view.
WRONG = {
    "other-database": [
        "done again by the retry",
        "database 'other', table app_payment: added",
        "reference='elsewhere': twice instead of once",
        "killed before INSERT app_payment",
        "option `using`",
    ],
    "hook": [
        "never done, although the retry was answered",
        "reference='hook': never instead of once",
        "after COMMIT",
        "on_commit hook",
    ],
    "thread": ["done again", "reference='thread': twice instead of once", "A thread was started", "thread worker"],
    "e-mail": [
        "e-mail 'You paid' to payer@example.com, at tests/kit/crash_gallery.py:",
        "inside the handler's transaction, which does not cover it",
        "e-mail: twice instead of once",
        "killed after e-mail 'You paid'",
        "tells a worker",
    ],
    "e-mail-in-hook": ["never done", "e-mail: never instead of once", "on_commit hook"],
    "http-call": [
        "connection to 127.0.0.1:",
        "crash_gallery.py:",
        "inside the handler's transaction, which does not cover it",
        "twice instead of once",
        "derive_key",
    ],
    "file": ["file ", "ledger.txt, at tests/kit/crash_gallery.py:", "file: twice instead of once"],
    # These are found before anything is killed.
    "before": ["A duplicate with the same key is done again", "reference='around': twice instead of once"],
    "unprotected": ["A duplicate with the same key is done again", "Protect the view"],
    "swallow": ["answered 500 (TransactionBroken: The handler swallowed a database error"],
    "refused": ["was refused: 400", "nothing to try"],
    "unprotected-and-idle": ["not protected", "Put @idempotent"],
}


@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_view_is_caught(name):
    """The failure names the points, what was doubled or lost, and what to do; and all of it is put back."""
    with pytest.raises(NotProved) as caught:
        crash_points(post(name))

    told = str(caught.value)
    assert [words for words in WRONG[name] if words not in told] == [], told
    assert not Payment.objects.exists()
    assert not Payment.objects.using("other").exists()


def test_an_effect_that_another_system_knows_by_its_key_can_be_allowed(gateway):
    """A name in `allow` takes an effect out of the judgement; it is made at every retry nevertheless."""
    report = crash_points(post("http-call"), allow=["connection to 127.0.0.1:*"])

    assert report
    assert len(gateway) > len(report.points) / 2


@pytest.fixture
def redis_store(settings, worker_id):
    """A store in Redis whose claims outlive a dead process for a moment."""
    if not REDIS_URL:
        if os.environ.get("REQUIRE_SERVERS", "") not in ("", "0"):
            pytest.fail("REDIS_URL names no server.")
        pytest.skip("REDIS_URL names no server.")
    settings.CACHES = {
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": REDIS_URL,
            "KEY_PREFIX": f"kit-{worker_id}",
            "OPTIONS": {"SOCKET_TIMEOUT": 5, "SOCKET_CONNECT_TIMEOUT": 5},
        }
    }
    settings.IDEMPOTENCY = {
        "STORES": {"redis": {"BACKEND": "django_idempotency.stores.redis.RedisStore"}},
        "LEASE": timedelta(milliseconds=100),
    }
    yield
    caches["default"].delete_pattern("*")


@pytest.mark.usefixtures("gateway", "redis_store")
def test_commands_to_redis_are_points():
    """A kill leaves the outcome unknown where the store is Redis: that is told, and nothing is done twice."""
    report = crash_points(post("in-redis"), unknown_outcomes=True)

    assert {"before Redis EVALSHA", "after Redis EVALSHA"} <= {point.name for point in report.points}
    assert {point.verdict for point in report.points} == {"once", "unknown"}
    with pytest.raises(NotProved, match="outcome-unknown"):
        crash_points(post("in-redis"))


def test_a_bug_of_the_package_would_be_found(monkeypatch):
    """The kit can fail for a view that is right: on a store that writes its record outside the transaction."""
    monkeypatch.setitem(stores._made, "default", RecordOutside("default", {}))

    with pytest.raises(NotProved, match="reference='paid': twice instead of once"):
        crash_points(post("right"))


def test_the_callers_own_reset_is_called_between_the_points():
    """`reset` puts back what the kit cannot; records are forgotten all the same. What is in `ignore` may differ."""
    calls = []

    def reset() -> None:
        calls.append(Payment.objects.all().delete())

    report = crash_points(post("hook"), reset=reset, ignore=["app_payment"])

    assert len(calls) == len(report.points) + 1
    assert {point.verdict for point in report.points} == {"once"}


def test_what_cannot_be_put_back_is_told():
    """A table that lets nobody delete from it needs a `reset` by the test's author, who knows how."""
    trigger = "CREATE TRIGGER forever BEFORE DELETE ON app_payment BEGIN SELECT RAISE(ABORT, 'no'); END"
    other = connections["other"]
    with other.cursor() as cursor:
        cursor.execute(trigger)
    try:
        with pytest.raises(RuntimeError, match="could not be put back: give `reset`"):
            crash_points(post("in-other"))
    finally:
        with other.cursor() as cursor:
            cursor.execute("DROP TRIGGER forever")


def test_a_database_in_memory_is_told(monkeypatch):
    """No other process can see into it: the error says how to give it a file."""
    connections["other"].ensure_connection()
    monkeypatch.setitem(connections["other"].settings_dict, "NAME", ":memory:")

    with pytest.raises(CannotFork, match=r"DATABASES\['other'\]\['TEST'\] = {'NAME'"):
        crash_points(post("right"))


class OfATransactionTestCase(TransactionTestCase):
    """People of unittest."""

    databases = ("default", "other")

    @override_settings(ROOT_URLCONF="tests.kit.crash_gallery")
    def test_points_are_killed(self) -> None:
        """Any callable is a call; a database that `using` does not name is not compared."""

        def pay(key: str | None) -> object:
            return self.client.post("/other-database/", headers={"Idempotency-Key": key})

        report = crash_points(pay, using="default")

        assert "pay: killed at" in str(report)


class OfATestCase(TestCase):
    """People of unittest who hold a transaction."""

    def test_its_transaction_is_told(self) -> None:
        """Inside a `TestCase` no other process sees anything: the error says what to use."""
        with pytest.raises(CannotFork, match="TransactionTestCase instead of TestCase"):
            crash_points(post("right"))
