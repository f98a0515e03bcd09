"""
A protected view whose work is outside of every database: it appends a line to a file, which
shows how often it ran.

The header `X-Steps` says what the handler does, one word after the other.
"""

import os
import time
from pathlib import Path

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from django_idempotency import idempotent
from django_idempotency.core.probe import Verdict
from django_idempotency.probes import NOT_DONE, UNSURE, Found, UnsettledOperation

TIMEOUT = 60  # seconds that a handler waits for a test which may be gone


def folder() -> Path:
    """Where the test and the processes leave each other word."""
    return Path(os.environ["REDIS_TESTS_FOLDER"])


def take_effect(key: str) -> None:
    with (folder() / "effects").open("a") as effects:
        effects.write(f"{key} {os.getpid()}\n")  # one write, so no two of them mix


def halt() -> None:
    """Stand still until the test lets us go on: see `lab.Gate`."""
    (folder() / f"halted-{os.getpid()}").touch()
    go = folder() / f"go-{os.getpid()}"
    deadline = time.monotonic() + TIMEOUT
    while not go.exists():
        assert time.monotonic() < deadline, "the test did not let the handler go on"
        time.sleep(0.002)


@idempotent(store="redis")
def act(request: HttpRequest) -> HttpResponse:
    """Take the steps that the header names, and answer which process did."""
    for step in request.headers.get("X-Steps", "effect").split():
        match step:
            case "effect":
                take_effect(request.headers["Idempotency-Key"])
            case "halt":
                halt()
            case "deny":
                raise PermissionDenied
            case "raise":
                raise TimeoutError("the gateway has not answered")
            case "refuse":
                return JsonResponse({"error": "mend your payload"}, status=400)
            case "fail":
                return JsonResponse({"error": "not today"}, status=503)
            case "fork":
                if (forked := os.fork()) == 0:
                    os._exit(0)
                try:
                    os.waitpid(forked, 0)
                except ChildProcessError:
                    pass  # the kernel has buried it already
            case "spawn":
                from tests.redis import child

                child.fork()
            case "exit":
                raise SystemExit(1)
            case "stream":
                return StreamingHttpResponse([b"not to be stored"], status=201)
            case _:
                raise AssertionError(step)
    return JsonResponse({"by": os.getpid()}, status=201)


def asked_about(name: str) -> list[str]:
    """The steps that the test has written for the probe, or for what comes after it."""
    try:
        return (folder() / name).read_text().split()
    except FileNotFoundError:
        return []


def probe(operation: UnsettledOperation) -> Found | Verdict:
    """Look for the work under the operation's key, or take the steps that the test has written into a file."""
    with (folder() / "asked").open("a") as asked:
        asked.write(f"{operation.key} {os.getpid()}\n")
    for step in asked_about("probe"):
        match step:
            case "halt":
                halt()
            case "exit":
                raise SystemExit(1)
            case "raise":
                raise TimeoutError("the gateway has not answered")
            case "unsure":
                return UNSURE
            case _:
                raise AssertionError(step)
    effects = folder() / "effects"
    done = [line.split() for line in effects.read_text().splitlines()] if effects.exists() else []
    by = [int(pid) for key, pid in done if key == operation.key]
    return Found({"by": by[0]}, status=201) if by else NOT_DONE


def should_store(response: HttpResponse) -> bool:
    """As by default; where the test says so, halt before the answer is stored."""
    for _step in asked_about("answer"):
        halt()
    return response.status_code < 300


urlpatterns = [path("act/", act)]
