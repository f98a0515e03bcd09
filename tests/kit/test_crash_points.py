"""`crash_points`: right views survive kill -9 at every point, and each wrong one is told what it does wrong."""

import os
import re
import threading
import time
from datetime import timedelta

import pytest
from django.core.cache import caches
from django.db import connection, connections
from django.test import TestCase, TransactionTestCase, override_settings

from django_idempotency.models import IdempotencyRecord
from django_idempotency.stores import stores
from django_idempotency.testing.calls import Call
from django_idempotency.testing.compare.snapshots import TableTooLarge
from django_idempotency.testing.findings import NotProved
from django_idempotency.testing.observe.guards import guard
from django_idempotency.testing.processes.crashes import crash_points
from django_idempotency.testing.processes.forks import CannotFork
from tests.app.models import Child, Payment, Unique
from tests.kit.gallery import ACCOUNT, RUNS
from tests.lab.caches import need_redis
from tests.proof.bugs import RecordOutside

REDIS_URL = os.environ.get("REDIS_URL", "")

pytestmark = [pytest.mark.django_db(transaction=True, databases=["default", "other"]), pytest.mark.kill]


@pytest.fixture(autouse=True)
def _gallery(settings, tmp_path):
    settings.ROOT_URLCONF = "tests.kit.gallery"
    settings.LEDGER = tmp_path / "ledger.txt"


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


@pytest.fixture
def job_table(transactional_db):
    """A table that no model has."""
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS kit_job")
        cursor.execute("CREATE TABLE kit_job (id char(36) PRIMARY KEY, state integer)")
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE kit_job")


@pytest.mark.usefixtures("job_table")
@pytest.mark.parametrize("name", ["differs", "rotates", "has-no-model"])
def test_what_differs_from_run_to_run_is_no_alarm(name):
    """Random values and copies of numbers differ in two runs that nothing disturbs, so they say nothing."""
    Payment.objects.create(amount=100, reference=ACCOUNT)

    report = crash_points(post(name))

    assert {point.verdict for point in report.points} == {"once"}
    assert Payment.objects.get().reference == ACCOUNT


def test_what_differs_only_later_is_told_with_its_column():
    """It is neither done again nor lost: the column's name is what its author needs."""
    RUNS.value = 0

    with pytest.raises(NotProved) as caught:
        crash_points(post("differs-later"))

    told = str(caught.value)
    assert "reference='number 2': differs in column reference: name `app_payment.reference` in `ignore`" in told
    assert "instead of" not in told
    RUNS.value = 0
    assert crash_points(post("differs-later"), ignore="app_payment.reference")


def test_an_account_that_is_charged_again_is_told():
    """By how much it changed, which is a multiple of what it should."""
    Payment.objects.using("other").create(amount=100, reference=ACCOUNT)

    with pytest.raises(NotProved) as caught:
        crash_points(post("charges-elsewhere"))

    assert "done again by the retry" in str(caught.value)
    assert "amount='-10': twice instead of once" in str(caught.value)


def test_a_used_key_is_told():
    """All would be replays, of which nothing can be told."""
    call = Call.post("/right/", {"to": "shop"}, header=None, headers={"Idempotency-Key": "used"})
    call(None)

    with pytest.raises(NotProved, match="answered by a replay: its key was used before"):
        crash_points(call)


def test_a_call_that_does_nothing_is_told():
    """Unless its author says that it leaves no trace."""
    with pytest.raises(NotProved, match=r"changed nothing that can be seen[\s\S]*effect=False"):
        crash_points(post("idle"))

    assert crash_points(post("idle"), effect=False)


def test_a_call_of_which_all_is_ignored_is_told():
    """Nothing is left then that could be seen twice."""
    Payment.objects.create(amount=100, reference=ACCOUNT)

    with pytest.raises(NotProved, match="changed nothing that can be seen"):
        crash_points(post("rotates"), ignore="app_payment.reference")


def test_an_effect_outside_the_database_is_one(gateway):
    """No row is needed."""
    assert crash_points(post("only-charges"), allow="connection to *")


@pytest.mark.parametrize(("name", "argument"), [("other-database", "ignore"), ("e-mail", "allow")])
def test_one_pattern_is_no_row_of_patterns(name, argument):
    """The characters of a bare text would leave out everything."""
    with pytest.raises(NotProved, match="twice instead of once"):
        crash_points(post(name), **{argument: "audit_*"})


def test_a_large_table_is_not_read_where_it_is_ignored():
    """Or the limit is raised."""
    Unique.objects.bulk_create(Unique(name=str(number)) for number in range(400))

    with pytest.raises(TableTooLarge, match="app_unique"):
        crash_points(post("right"), limit=300)
    assert crash_points(post("right"), limit=300, ignore="app_uni*")
    assert crash_points(post("right"), limit=400)


def test_what_reset_leaves_is_told():
    """A `reset` that forgets a row would let each run begin from another state."""
    with pytest.raises(RuntimeError, match=r"`reset` left[\s\S]*app_payment: 1 row added"):
        crash_points(post("right"), reset=lambda: None)


def test_a_reset_may_make_rows_anew():
    """With other numbers: it is their content that matters."""

    def reset() -> None:
        Payment.objects.all().delete()
        Payment.objects.create(amount=100, reference=ACCOUNT)

    reset()
    assert crash_points(post("transfer"), reset=reset)


def test_runs_that_do_not_agree_are_told():
    """Where one writes more rows than the other there is nothing to compare a third with."""
    with pytest.raises(NotProved, match=r"Two single runs[\s\S]*app_payment: added"):
        crash_points(post("by-turns"))


def test_a_run_that_only_the_first_time_succeeds_is_told():
    """Its answer says more than the rows that are missing."""
    RUNS.value = 0

    with pytest.raises(NotProved, match=r"Two single runs[\s\S]*the second was answered 500 \(RuntimeError: paid"):
        crash_points(post("pays-once"))


def test_threads_that_were_there_before_are_not_waited_for():
    """They never end: a pool's, a server's."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait, daemon=True)
    thread.start()
    started = time.monotonic()
    try:
        with guard() as seen:
            pass
        seen.wait_for_threads(60)
    finally:
        done.set()
    assert time.monotonic() - started < 0.1


# What is said of each wrong view.
WRONG = {
    "differs-elsewhere": ["done again by the retry", "reference='(varies)': twice instead of once"],
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
    "in-a-thread": ["done again", "reference='thread': twice instead of once", "A thread was started", "thread payer"],
    "e-mail": [
        "e-mail 'You have paid' to payer@example.com, at tests/kit/gallery.py:",
        "inside the handler's transaction, which does not cover it",
        "e-mail: twice instead of once",
        "killed after e-mail 'You have paid'",
        "tells a worker",
    ],
    "e-mail-in-hook": ["never done", "e-mail: never instead of once", "on_commit hook"],
    "http-call": [
        "connection to 127.0.0.1:",
        "gallery.py:",
        "inside the handler's transaction, which does not cover it",
        "twice instead of once",
        "derive_key",
    ],
    "file": ["file ", "ledger.txt, at tests/kit/gallery.py:", "file: twice instead of once"],
    # These are found before anything is killed.
    "before-the-handler": ["A duplicate with the same key is done again", "reference='around': twice instead of once"],
    "unprotected": ["A duplicate with the same key is done again", "Protect the view"],
    "swallowed-inside": ["answered 500 (TransactionBroken: The handler swallowed a database error"],
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
    need_redis()
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

    report = crash_points(post("hook"), reset=reset, ignore=["app_payment"], effect=False)

    assert len(calls) == len(report.points) + 2
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

    @override_settings(ROOT_URLCONF="tests.kit.gallery")
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
