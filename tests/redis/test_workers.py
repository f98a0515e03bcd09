"""Under gunicorn, with each of its kinds of workers: a handler takes longer than its lease, and a worker is killed."""

import http.client
import importlib.util
import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab.forks import ROOT
from tests.redis.lab import IN_PROGRESS, LASTING, UNKNOWN, Reply, cache
from tests.redis.servers import outlive, wait_until
from tests.servers import free_port

CONFIGURATION = Path(__file__).with_name("gunicorn_conf.py")
LATER = (IN_PROGRESS, (0, None))  # asked too early: its lease lasts, or gunicorn has no other worker yet
LEASE = 1.0  # seconds

WORKERS = {
    # Loaded before the workers are forked; the rival is another process.
    "sync": ["--workers", "2", "--preload"],
    # The rival is another thread of the same process.
    "gthread": ["--workers", "1", "--threads", "3"],
    "gevent": ["--workers", "1"],
}


class Site:
    """A gunicorn that serves `/act/`."""

    def __init__(self, keep, gate, url, kind, *arguments, lease=LEASE):
        self.port = free_port()
        command = [
            *(sys.executable, "-m", "gunicorn", "tests.redis.wsgi:application"),
            *("--config", str(CONFIGURATION), "--worker-class", kind, *WORKERS[kind], *arguments),
            *("--bind", f"127.0.0.1:{self.port}"),
        ]
        self.keep = keep
        self.pid = keep.start(
            command,
            gate.folder,
            PYTHONPATH=str(ROOT),
            DJANGO_SETTINGS_MODULE="tests.redis.settings",
            REDIS_TESTS_FOLDER=str(gate.folder),
            REDIS_TESTS_CACHE=json.dumps(cache(url)),
            REDIS_TESTS_LEASE=str(lease),
        )
        wait_until("gunicorn serves", lambda: self.ask("before", "refuse").status == 400)

    def ask(self, key, steps="effect"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {"Idempotency-Key": key, "X-Steps": steps, "Content-Type": "application/json"}
            connection.request("POST", "/act/", '{"amount": 10}', headers)
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, names, response.read().decode())
        except (ConnectionError, http.client.HTTPException) as error:
            return Reply(0, {}, "", repr(error))
        finally:
            connection.close()

    def end(self):
        os.kill(self.pid, signal.SIGTERM)
        self.keep.reap(self.pid)


@pytest.fixture(params=WORKERS)
def site(request, keep, gate, lasting):
    if importlib.util.find_spec("gevent") is None and request.param == "gevent":
        pytest.skip("gevent is not installed")
    site = Site(keep, gate, lasting.url, request.param)
    yield site
    site.end()


@pytest.fixture
def impatient(keep, gate, lasting):
    """A site that ends a worker which takes longer than a few seconds: busy machines need one to start a worker."""
    site = Site(keep, gate, lasting.url, "sync", "--timeout", "5", lease=LASTING)
    yield site
    site.end()


@pytest.fixture
def background():
    with ThreadPoolExecutor() as pool:
        yield pool.submit


@pytest.mark.kill
def test_a_worker_renews_its_leases_and_is_missed_when_it_is_killed(site, background, lasting, gate, key):
    """In flight for longer than its lease, then answered; one that is killed in its handler ends uncertain."""
    slow = background(site.ask, key, "effect halt")
    worker = gate.halted_pid()
    outlive(lasting, LEASE)
    # On a busy machine a renewal may be late: without any, this would be so for ever.
    rival = wait_until("an answer", lambda: (reply := site.ask(key)).said != UNKNOWN and reply)
    gate.open(worker)

    assert rival.said == IN_PROGRESS
    assert slow.result().status == 201
    assert site.ask(key).replayed
    assert gate.effects(key) == [worker]

    gate.close(worker)
    killed = background(site.ask, f"{key}-killed", "effect halt")
    worker = gate.halted_pid()
    os.kill(worker, signal.SIGKILL)

    assert killed.result().status == 0
    found = wait_until("an answer", lambda: (reply := site.ask(f"{key}-killed")).said not in LATER and reply)
    assert found.said == UNKNOWN
    assert gate.effects(f"{key}-killed") == [worker]


def test_a_worker_that_took_too_long_leaves_an_unknown_outcome(impatient, gate, key):
    """gunicorn ends it with SystemExit in its handler: no retry has to wait for the lease."""
    assert impatient.ask(key, "effect halt").status in (0, 500)

    found = wait_until("an answer", lambda: (reply := impatient.ask(key)).status and reply)

    assert found.said == UNKNOWN
    assert len(gate.effects(key)) == 1
