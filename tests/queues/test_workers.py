"""`@once` inside the tasks of Celery and dramatiq: a real worker is killed, and the redelivery takes effect once."""

import json
import os
import signal
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.db import connection

from tests.app.models import Payment
from tests.lab.caches import need_redis
from tests.queues import work
from tests.servers import ROOT

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.kill, pytest.mark.slow]

EVENT = {"id": "evt-1", "amount": 10}
COMMANDS = {
    "celery": ["celery", "--app=tests.queues.celery_app", "worker", "--pool=solo", "--loglevel=WARNING"],
    "dramatiq": ["dramatiq", "tests.queues.dramatiq_app:broker", "--processes=1", "--threads=2"],
}


class Queue:
    """A broker, its workers, and the points that they reach."""

    def __init__(self, name):
        self.name = name
        self.workers = []

    def send(self, event):
        if self.name == "celery":
            from tests.queues.celery_app import pay

            pay.delay(event)
        else:
            from tests.queues.dramatiq_app import pay

            pay.send(event)

    def halt_at(self, point):
        work.client.rpush(f"{work.PREFIX}:halts", point)

    def go(self):
        work.client.rpush(f"{work.PREFIX}:go", "go")

    def next(self):
        """The next point that a worker reaches."""
        deadline = time.monotonic() + work.TIMEOUT
        while not (found := work.client.blpop([f"{work.PREFIX}:points"], timeout=1)):
            assert all(worker.poll() is None for worker in self.workers), "a worker ended"
            assert time.monotonic() < deadline, "no worker reached a point"
        return json.loads(found[1])

    def start(self, *options):
        url = f"sqlite:///{connection.settings_dict['NAME']}"
        if connection.vendor != "sqlite":
            url = urlsplit(settings.DATABASE_URL)._replace(path=f"/{connection.settings_dict['NAME']}").geturl()
        worker = subprocess.Popen(
            [sys.executable, "-m", *COMMANDS[self.name], *options],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "tests.settings"},
            start_new_session=True,  # a group of its own, to be killed with its children
        )
        self.workers.append(worker)
        return worker

    def kill(self, worker):
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        self.workers.remove(worker)

    def close(self):
        for worker in [*self.workers]:
            self.kill(worker)
        for key in work.client.scan_iter(f"{work.PREFIX}*"):
            work.client.delete(key)


@pytest.fixture(params=COMMANDS)
def queue(request):
    need_redis()
    queue = Queue(request.param)
    yield queue
    queue.close()


def test_a_worker_killed_inside_the_function(queue):
    """Its work is rolled back; the broker delivers again, to another worker, and that one does it."""
    first = queue.start()
    queue.halt_at("inside")
    queue.send(EVENT)
    assert queue.next()["point"] == "inside"

    queue.kill(first)
    assert not Payment.objects.exists()
    queue.start()

    assert queue.next()["point"] == "inside"
    assert queue.next() == {"point": "done", "state": "SUCCESS", "value": {"payment": Payment.objects.get().pk}}


def test_a_worker_killed_between_commit_and_acknowledgement(queue):
    """The redelivery gets the result, and the function does not run."""
    first = queue.start()
    queue.halt_at("done")
    queue.send(EVENT)
    assert queue.next()["point"] == "inside"
    done = queue.next()

    queue.kill(first)
    assert Payment.objects.count() == 1
    queue.start()

    assert queue.next() == done == {"point": "done", "state": "SUCCESS", "value": {"payment": Payment.objects.get().pk}}


@pytest.mark.parametrize("queue", ["celery"], indirect=True)
def test_a_process_of_celerys_pool_is_killed(queue):
    """Its parent lives, and gives the message back at once."""
    queue.start("--pool=prefork", "--concurrency=1")
    queue.halt_at("inside")
    queue.send(EVENT)
    first = queue.next()

    os.kill(first["pid"], signal.SIGKILL)

    again = queue.next()
    assert again["point"] == "inside"
    assert again["pid"] != first["pid"]
    assert queue.next() == {"point": "done", "state": "SUCCESS", "value": {"payment": Payment.objects.get().pk}}


def test_an_event_that_is_delivered_twice_at_once(queue):
    """The second delivery is tried again until it gets the result."""
    queue.start()
    queue.start()
    queue.halt_at("inside")
    queue.send(EVENT)
    assert queue.next()["point"] == "inside"
    if queue.name == "dramatiq" or connection.vendor == "sqlite":
        queue.send(EVENT)
    if connection.vendor != "sqlite":  # where the second delivery waits for the only writer
        refused = queue.next()  # Celery's broker has delivered again by itself, after its visibility timeout
        assert (refused["point"], refused["state"]) == ("done", "RETRY")
    queue.go()

    reached = []
    while sum(each["state"] == "SUCCESS" for each in reached) < 2:
        reached.append(queue.next())
        assert reached[-1]["point"] == "done"

    values = [each["value"] for each in reached if each["state"] == "SUCCESS"]
    assert values == [{"payment": Payment.objects.get().pk}] * 2
