"""
A process that is there to be killed: it serves requests through Django's handlers, and halts where it is told to.

Run as a script it prepares itself once, and then forks for each line that it reads on standard input: a port, on which
the fork calls the test back for its configuration and its jobs.
"""

import logging
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from tests.lab.lines import Lines
from tests.lab.origin import answer_of, call_back, load, serve_forks

# --- the points at which it can be killed ---


@lru_cache(maxsize=1)
def installed_points() -> Any:
    """The testing kit's points in all that this process sends from now on. Without *lines* they do nothing."""
    from django_idempotency.testing.processes.points import Points

    class SentPoints(Points):
        """Sends each point, and waits for the reply."""

        lines: Lines | None = None

        def arrive(self, name: str) -> None:
            if self.lines is not None:
                self.lines.send({"point": name})
                if self.lines.receive() is None:
                    os._exit(1)  # the test itself is gone

    points = SentPoints()
    points.install()
    return points


@contextmanager
def halting(lines: Any) -> Iterator[Any]:
    """Send each point that is reached in the block to *lines*."""
    points = installed_points()
    points.lines = lines
    try:
        yield points
    finally:
        points.lines = None


# --- jobs ---


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


def resume(lines: Lines) -> dict[str, Any]:
    """What `manage.py idempotency_resume` does once."""
    from django.core.management import call_command

    call_command("idempotency_resume", verbosity=0)
    return {}


def purge(lines: Lines) -> dict[str, Any]:
    """What `manage.py idempotency_purge` does. Returns how many records it deleted."""
    from django_idempotency.operations.purging import purge

    return {"count": purge(batch_size=10).count}


JOBS = {"connect": connect, "request": request, "race": race, "resume": resume, "purge": purge}

# --- the process ---


def serve(port: int) -> None:
    lines, config = call_back(port)
    configure(**config)
    while (job := lines.receive()) is not None:
        lines.send(JOBS[job.pop("do")](lines, **job))


def without_routines(dialect: Any) -> None:
    """Let *dialect* send plain statements, whatever the server has."""
    if hasattr(dialect, "by_procedure"):
        dialect.by_procedure = False
    if hasattr(dialect, "statements"):
        dialect.statements = dialect.PLAIN


def configure(
    database: dict[str, Any], options: dict[str, Any], isolation: str, plain: bool, bug: str, fold: bool = True
) -> None:
    """
    The database's settings and the store's option `FOLD`, as a project would have them; a store that finds no routines,
    and a planted bug, as only we do.
    """
    from django.db import connections

    from django_idempotency.stores import stores

    settings = connections.settings["default"]
    settings |= {"CONN_MAX_AGE": None, **database}
    settings["OPTIONS"] = settings.get("OPTIONS", {}) | options
    if isolation:
        settings["OPTIONS"]["isolation_level"] = isolation_level(settings["ENGINE"], isolation)
    if not fold:
        stores["default"].fold = False
    if plain:
        connections["default"].close()
        without_routines(stores["default"].dialect("default"))
    if bug:
        from tests.proof import bugs

        bugs.plant(bug)


def isolation_level(engine: str, isolation: str) -> Any:
    if not engine.endswith("postgresql"):
        return None if isolation == "server" else isolation
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    return IsolationLevel[isolation.upper().replace(" ", "_")]


def prepare(database: str) -> None:
    """All that forks can share; nothing of it is a connection."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    from django.conf import settings

    settings.DATABASES["default"]["NAME"] = database
    settings.ROOT_URLCONF = "tests.proof.urls"
    # Counts are written when their time has come, so a kill's points would not be the same in each run.
    settings.IDEMPOTENCY = {**getattr(settings, "IDEMPOTENCY", {}), "COUNTS": False}
    logging.disable(logging.CRITICAL)
    load()
    import django_idempotency.testing.processes.points  # noqa: F401 each fork that halts would import it


if __name__ == "__main__":
    prepare(sys.argv[1])
    serve_forks(serve)
