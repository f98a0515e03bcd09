"""
A Django process with a RedisStore, which is there to be stopped and killed.

Run as a script it prepares itself once, and then forks for each line that it reads on standard input: a port, on which
the fork calls the test back for its configuration and its requests.
"""

import gc
import logging
import os
import signal
import socket
import sys
from datetime import timedelta
from typing import Any

from tests.proof.child import HANDLER, answer_of
from tests.proof.lines import Lines

LINES: list[Lines] = []  # to the test
DECISIONS = ("executed", "replayed", "refused", "forgotten", "unsettled")


class Told(logging.Handler):
    """What the package has logged, from WARNING on."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


def request(told: Told, heard: list[str], what: dict[str, Any]) -> dict[str, Any]:
    """One request, with what was logged and signalled meanwhile. A handler that ends the process has no status."""
    told.lines.clear()
    heard.clear()
    try:
        answer = answer_of(**what)
    except SystemExit:
        answer = {"status": 0, "headers": {}, "body": "", "error": "SystemExit"}
    return answer | {"log": told.lines, "signals": heard}


def serve(port: int) -> None:
    """Configure this process as the test says, and do its jobs."""
    lines = Lines(socket.create_connection(("127.0.0.1", port)))
    lines.send({"pid": os.getpid()})
    configure(**lines.receive())
    work(lines)


def work(lines: Lines) -> None:
    LINES[:] = [lines]
    told, heard = Told(), []
    logging.getLogger("django_idempotency").addHandler(told)
    listen(heard)
    while (job := lines.receive()) is not None:
        if "fork" in job:
            fork()
            lines.send({})
        else:
            lines.send(request(told, heard, job))


def fork() -> None:
    """Fork this process; the fork calls the test back too, and does its jobs with all that this one has made."""
    if os.fork() == 0:
        try:
            LINES[0].close()  # so that the test sees the end of the process that was forked
            port = int(os.environ["REDIS_TESTS_PORT"])
            again = Lines(socket.create_connection(("127.0.0.1", port)))
            again.send({"pid": os.getpid()})
            again.receive()  # its configuration, which is ours
            work(again)
        finally:
            os._exit(0)


def listen(heard: list[str]) -> None:
    from django_idempotency import signals

    for name in DECISIONS:
        # A closure for each, kept alive by `weak=False`.
        receiver = lambda name=name, **about: heard.append(name)  # noqa: E731
        getattr(signals, f"operation_{name}").connect(receiver, weak=False)


def configure(folder: str, port: int, cache: dict[str, Any], options: dict[str, Any]) -> None:
    """The settings that a project would have. Durations among the *options* are in seconds."""
    from django.conf import settings
    from django.core.signals import setting_changed

    os.environ |= {"REDIS_TESTS_FOLDER": folder, "REDIS_TESTS_PORT": str(port)}
    settings.CACHES = {"default": cache}
    durations = {name: timedelta(seconds=options.pop(name)) for name in ("LEASE", "TTL") if name in options}
    settings.IDEMPOTENCY = settings.IDEMPOTENCY | options | durations
    for name in ("CACHES", "IDEMPOTENCY"):
        setting_changed.send(sender=None, setting=name, value=getattr(settings, name), enter=True)


def prepare() -> None:
    """All that forks can share; nothing of it is a connection."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.redis.settings"
    import django

    django.setup()
    import django.test.signals  # it lets `caches` forget what it has made
    from django.core.handlers.wsgi import WSGIHandler
    from django.urls import get_resolver

    HANDLER.append(WSGIHandler())
    get_resolver().url_patterns  # noqa: B018 imports the views
    logging.getLogger("django").setLevel(logging.CRITICAL + 1)
    gc.collect()
    gc.freeze()


def main() -> None:
    prepare()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the forks
    while line := sys.stdin.readline():
        if os.fork() == 0:
            try:
                serve(int(line))
            finally:
                sys.stderr.flush()
                os._exit(0)


if __name__ == "__main__":
    from tests.redis import child  # once more, under the name that the views know it by

    child.main()
