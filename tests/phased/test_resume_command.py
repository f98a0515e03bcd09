"""`manage.py idempotency_resume` as a process: it shares the work, ends cleanly, and can be killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.test import Client

from django_idempotency import once
from django_idempotency.core.policy import POLICY
from django_idempotency.management.commands import idempotency_resume
from django_idempotency.models import IdempotencyRecord, PhasedRun
from django_idempotency.operations import locations
from django_idempotency.operations.resuming import Resumer
from django_idempotency.probes import NOT_DONE, UNSURE, Found
from django_idempotency.protection import functions
from django_idempotency.stores import stores
from tests.app.models import Payment
from tests.app.serving import TIMEOUT, post
from tests.phased import resumed
from tests.phased.conftest import ALL, effects
from tests.phased.test_resume import interrupt, resume, the_run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def edge():
    """One kind of view is enough here."""
    return "plain"


@pytest.fixture(autouse=True)
def _signals():
    """What comes when no command waits for it does not end the tests."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


def end(number=signal.SIGTERM):
    """What a service manager sends."""
    os.kill(os.getpid(), number)


def kill_after(seconds, number=signal.SIGTERM):
    timer = threading.Timer(seconds, end, [number])
    timer.start()
    return timer


# --- signals ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_present_run_finish(pay, client, script, number):
    """No other begins, and the exit code says that it has ended early."""
    pay()
    for key in ("key-1", "key-2"):
        interrupt(script, client, key=key)
    before = signal.getsignal(number)
    script.before["ship"] = lambda: end(number)
    with pytest.raises(SystemExit) as ended:
        resume()

    assert ended.value.code == 3
    assert effects() == ["order", "order", "charge", "ship"]
    assert signal.getsignal(number) is before
    script.before.clear()
    assert "1 finished" in resume()


def test_a_second_signal_gives_the_run_back(pay, client, script):
    """Its lease ends at once, so that a retry need not wait."""
    pay(lease=timedelta(minutes=5))
    interrupt(script, client)

    def end_twice():
        end()
        end()

    script.before["ship"] = end_twice
    with pytest.raises(SystemExit) as ended:
        resume()

    assert ended.value.code == 128 + signal.SIGTERM
    assert (the_run().phase, the_run().error) == ("charge", f"SystemExit: {128 + signal.SIGTERM}")
    script.before.clear()
    assert post(client).status_code == 201
    assert effects() == ALL


# --- a watch ---


def watch(seconds="0.2", **options):
    """Run the command as a service, which the test has to end. What it writes."""
    out = StringIO()
    call_command("idempotency_resume", "--watch", seconds, stdout=out, stderr=out, **options)
    return out.getvalue()


def test_a_watch_goes_on_until_a_signal_ends_it(pay, client, script, background):
    """It finishes what is interrupted meanwhile, and its end is no failure."""
    pay()

    def work():
        for key in ("key-1", "key-2"):
            interrupt(script, client, key=key)
            await_end_of_runs()
        end()

    worked = background(work)
    said = watch()

    worked.result(TIMEOUT)
    assert said == "Resumed 1 run in 'default': 1 finished.\n" * 2
    assert effects().count("ship") == 2


def await_end_of_runs():
    deadline = time.monotonic() + TIMEOUT
    while PhasedRun.objects.exists():
        assert time.monotonic() < deadline, "nobody has resumed it"
        time.sleep(0.05)


def test_a_watch_outlives_an_error_of_the_database(pay, client, script, monkeypatch):
    """It is said, and the next look succeeds. What no resumer can send is said once."""
    pay(store_request=False)
    interrupt(script, client)
    real, errors = Resumer.resume_each, [OperationalError("the server went away")]

    def fail(self, place, limit):
        if errors:
            raise errors.pop()
        if Payment.objects.filter(reference="seen").count() > 1:
            end()
        Payment.objects.create(amount=1, reference="seen")
        return real(self, place, limit)

    monkeypatch.setattr(Resumer, "resume_each", fail)
    said = watch("0.05").splitlines()

    assert said[0] == "Database 'default': the server went away"
    assert said[1].startswith("1 interrupted request in 'default' cannot be sent again")
    assert len(said) == 2


def test_a_signal_in_a_pause_ends_a_watch_at_once():
    """However long the pause is."""
    timer = kill_after(0.5)
    began = time.monotonic()
    watch("3600")

    timer.join()
    assert time.monotonic() - began < 10


# --- arguments and errors ---


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--limit", "0"], "--limit: must be a whole number from 1 to 100000, not '0'"),
        (["--watch", "0"], "--watch: must be a number of seconds, more than 0, not '0'"),
        (["--database", "missing"], "DATABASES has no 'missing'; it has default, other."),
        (["--store", "missing"], "STORES has no 'missing'"),
    ],
    ids=repr,
)
def test_bad_arguments(arguments, says):
    """Each is named, with what it must be."""
    with pytest.raises(CommandError) as error:
        resume(*arguments)

    assert says in str(error.value)


def test_an_error_of_the_database_is_no_traceback(monkeypatch):
    """It is said."""

    def fail(self, place, limit):
        raise OperationalError("the server went away")

    monkeypatch.setattr(Resumer, "resume_each", fail)
    with pytest.raises(CommandError, match="Database 'default': the server went away"):
        resume()


def test_nothing_is_said_if_it_shall_be_silent(pay, client, script):
    """For cron."""
    pay()
    interrupt(script, client)

    assert resume(verbosity=0) == ""
    assert effects() == ALL


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_several_databases(protect, serve, client):
    """Each run is resumed in its own."""
    failing = [TimeoutError()]

    def handler(request):
        phase = request.idempotency.phase
        phase("order", lambda: Payment.objects.using("other").create(amount=1, reference="order").pk)
        phase("charge", lambda: failing and fail(failing))
        return resumed.answer()

    serve(protect(handler, mode="phased", using="other"))
    assert post(client).status_code == 500
    assert resume("--database", "default") == ""

    assert resume() == "Resumed 1 run in 'other': 1 finished.\n"
    assert Payment.objects.using("other").count() == 1
    assert IdempotencyRecord.objects.using("other").get().status == 201


def fail(errors):
    raise errors.pop()


def test_a_progress_bar(pay, client, script, monkeypatch):
    """On a terminal: of so many runs as are due, or as the limit allows."""
    pay()
    for key in ("key-1", "key-2", "key-3"):
        interrupt(script, client, key=key)
    bars = []

    @contextmanager
    def bar(title, total):
        bars.append([title, total()])
        yield bars[-1].append

    monkeypatch.setattr(idempotency_resume, "progress_bar", bar)
    terminal = StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    call_command("idempotency_resume", "--limit", "2", stdout=StringIO(), stderr=terminal)

    assert bars == [["Resuming default", 2, 1, 1]]


# --- probes ---

ANSWERS = {}
asked = []


def probe(operation):
    asked.append(operation.key)
    return ANSWERS[operation.key]


class Lost(Exception):
    """The gateway has not answered."""


@once("resuming.event", key=str, uncertain=probe, store="memory")
def event(key):
    raise Lost


@once("resuming.rows", key=str, uncertain=probe)
def rows(key):
    return None


@once("resuming.silent", key=str, store="memory")
def silent(key):
    raise Lost


@pytest.fixture
def unknown(settings, monkeypatch):
    """Outcomes that are unsettled, in a store outside the databases and in a database."""
    named = {function.__name__: function for function in (event, rows, silent)}
    known = {name: (f"resuming.{name}", getattr(function, POLICY)) for name, function in named.items()}
    monkeypatch.setattr(functions, "once_functions", known)
    settings.IDEMPOTENCY = {"STORES": {"memory": {"BACKEND": "django_idempotency.testing.memory.MemoryStore"}}}
    stores["memory"].clear()
    ANSWERS.clear()
    asked.clear()
    ANSWERS.update(found=Found({"id": 7}), free=NOT_DONE, unsure=UNSURE, row=Found(1))
    for call, key in ((event, "found"), (event, "free"), (event, "unsure"), (silent, "silent")):
        with pytest.raises(Lost):
            call(key)
    rows("row")
    IdempotencyRecord.objects.update(status=0, head=b"", body=b"")


def test_the_probes_of_unsettled_outcomes_are_called(unknown):
    """What is found is replayed, what was not done is free; an operation without a probe is left alone."""
    assert resume() == "Called 4 probes of unsettled outcomes: 2 settled, 1 freed, 1 unsure.\n"
    assert sorted(asked) == ["found", "free", "row", "unsure"]
    assert event("found") == {"id": 7}
    assert rows.run("row").replayed


def test_a_watch_does_not_ask_the_same_again_at_once(unknown):
    """An outcome is left alone for as long as it is old, at least ten seconds."""
    resumer = Resumer()
    places = [*locations.others().values()]

    def ask():
        found, errors = resumer.ask_each(places, 10)
        assert errors == []
        return [each.record.key for each in found]

    assert sorted(ask()) == ["found", "free", "unsure"]
    assert ask() == []
    resumer._next_question = dict.fromkeys(resumer._next_question, 0.0)
    assert ask() == ["unsure"]


def test_a_limit_of_questions(unknown):
    """Those that have a probe count."""
    assert "Called 1 probe of" in resume("--limit", "1", "--store", "memory")


def test_a_store_without_probes_is_not_read(settings):
    """A table of millions of records is not searched for nothing."""
    assert Resumer().probes.may_know(locations.database("default")) is False


# --- real processes ---


@contextmanager
def service(folder, *arguments, hangs=""):
    """The command in a process of its own, whose gateway keeps its charges in *folder* and *hangs* after one."""
    code = (
        "import django; django.setup()\n"
        "from django.core.management import execute_from_command_line as run\n"
        "from django.db import connection\n"
        f"connection.settings_dict['NAME'] = {str(connection.settings_dict['NAME'])!r}\n"
        f"run(['manage.py', 'idempotency_resume', *{list(arguments)!r}])\n"
    )
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.phased.resumed",
        "GATEWAY": str(folder),
        "HANGS": hangs,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def gateway(tmp_path, monkeypatch, settings):
    """A folder with a file for each charge. The first request dies before it is charged."""
    monkeypatch.setenv("GATEWAY", str(tmp_path))
    settings.ROOT_URLCONF = "tests.phased.resumed"
    monkeypatch.setattr(resumed, "failing", [TimeoutError()])
    assert post(Client(raise_request_exception=False), url="/pay/").status_code == 500
    return tmp_path


def wait_for(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.kill
def test_a_resumer_that_is_killed_is_taken_over(gateway):
    """Between charge and COMMIT: another one waits for the lease, and charges by the same key."""
    with service(gateway, hangs="yes") as first:
        wait_for(lambda: resumed.charges(gateway))
        assert resume() == ""  # it is held
        first.kill()
        first.wait()
    assert resume() == ""
    wait_for(lambda: "1 finished" in resume())

    assert len(resumed.charges(gateway)) == 1
    assert effects() == ["order", "charge"]
    assert IdempotencyRecord.objects.get().status == 201


@pytest.mark.kill
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_ends_with_its_run(gateway, number):
    """The run that it has begun is finished before the process ends."""
    with service(gateway, "--watch", "0.2", hangs="for a second") as process:
        wait_for(lambda: resumed.charges(gateway))
        process.send_signal(number)
        out, err = process.communicate(timeout=TIMEOUT)

    assert (process.returncode, out, err.count("Traceback")) == (0, "Resumed 1 run in 'default': 1 finished.\n", 0), err
    assert effects() == ["order", "charge"]
    assert not PhasedRun.objects.exists()


@pytest.mark.kill
def test_services_and_the_client_at_once(gateway):
    """One charge for each key, and the client gets the answer of whoever was first."""
    client = Client(raise_request_exception=False)
    number = 0

    def asked_by():
        return {pid for pids in resumed.charges(gateway).values() for pid in pids}

    with service(gateway, "--watch", "0.02") as first, service(gateway, "--watch", "0.02") as second:
        while not asked_by() >= {first.pid, second.pid}:
            number += 1
            assert number < 500, "a service has never been first"
            resumed.failing.append(TimeoutError())
            post(client, url="/pay/", key=f"key-{number}")
            wait_for(lambda key=f"key-{number}": post(client, url="/pay/", key=key).status_code == 201)
        for process in (first, second):
            process.send_signal(signal.SIGTERM)
        assert [process.wait(TIMEOUT) for process in (first, second)] == [0, 0]

    assert all(len(pids) == 1 for pids in resumed.charges(gateway).values())
    assert len(resumed.charges(gateway)) == IdempotencyRecord.objects.filter(status=201).count() == number
    assert effects().count("charge") == effects().count("order") == number
    assert not PhasedRun.objects.exists()
