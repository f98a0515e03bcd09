"""Async views under the servers that people use: requests at once, clients that hang up, and servers that end."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import connection

from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import POOLED, TIMEOUT
from tests.lab.forks import ROOT

pytestmark = pytest.mark.django_db(transaction=True)

APPLICATION = "tests.asyncs.served:application"
SERVERS = {
    "uvicorn": ["uvicorn", APPLICATION, "--port", "{port}", "--lifespan", "off", "--timeout-graceful-shutdown", "1"],
    "hypercorn": ["hypercorn", APPLICATION, "--bind", "127.0.0.1:{port}", "--workers", "0", "--graceful-timeout", "1"],
    "daphne": ["daphne", "--port", "{port}", "--application-close-timeout", "1", APPLICATION],
}


@dataclass(frozen=True, slots=True)
class Served:
    name: str
    process: Any
    port: int

    def connect(self, key: str, amount: int = 10, **headers: str) -> http.client.HTTPConnection:
        """Send a request; its answer is not read."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"Content-Type": "application/json", "Idempotency-Key": key, **named}
        client.request("POST", "/pay/", json.dumps({"amount": amount}), sent)
        return client

    def ask(self, key: str, **headers: str) -> tuple[int, bool]:
        """The status of the answer, and whether it is a replay."""
        client = self.connect(key, **headers)
        response = client.getresponse()
        response.read()
        client.close()
        return response.status, response.headers.get("Idempotency-Replayed") == "true"

    def sleeps(self) -> None:
        """Wait until a handler sleeps."""
        assert any(line == "sleeps\n" for line in self.process.stdout)  # between the server's own


def start(name: str, **options: Any) -> Served:
    settings = {key: connection.settings_dict[key] for key in ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT")}
    settings |= {"CONN_MAX_AGE": 0, **options}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [part.format(port=port) for part in SERVERS[name]]
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "SERVED_DATABASE": json.dumps(settings)},
    )  # fmt: skip
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert process.poll() is None, f"{name} did not start"
            time.sleep(0.05)
        else:
            return Served(name, process, port)
    raise AssertionError(f"{name} did not listen")


# The short suite has one of them.
EACH = [name if name == "uvicorn" else pytest.param(name, marks=pytest.mark.slow) for name in SERVERS]


@pytest.fixture(scope="module", params=EACH)
def shared(request: pytest.FixtureRequest, django_db_setup: None) -> Iterator[Served]:
    """A server of all tests that leave it running."""
    served = start(request.param)
    with served.process:
        yield served
        served.process.kill()


@pytest.fixture
def served(transactional_db: None, shared: Served) -> Served:
    return shared


def left() -> tuple[int, int]:
    return Payment.objects.count(), IdempotencyRecord.objects.count()


def test_requests_at_once(served):
    """Others run meanwhile, a duplicate waits for the first and gets its answer."""
    with ThreadPoolExecutor() as pool:
        first = pool.submit(served.ask, "a", X_Sleep="0.3")
        served.sleeps()
        others = [pool.submit(served.ask, key) for key in ("a", "a", "b", "c")]

        assert first.result() == (201, False)
        assert [other.result() for other in others] == [(201, True), (201, True), (201, False), (201, False)]
    assert left() == (3, 3)
    assert set(Payment.objects.values_list("amount", flat=True)) == {10}


@pytest.mark.parametrize("swallows", [False, True])
def test_a_client_that_hangs_up(served, swallows):
    """Its work is rolled back, also if the handler swallows the cancellation; its retry runs."""
    client = served.connect("a", X_Sleep="60", **({"X_Swallow": "1"} if swallows else {}))
    served.sleeps()
    client.close()

    assert served.ask("a") == (201, False)
    assert served.ask("a") == (201, True)
    assert left() == (1, 1)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_server_that_ends(shared, transactional_db, how):
    """It ends in time, and what its handlers have done is rolled back."""
    served = start(shared.name)
    with closing(served.connect("a", X_Sleep="60")) as client:
        served.sleeps()
        served.process.send_signal(how)
        if "hypercorn" in served.process.args and sys.version_info >= (3, 12):
            client.close()  # it waits for open connections there, whatever their views are
        served.process.wait(TIMEOUT)

    with served.process:
        assert shared.ask("a") == (201, False)
    assert left() == (1, 1)


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="Django's pool is of PostgreSQL")
@pytest.mark.skipif(POOLED, reason="the pool is the server's")
@pytest.mark.parametrize("name", EACH)
def test_with_a_pool(name):
    """Threads come and go, and each gives its connection back: also those of clients that hang up."""
    served = start(name, OPTIONS={"pool": {"min_size": 2, "max_size": 2, "timeout": 5}})
    with served.process:
        for number in range(5):
            client = served.connect(f"hung-up-{number}", X_Sleep="60")
            served.sleeps()
            client.close()
        with ThreadPoolExecutor(2) as pool:
            answers = [*pool.map(served.ask, [f"key-{number % 10}" for number in range(30)])]
        served.process.kill()
    assert {status for status, _ in answers} == {201}
    assert left() == (10, 10)


LOOP = """
import asyncio, django
django.setup()
from django_idempotency import once

@once("asyncs.stopped", key=lambda event: event)
async def on_event(event):
    print("sleeps", flush=True)
    await asyncio.sleep(60)

loop = asyncio.new_event_loop()
task = loop.create_task(on_event("a"))
loop.run_until_complete(asyncio.sleep(1.5))
"""


def test_an_event_loop_that_just_stops():
    """Without cancelling what runs on it: the process ends all the same, and its transaction is rolled back."""
    environment = {"DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": "sqlite:///:memory:"}
    script = LOOP.replace("from django_idempotency", MIGRATE + "from django_idempotency")
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert ended.stdout == "sleeps\n", ended.stderr
    assert "Traceback" not in ended.stderr.replace("Task was destroyed", "")


MIGRATE = """
from django.conf import settings
import tempfile
settings.DATABASES["default"]["NAME"] = tempfile.mkdtemp() + "/db.sqlite3"
from django.core.management import call_command
call_command("migrate", verbosity=0, run_syncdb=True)
"""
