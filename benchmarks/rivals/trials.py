"""
What each package does when things go wrong, tried with real processes. Every trial returns a few words for the table.

The instant of `killed` and `at_once` is the rendering of the answer: the handler's work is done, and no package has
stored the answer yet.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable
from typing import Any

from benchmarks.rivals.processes import Failed, WorkerProcess

REFUSALS = {409, 423, 425, 429, 503}  # "not now": the same request may be sent again
RETRY_EVERY = 0.5  # seconds
RETRY_FOR = 60  # seconds; the documented locks of those that have one last 30
BLOCKED_AFTER = (
    7  # seconds without an answer; idemkit gives up waiting after 10, and a busy machine needs some to refuse
)

Start = Callable[[], WorkerProcess]
_numbers = itertools.count()


def answer_lost(start: Start) -> str:
    """The same request again, after it was answered."""
    request = a_request()
    with start() as worker:
        first = worker.ask("post", **request)
        answer = worker.ask("post", **request)
        paid = payments(worker, request)
    return f"{'the same answer' if answer == first else answer['status']}: {paid}"


def killed(start: Start) -> str:
    """kill -9 between the work and the stored answer, then retries."""
    request = a_request()
    with start() as worker:
        worker.send("post", **request, at_rendering="kill")
        worker.wait_for_kill()
    died = time.monotonic()
    with start() as worker:
        answer = worker.ask("post", **request)
        refusal = answer["status"] if answer["status"] in REFUSALS else None
        while answer["status"] in REFUSALS and time.monotonic() - died < RETRY_FOR:
            time.sleep(RETRY_EVERY)
            answer = worker.ask("post", **request)
        seconds = time.monotonic() - died
        paid = payments(worker, request)
    if answer["status"] in REFUSALS:
        return f"still {refusal} after {RETRY_FOR} s, {paid}"
    if refusal is not None:
        return f"{refusal} for {seconds:.0f} s, then {answer['status']}: {paid}"
    return f"{answer['status']} at once: {paid}"


def at_once(start: Start) -> str:
    """A second request while the first one is on its way."""
    request = a_request()
    with start() as first, start() as second:
        first.send("post", **request, at_rendering="hold")
        if first.answer() != "held":
            raise Failed("a request was not held at the rendering of its answer")
        second.send("post", **request)
        waits = not second.answers_within(BLOCKED_AFTER)
        if not waits:
            late = second.answer()
        first.send("go on")
        early = first.answer()
        if waits:
            late = second.answer()
        paid = payments(first, request)
    if early["status"] != 201:
        return f"the first gets {early['status']}: {paid}"
    if late["body"] == early["body"]:
        outcome = "the first one's answer"
    else:
        outcome = str(late["status"])
    return f"the second {'waits, then gets' if waits else 'gets'} {outcome}: {paid}"


def another_user(start: Start) -> str:
    """Another user's request with the same key and body."""
    request = a_request()
    with start() as worker:
        first = worker.ask("post", **request)
        answer = worker.ask("post", **request, user="stranger")
        paid = payments(worker, request)
    if answer["body"] == first["body"]:
        return f"gets the first user's answer: {paid}"
    return f"{answer['status']}, and {paid}: one for each" if answer["status"] == 201 else f"{answer['status']}: {paid}"


def revoked(start: Start) -> str:
    """The same request again, with a token that was taken away in between."""
    request = {**a_request(), "user": "leaver"}
    with start() as worker:
        first = worker.ask("post", **request)
        worker.ask("revoke", user="leaver")
        answer = worker.ask("post", **request)
        paid = payments(worker, request)
    outcome = "still gets the answer" if answer["body"] == first["body"] else answer["status"]
    return f"{outcome}: {paid}"


def another_body(start: Start) -> str:
    """The same user's request with the same key and another amount."""
    request = a_request()
    with start() as worker:
        first = worker.ask("post", **request)
        answer = worker.ask("post", **request, amount=9900)
        paid = payments(worker, request)
    if answer["body"] == first["body"]:
        return f"gets the first answer: {paid}"
    return f"{answer['status']}: {paid}"


# In the order of the table's columns, which they are the headings of.
TRIALS = {
    "retried after a lost answer": answer_lost,
    "killed between work and answer, then retried": killed,
    "two at once": at_once,
    "another user, the same key": another_user,
    "token revoked, then retried": revoked,
    "the same key, another body": another_body,
}


def a_request() -> dict[str, Any]:
    return {"view": "protected", "reference": f"trial {next(_numbers)}", "key": str(uuid.uuid4())}


def payments(worker: WorkerProcess, request: dict[str, Any]) -> str:
    """How many there are now in the database, for the trial of *request*."""
    number = worker.ask("count", reference=request["reference"])
    return f"{number} payment{'' if number == 1 else 's'}"
