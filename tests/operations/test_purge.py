"""`purging.purge` and `manage.py idempotency_purge`."""

import builtins
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import nullcontext
from datetime import timedelta
from io import StringIO
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_idempotency import once
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.management.commands import idempotency_purge
from django_idempotency.models import DatabaseNow, DecisionCount, IdempotencyRecord, StorageSample
from django_idempotency.operations import counts as statistics
from django_idempotency.operations import purging, table_size
from django_idempotency.operations.inventory import databases_in_use
from django_idempotency.operations.purging import Purged, purge
from django_idempotency.stores.database.purging import purge_for
from tests.app.serving import TIMEOUT, VENDOR, without_table
from tests.operations.records import expired, live, record, save

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.django_db(transaction=True)

SKIPS_LOCKED = VENDOR != "sqlite"


def left() -> int:
    return IdempotencyRecord.objects.count()


@once("purge.renew", key=lambda key: key)
def renew(key):
    ran.append(key)
    return 1


ran: list[str] = []


def renewable(number: int) -> list[str]:
    """Save *number* expired records that `renew` would claim anew; their keys."""
    keys = [f"renew-{each}" for each in range(number)]
    for key in keys:
        renew(key)
    IdempotencyRecord.objects.update(expires_at=record(expires_in=-60).expires_at)
    ran.clear()
    return keys


def tick(monkeypatch, seconds, sleep=lambda seconds: None):
    """Let each look at the clock of `maintenance` find it *seconds* later."""
    clock = count()
    monkeypatch.setattr(purging, "time", SimpleNamespace(monotonic=lambda: next(clock) * seconds, sleep=sleep))


# --- what is deleted ---


def test_what_has_expired_is_deleted_and_nothing_else():
    """Unknown outcomes stay, whatever their age, unless they may expire (`uncertain_ttl`)."""
    expired(7)
    expired(1, answer=None)
    kept = [
        *live(2),
        *save([record(answer=None)]),
        *expired(5, answer=None, uncertain_until=None),
        *expired(1, answer=None, uncertain_until=timezone.now() + timedelta(hours=1)),
    ]

    assert purge(dry_run=True) == Purged(count=8, finished=True)
    assert purge(batch_size=3) == Purged(count=8, finished=True)
    assert {row.pk for row in IdempotencyRecord.objects.all()} == {row.pk for row in kept}
    assert IdempotencyRecord.objects.purge() == 0


def test_batches_are_small_and_the_oldest_go_first():
    """No batch is larger than it was told; each is told of."""
    rows = expired(7)
    batches, oldest_left = [], []

    def progress(rows):
        batches.append(rows)
        oldest_left.append(IdempotencyRecord.objects.order_by("expires_at").values_list("pk", flat=True).first())

    purge(batch_size=3, progress=progress)

    assert batches == [3, 3, 1]
    assert [pk and bytes(pk) for pk in oldest_left] == [bytes(rows[3].pk), bytes(rows[6].pk), None]


def test_what_expires_meanwhile_is_the_next_runs():
    """Else a purge beside a busy project would never end."""
    expired(2)
    [later] = live(1)

    def progress(rows):
        time.sleep(0.01)  # SQLite's clock has milliseconds: not the one in which the purge began
        IdempotencyRecord.objects.filter(pk=later.pk).update(expires_at=DatabaseNow())

    assert purge(batch_size=1, progress=progress).count == 2
    assert left() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("size", [0, -1, 10_001, 1.5, "10", True, None], ids=repr)
def test_a_bad_batch_size(size):
    with pytest.raises(ValueError, match="batch_size must be a whole number from 1 to 10000"):
        purge(batch_size=size)


@pytest.mark.django_db
@pytest.mark.parametrize("seconds", [0, -1, float("nan")], ids=repr)
def test_a_bad_time(seconds):
    with pytest.raises(ValueError, match="max_seconds must be more than 0"):
        purge(max_seconds=seconds)


# --- beside requests ---


def test_each_batch_is_a_transaction_of_its_own():
    """Between two of them nothing is locked and nothing is open: other connections see what is done."""
    expired(4)
    seen = []

    def look():
        try:
            # Takes every row's lock, at once or not at all.
            with transaction.atomic():
                rows = IdempotencyRecord.objects.select_for_update(nowait=SKIPS_LOCKED)
                seen.append(len(rows))
        finally:
            connections.close_all()

    def progress(rows):
        assert not connection.in_atomic_block
        assert connection.get_autocommit()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join(TIMEOUT)

    purge(batch_size=2, progress=progress)

    assert seen == [2, 0]


def test_others_get_the_database_between_two_batches(monkeypatch):
    """The pause grows with the time that the batch took, so that a busy server gets a longer one."""
    expired(3)
    pauses = []
    tick(monkeypatch, 0.1, pauses.append)

    purge(batch_size=1)

    assert pauses == [pytest.approx(0.1 * purging.PAUSE)] * 3


@pytest.mark.skipif(not SKIPS_LOCKED, reason="SQLite has one writer: the second waits for its turn")
def test_two_share_the_work(background):
    """One that holds a batch keeps no other from the next one."""
    expired(4)
    run = purging._Run("default", 2)
    with connection.cursor() as cursor:
        run.statements.prepare(cursor)
        with transaction.atomic():
            run.statements.begin(cursor)
            assert run.statements.batch(cursor, run.since, run.until, 2)[0] == 2
            assert background(purge).result(TIMEOUT).count == 2

    assert left() == 0


@pytest.mark.skipif(not SKIPS_LOCKED, reason="SQLite locks no rows")
def test_a_record_is_claimed_anew_while_its_purge_waits(background, gate):
    """The claim is on its way when the purge comes: it is passed by, and the new record lives."""
    [key] = renewable(1)
    expired(1)

    def slow(execute, sql, *args):
        result = execute(sql, *args)
        if "idempotency" in sql and not ran:
            ran.append("claimed")
            gate.wait()
        return result

    def claim():
        with connection.execute_wrapper(slow):
            return renew(key)

    claiming = background(claim)
    gate.reached()
    assert purge().count == 1
    gate.open()
    claiming.result(TIMEOUT)

    assert ran == ["claimed", key]
    assert IdempotencyRecord.objects.live().filter(key=key).exists()


@pytest.mark.race
def test_what_is_claimed_anew_is_never_deleted(background):
    """Claims and two purges race for the same expired records: each key runs once, and its new record stays."""
    keys = renewable(60)
    start = threading.Barrier(4)

    def claim(own):
        start.wait(TIMEOUT)
        for key in own:
            # What the purge holds right now is "in flight" on MariaDB: the client comes again.
            while True:
                try:
                    renew(key)
                    break
                except RequestInProgress:
                    pass

    def clean():
        start.wait(TIMEOUT)
        return purge(batch_size=2).count

    jobs = [background(claim, keys[::2]), background(claim, keys[1::2]), background(clean), background(clean)]
    deleted = sum(job.result(TIMEOUT) or 0 for job in jobs)

    assert sorted(ran) == sorted(keys)
    assert IdempotencyRecord.objects.live().filter(status=200).count() == len(keys)
    assert 0 <= deleted <= len(keys)


@pytest.mark.skipif(VENDOR == "sqlite", reason="SQLite has one isolation level")
@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_at_every_isolation_level_of_the_connection(background, level):
    """The batch's own level is READ COMMITTED: on MariaDB no gap is locked, so a new key is claimed beside it."""
    expired(2)

    def at_level():
        with connection.cursor() as cursor:
            name = {"postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION"}.get(VENDOR, "SET SESSION TRANSACTION")
            cursor.execute(f"{name} ISOLATION LEVEL {level}")
        inner = []

        def beside(execute, sql, *args):
            result = execute(sql, *args)
            if "SKIP LOCKED" in sql and not inner:
                inner.append(background(renew, "a new key").result(TIMEOUT))
            return result

        with connection.execute_wrapper(beside):
            count = purge().count
        return count, inner

    ran.clear()
    assert background(at_level).result(TIMEOUT) == (2, [1])
    assert ran == ["a new key"]


@pytest.mark.skipif(VENDOR == "sqlite", reason="SQLite has one writer, and no deadlock")
def test_a_batch_that_meets_a_deadlock_is_tried_again(monkeypatch):
    """Nodes of a cluster that purge at once lose at COMMIT; after ten times the error is the caller's."""
    expired(1)
    waits, errors = [], []
    monkeypatch.setattr(purging, "time", SimpleNamespace(monotonic=time.monotonic, sleep=waits.append))
    atomic_phase = purging.atomic_phase

    def lose(using, work):
        if not errors:
            return atomic_phase(using, work)
        with transaction.atomic(using):
            work()
            raise errors.pop()

    monkeypatch.setattr(purging, "atomic_phase", lose)
    errors[:] = [deadlock() for _ in range(purging.TRIES)]
    with pytest.raises(OperationalError):
        purge()
    assert left() == 1
    errors[:] = [deadlock() for _ in range(purging.TRIES - 1)]

    assert purge().count == 1
    assert left() == 0
    assert max(waits) <= 2 * purging.LONGEST_WAIT


def deadlock():
    if VENDOR != "postgresql":
        return OperationalError(1213, "Deadlock found when trying to get lock; try restarting transaction")
    from django.db.backends.postgresql.psycopg_any import errors

    class Deadlock(errors.DeadlockDetected):
        sqlstate = "40P01"  # psycopg2 reads the code from the server alone

    error = OperationalError("deadlock detected")
    error.__cause__ = Deadlock("deadlock detected")
    return error


def test_any_other_error_is_the_callers_at_once(monkeypatch):
    expired(1)
    tries = []

    def fail(*arguments):
        tries.append(arguments)
        raise OperationalError("gone")

    monkeypatch.setattr(purging, "atomic_phase", fail)
    with pytest.raises(OperationalError, match="gone"):
        purge()
    assert len(tries) == 1


def test_the_expiry_index_serves():
    """The plan of a batch reads the index, on a table in which most has not expired."""
    live(3000)
    expired(3)
    statements = purge_for(connection)
    with connection.cursor() as cursor:
        if VENDOR == "postgresql":
            cursor.execute("ANALYZE django_idempotency_record")
        since, until = statements.range(cursor)
        sent = []
        with (
            transaction.atomic(),
            connection.execute_wrapper(lambda execute, *call: sent.append(call) or execute(*call)),
        ):
            statements.batch(cursor, since, until, 2)
        sql, parameters = sent[0][:2]
        explain = "EXPLAIN QUERY PLAN" if VENDOR == "sqlite" else "EXPLAIN"
        cursor.execute(f"{explain} {sql}", parameters)
        plan = "\n".join(str(row) for row in cursor.fetchall())

    assert "idempotency_record_expires" in plan
    assert "Seq Scan" not in plan
    assert "Sort" not in plan


def test_it_refuses_inside_an_atomic_block():
    """No batch could be committed there, and every lock would be kept."""
    expired(1)
    with transaction.atomic(), pytest.raises(RuntimeError, match="outside every atomic block"):
        purge()

    assert left() == 1


@pytest.mark.django_db
def test_it_runs_in_a_test_case():
    """Whose own atomic block does not count, as for `atomic(durable=True)`."""
    expired(3)

    assert purge(batch_size=2).count == 3


def test_stop_and_time(monkeypatch):
    """Both end it after a batch, and the result says that more is left."""
    expired(4)
    answers = iter([False, True])
    assert purge(batch_size=1, stop=lambda: next(answers)) == Purged(count=1, finished=False)

    tick(monkeypatch, 1)
    result = purge(batch_size=1, max_seconds=3)

    assert not result.finished
    assert left() == 3 - result.count > 0


# --- the command ---


def run(*arguments, **options):
    """What the command writes."""
    out, errors = StringIO(), StringIO()
    try:
        call_command("idempotency_purge", *arguments, stdout=out, stderr=errors, **options)
    finally:
        run.errors = errors.getvalue()
        run.out = out.getvalue()
    return run.out


def test_one_line():
    """For a log: how many, where, how long."""
    expired(3)

    assert re.fullmatch(r"Deleted 3 expired records from 'default' in \d+\.\d s\.\n", run())
    assert run.errors == ""
    assert left() == 0


def test_the_command_counts_in_a_dry_run():
    """The line says so, and nothing is deleted."""
    expired(1)
    live(1)

    assert run("--dry-run") == "Would delete 1 expired record from 'default'.\n"
    assert left() == 2


def test_verbosity_0_says_nothing():
    """For cron, which mails what is written."""
    expired(1)

    assert run(verbosity=0) == ""
    assert left() == 0


def test_ended_early_is_exit_code_3(monkeypatch):
    """Time is over after one batch."""
    expired(3)
    tick(monkeypatch, 10)

    with pytest.raises(SystemExit) as ended:
        run("--batch-size", "1", "--max-seconds", "35")

    assert ended.value.code == 3
    assert "Ended before all were deleted." in run.out
    assert 1 <= left() < 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_it_after_the_batch(monkeypatch, number):
    """With an honest count. Handlers are then what they were."""
    expired(3)
    before = signal.getsignal(number)

    def progress(self, using):
        return nullcontext(lambda rows: signal.raise_signal(number))

    monkeypatch.setattr(idempotency_purge.Command, "progress", progress)
    with pytest.raises(SystemExit) as ended:
        run("--batch-size", "1")

    assert ended.value.code == 3
    assert run.out.startswith("Deleted 1 expired record from 'default'")
    assert left() == 2
    assert signal.getsignal(number) is before


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--batch-size", "0"], "--batch-size: must be a whole number from 1 to 10000, not '0'"),
        (["--batch-size", "many"], "not 'many'"),
        (["--batch-size", "1\x1b[2J"], r"not '1\x1b[2J'"),
        (["--max-seconds", "0"], "--max-seconds: must be a number of seconds, more than 0, not '0'"),
        (["--max-seconds", "nan"], "not 'nan'"),
        (["--database", "missing"], "DATABASES has no 'missing'; it has default, other."),
        (["--database", "a\udce9"], "DATABASES has no"),
    ],
    ids=repr,
)
def test_bad_arguments(arguments, says):
    """Each is named, with what it must be."""
    with pytest.raises(CommandError) as error:
        run(*arguments)

    assert says in str(error.value)
    str(error.value).encode()  # can be written


def test_an_error_of_the_database_is_no_traceback(monkeypatch):
    """It is said, with what had been deleted before."""
    expired(2)
    batch = purging._Run.batch

    def fail(self):
        if self.count:
            raise OperationalError("the server went away")
        return batch(self)

    monkeypatch.setattr(purging._Run, "batch", fail)
    with pytest.raises(CommandError, match="'default': the server went away 1 expired record had been purged before"):
        run("--batch-size", "1")


def test_a_missing_table_names_the_remedy(monkeypatch):
    """As a new database has it."""
    monkeypatch.setattr(
        purging._Run,
        "__init__",
        lambda *args: IdempotencyRecord.objects.raw("SELECT * FROM django_idempotency_record_missing")[0],
    )
    with pytest.raises(CommandError, match=r"Has `manage\.py migrate` created its table"):
        run()


def test_the_databases_that_the_project_uses(settings):
    """The store's own, and those that an option `using` names; a callable's must be named by hand."""
    assert databases_in_use() == ("default",)

    settings.IDEMPOTENCY = {"USING": "other"}
    assert "other" in databases_in_use()

    settings.IDEMPOTENCY = {"USING": lambda request: "other"}
    run("--dry-run")
    assert "name them with --database" in run.errors
    run("--dry-run", "--database", "default")
    assert run.errors == ""


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_several_databases():
    """Each has its line; the one that is not named is left alone."""
    expired(1)
    expired(2, using="other")

    assert run("--database", "other").startswith("Deleted 2 expired records from 'other'")
    assert left() == 1
    expired(1, using="other")
    assert len(run("--database", "default", "--database", "other", "--database", "other").splitlines()) == 2
    assert left() == 0
    assert not IdempotencyRecord.objects.using("other").exists()


def test_without_tqdm(monkeypatch):
    """Nothing breaks."""
    expired(1)
    find = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "tqdm":
            raise ImportError(name)
        return find(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    command = idempotency_purge.Command(stdout=StringIO(), stderr=SimpleNamespace(isatty=lambda: True))
    call_command(command)
    assert left() == 0


def test_a_bar_on_a_terminal():
    """On a real one, from a real process; a pipe gets the line alone."""
    expired(3)
    name = connection.settings_dict["NAME"]
    code = (
        "import django; django.setup()\n"
        "from django.core.management import execute_from_command_line as run\n"
        "from django.db import connection\n"
        f"connection.settings_dict['NAME'] = {str(name)!r}\n"
        "run(['manage.py', 'idempotency_purge', '--batch-size', '1'])\n"
    )
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=terminal, env=environment()
        )
        os.close(terminal)
        out, _ = process.communicate(timeout=TIMEOUT)
        shown = b""
        while chunk := read(controller):
            shown += chunk
    finally:
        os.close(controller)

    assert process.returncode == 0, shown
    assert out.decode().startswith("Deleted 3 expired records from 'default'")
    assert b"Purging default" in shown
    assert b"0.00/3.00" in shown


def environment():
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}


def read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed
        return b""


def test_statements():
    """A batch costs two statements beside BEGIN and COMMIT, at most three."""
    expired(2)
    with CaptureQueriesContext(connection) as captured:
        purge()

    statements = [query["sql"] for query in captured.captured_queries if "django_idempotency_record" in query["sql"]]
    ours = [sql for sql in statements if "django_idempotency_run" not in sql]  # what is left of runs is looked for once
    assert len(statements) - len(ours) == 1
    batches = 2  # the second finds nothing
    assert len(ours) == 1 + batches + (1 if VENDOR == "mariadb" else 0)


def test_a_purge_deletes_counts_of_long_ago():
    """Those of more than a year ago go with it, in the same database; younger ones stay."""
    now = int(time.time()) // 3600
    for hour in (now, now - 399 * 24, now - 401 * 24):
        DecisionCount.objects.create(hour=hour, operation="POST pay/", executions=1)
        StorageSample.objects.create(hour=hour, records=1)
    purging.purge(dry_run=True)
    assert DecisionCount.objects.count() == 3
    purging.purge()

    for model in (DecisionCount, StorageSample):
        assert sorted(model.objects.values_list("hour", flat=True)) == [now - 399 * 24, now]


def test_a_purge_that_finishes_notes_how_many_are_left(monkeypatch):
    """The number changes most by it. One that was left to finish, and a dry run, note nothing."""
    monkeypatch.setattr(statistics, "is_under_test", lambda: False)
    expired(3)
    live(2)

    purge(dry_run=True)
    purge(stop=lambda: True)
    assert not StorageSample.objects.exists()
    purge()
    assert StorageSample.objects.get().records == 2


def test_a_purge_does_not_fail_for_its_note(monkeypatch, caplog):
    """What it has deleted is deleted."""
    monkeypatch.setattr(statistics, "is_under_test", lambda: False)
    monkeypatch.setattr(table_size, "ESTIMATES", {connection.vendor: "SELECT nothing FROM nowhere WHERE x = %s"})
    expired(3)

    assert purge() == Purged(count=3, finished=True)
    assert [record.levelname for record in caplog.records if "were not sampled" in record.getMessage()] == ["WARNING"]


def test_a_purge_before_the_tables_of_counts_are_made_has_purged(caplog):
    """New code is deployed, its migrations are still to come: what was deleted is not told as a failure."""
    expired(1)
    with without_table("django_idempotency_count"):
        assert purge() == Purged(count=1, finished=True)

    assert "were not tidied" in caplog.text
