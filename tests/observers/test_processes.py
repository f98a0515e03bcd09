"""The apps, turned on by `INSTALLED_APPS`: in the processes of a server, and without their libraries."""

import http.client
import json
import os
import re
import subprocess
import sys
import time
import uuid
from itertools import count
from pathlib import Path

import pytest

from tests.lab.caches import REDIS_URL, need_redis
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 60  # seconds, for gunicorn's start
TIMEOUT = 30  # seconds
TRIES = 500  # requests, until each of two workers has had one
EXTRAS = {"prometheus": "prometheus_client", "opentelemetry": "opentelemetry"}


class Site:
    """A gunicorn of two processes, which load the project before they are forked."""

    def __init__(self, folder):
        self.port = free_port()
        command = ["gunicorn", "tests.observers.served:application", "--workers", "2", "--preload"]
        command += ["--config", "tests/redis/gunicorn_conf.py", "--bind", f"127.0.0.1:{self.port}"]
        environment = {"DJANGO_SETTINGS_MODULE": "tests.observers.settings", "TESTS_PREFIX": f"test-{uuid.uuid4()}"}
        environment |= {"PROMETHEUS_MULTIPROC_DIR": str(folder), "REDIS_URL": REDIS_URL, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env=os.environ | environment, stderr=subprocess.DEVNULL
        )

    def ask(self, method, path, key="", body=b""):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            headers = {"Idempotency-Key": key, "Content-Type": "application/json"} if key else {}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def figures(self, names):
        text = self.ask("GET", "/metrics")[1]
        lines = re.findall(r'^django_idempotency_(\w+){operation="POST act/"} (\S+)$', text, re.M)
        return {name: float(number) for name, number in lines if name in names}

    def wait(self):
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                return self.ask("GET", "/metrics")
            except OSError:
                time.sleep(0.1)
        raise AssertionError("gunicorn does not serve")


@pytest.mark.slow
def test_the_processes_of_gunicorn_have_one_sum(tmp_path):
    """A scrape reaches one of them, and is told of all."""
    need_redis()
    site = Site(tmp_path)
    try:
        site.wait()
        seen, keys = set(), (f"key-{number}" for number in count())
        sent = 0
        while len(seen) < 2 and sent < TRIES:
            seen.add(json.loads(site.ask("POST", "/act/", next(keys), b"{}")[1])["process"])
            sent += 1
        assert len(seen) == 2
        for _ in range(5):
            assert site.ask("POST", "/act/", "key-0", b"{}")[0] == 201
        assert site.ask("POST", "/act/", "key-0", b'{"amount": 1}')[0] == 422

        expected = {"executions_total": sent, "replays_total": 5, "mismatches_total": 1, "conflicts_total": 0}
        expected |= {"claim_seconds_count": sent + 6, "record_seconds_count": sent}
        deadline = time.monotonic() + TIMEOUT
        while (shown := site.figures(expected)) != expected and time.monotonic() < deadline:
            time.sleep(0.05)  # they are made a moment later
        assert shown == expected
    finally:
        site.process.terminate()
        site.process.wait()


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_library_is_named(extra):
    """The error says what to install; the package without the app does not miss it."""
    code = f"""
import sys
import django
from django.conf import settings
sys.modules[{EXTRAS[extra]!r}] = None
settings.configure(INSTALLED_APPS=["django.contrib.contenttypes", "django_idempotency", *sys.argv[1:]])
django.setup()
"""
    command = [sys.executable, "-c", code]

    without = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    result = subprocess.run([*command, f"django_idempotency.contrib.{extra}"], cwd=ROOT, capture_output=True, text=True)

    assert without.returncode == 0, without.stderr
    assert "ImproperlyConfigured" in result.stderr
    assert f'pip install "django-idempotency[{extra}]"' in result.stderr
