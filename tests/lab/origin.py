"""
The side of the processes that tests ask, halt and kill: a script loads Django once, and forks for each process.

The test's side is `forks.py`.
"""

import asyncio
import gc
import io
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from tests.lab.lines import Lines

HANDLER: list[Any] = []  # Django's WSGI handler, once it is loaded


def load() -> None:
    """Load all that forks can share. Nothing of it is a connection. The settings are chosen before."""
    import django

    django.setup()
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.db.utils import load_backend

    HANDLER.append(WSGIHandler())
    for database in settings.DATABASES.values():
        load_backend(database["ENGINE"])
    answer_of("/nothing/", {}, {})  # imports the views, and what Django imports with the first request
    gc.collect()
    gc.freeze()


def serve_forks(serve: Callable[[int], None]) -> None:
    """Fork for each line on standard input; it is the port on which *serve* calls the test back."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the forks
    while line := sys.stdin.readline():
        if os.fork() == 0:
            try:
                serve(int(line))
            finally:
                sys.stderr.flush()
                os._exit(0)


def call_back(port: int) -> tuple[Lines, dict[str, Any]]:
    """Connect to the test, which listens on *port*. Returns the connection and the configuration that it sends."""
    lines = Lines(socket.create_connection(("127.0.0.1", port)))
    lines.send({"pid": os.getpid()})
    return lines, lines.receive()


def answer_of(path: str, headers: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
    """What Django's handler answers to a POST, as a server's worker would call it; below `/async/` an ASGI server's."""
    from django.core.signals import got_request_exception

    sent = json.dumps(body).encode()
    if path.startswith("/async/"):
        return asyncio.run(_answer_of_asgi(path, headers, sent))
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(sent)),
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(sent),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    environ |= {"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()}
    errors: list[str] = []
    started: dict[str, Any] = {}

    def on_error(**kwargs: Any) -> None:
        errors.append(repr(sys.exc_info()[1]))

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        started.update(status=int(status[:3]), headers={name.lower(): value for name, value in headers})

    got_request_exception.connect(on_error)
    try:
        response = HANDLER[0](environ, start_response)
        content = b"".join(response)
        response.close()
    finally:
        got_request_exception.disconnect(on_error)
    return started | {"body": content.decode("latin-1"), "error": "; ".join(errors)}


async def _answer_of_asgi(path: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    from django.core.asgi import get_asgi_application

    sent: list[dict[str, Any]] = []
    messages = [{"type": "http.request", "body": body}]
    known = headers | {"host": "testserver", "content-type": "application/json", "content-length": str(len(body))}
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": path, "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in known.items()],
    }  # fmt: skip

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    application: Any = get_asgi_application()
    await application(scope, receive, send)
    return {
        "status": sent[0]["status"],
        "headers": {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]},
        "body": b"".join(message.get("body", b"") for message in sent[1:]).decode("latin-1"),
        "error": "",
    }
