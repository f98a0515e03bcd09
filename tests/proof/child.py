"""
A process that is there to be killed: it serves requests through Django's WSGI handler, and halts where it is told to.

Run as a script it prepares itself once, and then forks for each line that it reads on standard input: a port, on which
the fork calls the test back for its configuration and its jobs.
"""

import gc
import io
import json
import logging
import os
import random
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.proof.lines import Lines

# --- the points at which it can be killed ---


class Points:
    """Tells the test of each point, and goes on when the test says so."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines

    def reach(self, point: str) -> None:
        self.lines.send({"point": point})
        if self.lines.receive() is None:
            os._exit(1)  # the test itself is gone

    def statement(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        """Around every statement, savepoints and SQLite's BEGIN included: one of Django's execute wrappers."""
        return self.around(execute, label(sql))(sql, params, many, context)

    def around(self, call: Callable[..., Any], what: str) -> Callable[..., Any]:
        def halting(*args: Any, **kwargs: Any) -> Any:
            self.reach(f"before {what}")
            try:
                return call(*args, **kwargs)
            finally:
                self.reach(f"after {what}")

        return halting


@contextmanager
def halting(lines: Lines) -> Iterator[Points]:
    """Halt before and after all that the default connection sends."""
    from django.db import connection

    points = Points(lines)
    methods = {
        "_commit": lambda *args: "COMMIT",
        "_rollback": lambda *args: "ROLLBACK",
        "_set_autocommit": lambda autocommit: "AUTOCOMMIT" if autocommit else "BEGIN",
    }
    for name, what in methods.items():
        method = getattr(connection, name)

        def wrapped(*args: Any, method: Any = method, what: Any = what) -> Any:
            return points.around(method, what(*args))(*args)

        setattr(connection, name, wrapped)
    with connection.execute_wrapper(points.statement):
        yield points
    for name in methods:
        delattr(connection, name)


FOLDED_COMMIT = "record and COMMIT"  # in one message


NAMES = {
    "claim": re.compile("INSERT|_claim_v"),
    "record": re.compile("SET status = %s|_complete_v"),
    "renew": re.compile("status = 0,"),
}


def label(sql: str) -> str:
    """A statement as a test's output names it: its verb and its table, without what changes from run to run."""
    text = " ".join(sql.split())
    if text.endswith("; COMMIT"):
        return FOLDED_COMMIT
    if "idempotency" in text and not text.startswith(("SAVEPOINT", "RELEASE")):
        for name, sign in NAMES.items():
            if sign.search(text):
                return name
        return "lock" if "NOWAIT" in text else "look-up"
    verb, *rest = text.split(" ")
    if verb in ("SAVEPOINT", "RELEASE", "ROLLBACK", "BEGIN", "COMMIT"):
        return "ROLLBACK TO" if verb == "ROLLBACK" else verb
    table = re.search(r"(?:FROM|INTO|UPDATE|TABLE) [`\"]?(\w+)", text)
    return f"{verb} {table[1] if table else ' '.join(rest)[:20]}"


# --- jobs ---


def answer_of(path: str, headers: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
    """What Django's handler answers to a POST, as a server's worker would call it."""
    from django.core.signals import got_request_exception

    sent = json.dumps(body).encode()
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


def connect(lines: Lines) -> dict[str, Any]:
    """Connect, and let the store find out which server it has, so that a request sends its own statements alone."""
    from django.db import connection

    from django_idempotency.stores import stores

    connection.ensure_connection()
    stores["default"].dialect("default")
    return {}


def request(lines: Lines, halts: bool, **what: Any) -> dict[str, Any]:
    """One request. With *halts*, it reaches points on the way, and one more before its answer is sent."""
    if not halts:
        return {"answer": answer_of(**what)}
    with halting(lines) as points:
        answer = answer_of(**what)
    points.reach("before the answer is sent")
    return {"answer": answer}


def race(lines: Lines, seed: str, fails: float, attempts: int, **what: Any) -> dict[str, Any]:
    """A client that asks until it has its final answer; a share of *fails* of its executions rolls back."""
    draw = random.Random(seed)
    headers = what.pop("headers")
    lines.send({"ready": True})
    lines.receive()
    answers = []
    for _ in range(attempts):
        script = draw.choice(("refuse", "raise")) if draw.random() < fails else ""
        answers.append(answer_of(headers=headers | {"X-Proof": script}, **what))
        if answers[-1]["status"] == 201:
            break
        time.sleep(draw.uniform(0, 0.01))  # as a client that polls
    return {"answers": answers}


JOBS = {"connect": connect, "request": request, "race": race}
HANDLER: list[Any] = []

# --- the process ---


def serve(port: int) -> None:
    lines = Lines(socket.create_connection(("127.0.0.1", port)))
    lines.send({"pid": os.getpid()})
    configure(**lines.receive())
    while (job := lines.receive()) is not None:
        lines.send(JOBS[job.pop("do")](lines, **job))


def without_routines(dialect: Any) -> None:
    """Let *dialect* send plain statements, whatever the server has."""
    if hasattr(dialect, "by_procedure"):
        dialect.by_procedure = False
    if hasattr(dialect, "statements"):
        dialect.statements = dialect.PLAIN


def configure(
    database: dict[str, Any], options: dict[str, Any], isolation: str, mysql: bool, plain: bool, bug: str
) -> None:
    """
    The database's settings, as a project would have them; the dialect of MySQL, a store that finds no routines, and a
    planted bug, as only we do.
    """
    from django.db import connections

    from django_idempotency.stores import stores

    settings = connections.settings["default"]
    settings |= {"CONN_MAX_AGE": None, **database}
    settings["OPTIONS"] = settings.get("OPTIONS", {}) | options
    if isolation:
        settings["OPTIONS"]["isolation_level"] = isolation_level(settings["ENGINE"], isolation)
    if mysql:
        from django_idempotency.stores.database.mysql import MySQL

        stores["default"]._dialects["default"] = MySQL()
    if plain:
        connections["default"].close()
        without_routines(stores["default"].dialect("default"))
    if bug:
        from tests.proof import bugs

        bugs.plant(bug)


def isolation_level(engine: str, isolation: str) -> Any:
    if not engine.endswith("postgresql"):
        return None if isolation == "server" else isolation
    from psycopg import IsolationLevel

    return IsolationLevel[isolation.upper().replace(" ", "_")]


def prepare(database: str) -> None:
    """All that forks can share; nothing of it is a connection."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    import django
    from django.conf import settings

    settings.DATABASES["default"]["NAME"] = database
    settings.ROOT_URLCONF = "tests.proof.urls"
    # Counts are written when their time has come, so a kill's points would not be the same in each run.
    settings.IDEMPOTENCY = {**getattr(settings, "IDEMPOTENCY", {}), "COUNTS": False}
    django.setup()
    from django.core.handlers.wsgi import WSGIHandler
    from django.urls import get_resolver

    HANDLER.append(WSGIHandler())
    get_resolver().url_patterns  # noqa: B018 imports the views
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.freeze()


def main() -> None:
    prepare(sys.argv[1])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the forks
    while line := sys.stdin.readline():
        if os.fork() == 0:
            try:
                serve(int(line))
            finally:
                sys.stderr.flush()
                os._exit(0)


if __name__ == "__main__":
    main()
