"""Receipts: the mail is sent once for each charge that commits, and for no other, whatever is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.core.mail import EmailMessage
from django.core.management import call_command
from django.db import connection
from django_tasks_db.compat import TaskResultStatus, task_enqueued
from django_tasks_db.models import DBTaskResult

from django_idempotency.testing import Call, crash_points
from django_idempotency.testing.processes.forks import Process, ProcessFailed
from sample_project.payments.models import Charge

REPOSITORY = Path(__file__).parents[2]
ORDER = {"amount": 1250, "currency": "EUR", "reference": "order 1"}

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def path(account):
    """Ann has an address; her account's charges."""
    account.owner.email = "ann@example.com"
    account.owner.save()
    return f"/api/accounts/{account.pk}/charges/"


def work_off():
    """A worker of its own does all tasks; how many receipts it mailed."""
    name = connection.settings_dict["NAME"]
    url = urlsplit(settings.DATABASE_URL)._replace(path=f"/{name}").geturl()
    if connection.vendor == "sqlite":
        url = f"sqlite:///{name}"
    worker = subprocess.run(
        [sys.executable, "manage.py", "db_worker", "--batch", "--no-startup-delay", "--no-reload"],
        cwd=REPOSITORY,
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert worker.returncode == 0, worker.stderr
    return worker.stdout.count("Subject: Receipt for order 1")


def killed(send, *, at_enqueue):
    """*send* in a process that SIGKILL ends: when its task is in the open transaction, or after COMMIT."""

    def work(line):
        if at_enqueue:
            task_enqueued.connect(die)
        send()
        die()

    with Process(work) as process, pytest.raises(ProcessFailed, match="ended without a result"):
        process.result()


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_charge_is_receipted_once(post, path):
    """A replay enqueues nothing."""
    answers = [post(path, ORDER, key="k-1") for _ in range(2)]

    assert [answer.headers.get("Idempotency-Replayed") for answer in answers] == [None, "true"]
    assert (work_off(), work_off()) == (1, 0)


def test_a_decline_and_a_refusal_are_not_receipted(post, path):
    post(path, {**ORDER, "amount": 10_001}, key="k-1")
    post(path, {**ORDER, "amount": 0}, key="k-2")

    assert not DBTaskResult.objects.exists()


def test_who_has_no_address_gets_none(ann, post, path):
    ann.email = ""
    ann.save()
    assert post(path, ORDER, key="k-1").status_code == 201

    assert not DBTaskResult.objects.exists()


@pytest.mark.kill
def test_a_kill_after_the_commit_loses_no_mail(post, path):
    """The answer is lost, the task is not: a worker mails the receipt, and the retry is a replay."""
    killed(lambda: post(path, ORDER, key="k-1"), at_enqueue=False)

    assert work_off() == 1
    assert post(path, ORDER, key="k-1")["Idempotency-Replayed"] == "true"
    assert work_off() == 0


@pytest.mark.kill
def test_a_kill_before_the_commit_sends_no_mail(post, path):
    """Charge and task are rolled back together; the retry makes both."""
    killed(lambda: post(path, ORDER, key="k-1"), at_enqueue=True)

    assert (work_off(), Charge.objects.count()) == (0, 0)
    assert "Idempotency-Replayed" not in post(path, ORDER, key="k-1")
    assert work_off() == 1


@pytest.mark.kill
def test_a_task_whose_worker_is_killed_waits_for_people(post, path, monkeypatch):
    """Whether the mail was sent is not known: no worker takes it by itself, and one does if it is made ready again."""
    post(path, ORDER, key="k-1")
    with monkeypatch.context() as patch:
        patch.setattr(EmailMessage, "send", die)
        killed(lambda: call_command("db_worker", batch=True, startup_delay=False, reload=False), at_enqueue=False)

    assert (work_off(), DBTaskResult.objects.get().status) == (0, TaskResultStatus.RUNNING)
    DBTaskResult.objects.update(status=TaskResultStatus.READY)
    assert work_off() == 1


@pytest.mark.kill
@pytest.mark.slow
def test_killed_anywhere_there_is_one_charge_and_one_task(ann, path):
    """The testing kit kills around each statement, and compares what the retries leave."""
    report = crash_points(Call.post(path, ORDER, user=ann))

    assert len(report.points) > 10
