"""
A Django process with a RedisStore, which is there to be stopped and killed.

Run as a script it prepares itself once, and then forks for each line that it reads on standard input: a port, on which
the fork calls the test back for its configuration and its requests.
"""

import logging
import os
from datetime import timedelta
from typing import Any

from tests.lab.lines import Lines
from tests.lab.origin import answer_of, call_back, load, serve_forks

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
    lines, config = call_back(port)
    configure(**config)
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
            again, _ = call_back(int(os.environ["REDIS_TESTS_PORT"]))  # its configuration is ours
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
    load()
    import django.test.signals  # noqa: F401 it lets `caches` forget what it has made
    import django_redis.cache
    import django_redis.client  # noqa: F401 each fork would import it, and Redis with it

    logging.getLogger("django").setLevel(logging.CRITICAL + 1)


if __name__ == "__main__":
    from tests.redis import child  # once more, under the name that the views know it by

    child.prepare()
    serve_forks(child.serve)
