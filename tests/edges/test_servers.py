"""A client that is cut off in the middle of its request, under real servers: nothing runs, and its retry does."""

import asyncio
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from asgiref.sync import async_to_sync
from django.core.asgi import get_asgi_application
from django.db import connection

from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import TIMEOUT
from tests.edges.test_bodies import multipart
from tests.lab.forks import ROOT

pytestmark = pytest.mark.django_db(transaction=True)

WORKERS = {"sync": [], "gthread": ["--worker-class", "gthread", "--threads", "2"]}
FORM = "application/x-www-form-urlencoded"
UPLOAD = multipart(("amount", "1"), ("file", "rows.csv", "text/csv", b"a,1\n" * 20))
BODIES = {
    "json": ("application/json", json.dumps({"rows": ["a,1"] * 20}).encode()),
    "csv": ("text/csv", b"a,1\n" * 20),
    "octets": ("application/octet-stream", bytes(range(256))),
    "form": (FORM, b"&".join([b"amount=1"] * 20)),
    "multipart": (UPLOAD["content_type"], UPLOAD["data"]),
    # More than the server, Django and we keep in memory.
    "large csv": ("text/csv", b"a,1\n" * 20 + b"x" * 2_000_000),
    "large multipart": (
        UPLOAD["content_type"],
        multipart(("file", "rows.csv", "text/csv", b"x" * 2_000_000))["data"],
    ),
}
VIEWS = ["plain", "stream", "drf"]


@pytest.fixture(scope="module", params=WORKERS)
def address(request, django_db_setup) -> Iterator[tuple[str, int]]:
    """Where a gunicorn of this kind serves `tests.edges.served`, on the tests' own database."""
    settings = {name: connection.settings_dict[name] for name in ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT")}
    configuration = "python:benchmarks.faults.gunicorn_conf"  # it ends with our pipe
    with subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--config", configuration, *WORKERS[request.param],
         "tests.edges.served:application"],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "SERVED_DATABASE": json.dumps(settings), "WORKERS": "1"},
    ) as process:  # fmt: skip
        host, port = process.stdout.readline().strip().split(":")
        yield host, int(port)
        process.terminate()


def head(path: str, content_type: str, length: str) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nIdempotency-Key: k\r\n"
        f"Connection: close\r\n{length}\r\n\r\n"
    ).encode()


def hang_up(address: tuple[str, int], sent: bytes) -> tuple[int, bytes]:
    """Send so much of a request and no more. What the server says to that, if it says anything: status and body."""
    with socket.create_connection(address, timeout=TIMEOUT) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(client)
        try:
            response.begin()
            return response.status, response.read()
        except (ConnectionError, http.client.HTTPException):
            return 0, b""


def ask(address: tuple[str, int], path: str, content_type: str, body: bytes, **headers: str) -> tuple[int, bool]:
    """The status of the whole request's answer, and whether it was a replay."""
    client = http.client.HTTPConnection(*address, timeout=TIMEOUT)
    headers = {"Host": "localhost", "Content-Type": content_type, "Idempotency-Key": "k", **headers}
    client.request("POST", path, body, headers)
    response = client.getresponse()
    response.read()
    client.close()
    return response.status, response.headers.get("Idempotency-Replayed") == "true"


def check_that_nothing_ran() -> None:
    assert not Payment.objects.exists()
    assert not IdempotencyRecord.objects.exists()


def test_a_client_of_gunicorn_that_is_cut_off(address):
    """gunicorn hands a view the half of a body, whatever its kind and however the view reads it."""
    for view in VIEWS:
        for name, (content_type, body) in BODIES.items():
            start = head(f"/{view}/", content_type, f"Content-Length: {len(body)}")
            for part in (0, 1, len(body) // 2, len(body) - 1):
                status, answer = hang_up(address, start + body[:part])

                assert status in (0, 400), (view, name, part, answer)
                assert not status or json.loads(answer)["code"] == "body-incomplete", (view, name, part)
                check_that_nothing_ran()

            assert ask(address, f"/{view}/", content_type, body) == (201, False), (view, name)
            assert ask(address, f"/{view}/", content_type, body) == (201, True), (view, name)
            Payment.objects.all().delete()
            IdempotencyRecord.objects.all().delete()


def test_a_client_of_gunicorn_that_is_cut_off_in_a_body_without_a_length(address):
    """In a chunk, between two, and before the last one, which is empty."""
    rows = b"a,1\n" * 20
    chunks = b"28\r\n" + rows[:40] + b"\r\n28\r\n" + rows[40:] + b"\r\n0\r\n\r\n"
    start = head("/stream/", "text/csv", "Transfer-Encoding: chunked")
    for part in (0, 1, 20, chunks.index(b"\r\n28"), chunks.index(b"\r\n0") + 2, len(chunks) - 1):
        status, answer = hang_up(address, start + chunks[:part])

        assert status in (0, 400), (part, answer)
        check_that_nothing_ran()

    assert hang_up(address, start + chunks)[0] == 201
    assert Payment.objects.count() == 20
    assert hang_up(address, start + chunks)[0] == 201
    assert hang_up(address, start + chunks.replace(b"a", b"b"))[0] == 422
    assert Payment.objects.count() == 20


@pytest.fixture
def asgi(settings, monkeypatch):
    """
    Give Django's ASGI application a request: its head, then its body in pieces, after which None is a client that hangs
    up. Returns status and headers, or None where no answer was sent.
    """
    settings.ROOT_URLCONF = "tests.edges.served"
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", 0)  # each request has a thread of its own
    application = get_asgi_application()

    def asgi(path, content_type, length, pieces):
        headers = {"host": "localhost", "content-type": content_type, "idempotency-key": "k"}
        if length is not None:
            headers["content-length"] = str(length)
        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "path": path, "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip
        messages = [
            {"type": "http.disconnect"} if piece is None else {"type": "http.request", "body": piece, "more_body": True}
            for piece in pieces
        ]
        if messages[-1]["type"] == "http.request":
            messages[-1]["more_body"] = False
        sent = []

        async def receive():
            if messages:
                return messages.pop(0)
            await asyncio.sleep(TIMEOUT)  # until it is cancelled: this client waits for its answer
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        async_to_sync(application)(scope, receive, send)
        start = next((message for message in sent if message["type"] == "http.response.start"), None)
        return None if start is None else (start["status"], b"true" in dict(start["headers"]).values())

    return asgi


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_client_of_an_asgi_server_that_is_cut_off(asgi, view, body):
    """A sync view under ASGI: the server says that the client is gone, or hands over less than was announced."""
    content_type, body = body
    half = len(body) // 2

    assert asgi(f"/{view}/", content_type, len(body), [body[:half], None]) is None
    assert asgi(f"/{view}/", content_type, len(body), [body[:half]]) == (400, False)
    check_that_nothing_ran()
    assert asgi(f"/{view}/", content_type, len(body), [body[:half], body[half:]]) == (201, False)
    assert asgi(f"/{view}/", content_type, len(body), [body]) == (201, True)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_without_a_length_under_asgi(asgi, body):
    """Django keeps all of it, so that it is told from another and its retry is replayed."""
    content_type, body = body

    assert asgi("/drf/", content_type, None, [body[:10], None]) is None
    check_that_nothing_ran()
    first = asgi("/plain/", content_type, None, [body[:10], body[10:]])
    again = asgi("/plain/", content_type, None, [body])
    other = asgi("/plain/", content_type, None, [body.replace(b"1", b"2").replace(b"xx", b"xy")])

    assert (first, again, other) == ((201, False), (201, True), (422, False))
