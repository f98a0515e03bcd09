"""The test's side of the processes that are killed and raced, and what is checked when they are gone."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import cycle
from typing import Any
from urllib.parse import urlsplit

from tests.lab import forks
from tests.lab.lines import Lines
from tests.lab.statements import FOLDED_COMMIT

SCALE = int(os.environ.get("PROOF_SCALE", "1"))  # rounds of races and examples: times this
PATIENCE = 30  # seconds in which a database must have noticed that a client is dead


@dataclass(frozen=True, slots=True)
class Reply(forks.Reply):
    """An answer of the proof's views."""

    @property
    def is_suspicion(self) -> bool:
        """
        Has PostgreSQL's SERIALIZABLE, or Galera's certification, ended the transaction when the handler had run?

        With ATOMIC_REQUESTS, COMMIT is Django's, and its error (40001, 1213) is a 500.
        """
        cancelled = any(text in self.error for text in ("could not serialize access", "Deadlock found"))
        return self.code == "try-again" or (self.status == 500 and cancelled)


class Child(forks.Process):
    """One forked process. Its configuration is the database's settings as its project would have them."""

    def __init__(self, lines: Lines, config: dict[str, Any]) -> None:
        super().__init__(
            lines,
            {"database": {}, "options": {}, "isolation": "", "plain": False, "bug": "", **config},
        )

    def do(self, job: str, **what: Any) -> None:
        self.lines.send({"do": job, **what})

    def connect(self) -> "Child":
        self.do("connect")
        self.result()
        return self

    def send(self, request: "Request", script: str | None = None, *, halts: bool = False) -> None:
        self.do("request", halts=halts, **request.as_sent(script))

    def reply(self) -> Reply:
        return Reply(**self.result()["answer"])

    def ask(self, request: "Request", script: str | None = None) -> Reply:
        self.send(request, script)
        return self.reply()

    def ask_until_final(self, request: "Request", script: str | None = None) -> Reply:
        """As a client that is told to come again: until the answer is another, or patience is at its end."""
        deadline = time.monotonic() + PATIENCE
        while True:
            reply = self.ask(request, script)
            if reply.code != "request-in-progress" or time.monotonic() > deadline:
                return reply
            time.sleep(0.002)

    def points(self) -> Iterator[str]:
        """The points that the request in progress reaches, each as it halts there; it goes on with the next step."""
        while "point" in (message := self.result()):
            yield message["point"]
            self.lines.send({"go": True})
        self.last = Reply(**message["answer"])

    def halt_at(self, number: int) -> str:
        """Let the request in progress go on to its point *number*, counted from 0, and leave it there."""
        for count, point in enumerate(self.points()):
            if count == number:
                return point
        raise AssertionError(f"the request ended before its point {number}")

    def halt_when(self, *wanted: str) -> None:
        """Let the request in progress go on to the first of the points *wanted*, and leave it there."""
        assert any(point in wanted for point in self.points()), f"the request never was {wanted}"

    def finish(self) -> Reply:
        """Let a halted request run to its end."""
        self.lines.send({"go": True})
        for _ in self.points():
            pass
        return self.last


@dataclass(frozen=True, slots=True)
class Request:
    """A payment of *amount*, under a key that is its reference too."""

    key: str
    token: str
    path: str = "/pay/"
    script: str = ""
    amount: int = 10
    more: dict[str, Any] = field(default_factory=dict)

    def as_sent(self, script: str | None = None) -> dict[str, Any]:
        headers = {"Idempotency-Key": self.key, "X-Proof": self.script if script is None else script}
        if self.token:
            headers["Authorization"] = f"Token {self.token}"
        return {
            "path": self.path,
            "headers": headers,
            "body": {"amount": self.amount, "reference": self.key, **self.more},
        }


class Lab(forks.Forks[Child]):
    """Makes processes on the database *name*."""

    def __init__(self, name: str) -> None:
        super().__init__(Child, "tests.proof.child", name)
        nodes = [urlsplit(url) for url in os.environ.get("NODES", "").split()]
        self._nodes = cycle([{"HOST": node.hostname, "PORT": node.port, "OPTIONS": {}} for node in nodes] or [{}])

    def child(self, *, database: dict[str, Any] | None = None, **config: Any) -> Child:
        """A new process, on the next node of a cluster."""
        node = next(self._nodes)
        return self.fork(database={**node, **(database or {})}, **config)


# --- what must hold ---


def amounts(key: str) -> list[int]:
    """The effects under *key*, counted by their content."""
    from tests.app.models import Payment

    return sorted(Payment.objects.filter(reference=key).values_list("amount", flat=True))


def statuses(key: str) -> list[int]:
    """What is committed in the store for *key*."""
    from django_idempotency.models import IdempotencyRecord

    return list(IdempotencyRecord.objects.filter(key=key).values_list("status", flat=True))


def expire(key: str) -> None:
    from django.utils import timezone

    from django_idempotency.models import IdempotencyRecord

    past = timezone.now() - timedelta(minutes=1)
    assert IdempotencyRecord.objects.filter(key=key).update(expires_at=past) == 1


@dataclass(frozen=True, slots=True)
class Path:
    """A way through the engine that is killed at each of its points."""

    name: str
    script: str = ""
    commits: bool = True  # Does a request that runs to its end leave its work?
    effect: tuple[int, ...] = (10,)  # the amounts that one execution leaves
    before: str = ""  # what is there already: "expired", a record of another execution; "live", the record to replay
    retry: str | None = None  # the script of the retry, where it is another

    def seeded(self) -> tuple[int, ...]:
        return self.effect if self.before else ()


PATHS = (
    Path("success"),
    Path("refusal", script="refuse", commits=False, retry=""),
    Path("exception", script="raise", commits=False, retry=""),
    Path("expired-record", before="expired"),
    Path("savepoints", script="savepoints", effect=(11, 12)),
    Path("replay", before="live"),
)


class Killing:
    """
    Kills one request after the other on *path* and checks what their retries find.

    The children, those that are killed and those that retry, have the same *config*.
    """

    def __init__(self, lab: Lab, token: str, path: Path, prefix: str, *, url: str = "/pay/", **config: Any) -> None:
        self.lab = lab
        self.url = url
        self.token = token
        self.path = path
        self.prefix = prefix
        self.config = config
        self.retrier = lab.child(**config).connect()
        self.kills = 0

    def request(self, number: int | str) -> Request:
        """A request under a fresh key, with what *path* wants to be there before it."""
        request = Request(key=f"{self.prefix}-{number}", token=self.token, path=self.url, script=self.path.script)
        if self.path.before:
            assert self.retrier.ask(request).status == 201
            if self.path.before == "expired":
                expire(request.key)
        return request

    def enumerate(self) -> list[str]:
        """The points of one request, which is not killed."""
        child = self.lab.child(**self.config).connect()
        child.send(self.request("dry"), halts=True)
        points = list(child.points())
        child.close()
        return points

    def each(self) -> tuple[list[str], list[str]]:
        """Kill a request at every point. Returns the points and the violations of the law."""
        points = self.enumerate()
        committed_at = max((i for i, point in enumerate(points) if point == "after COMMIT"), default=len(points))
        if f"after {FOLDED_COMMIT}" in points:  # Django's own COMMIT finds nothing left to do
            committed_at = points.index(f"after {FOLDED_COMMIT}")
        violations = []
        for number, point in enumerate(points):
            request = self.request(number)
            child = self.lab.child(**self.config).connect()
            child.send(request, halts=True)
            assert child.halt_at(number) == point
            child.kill()
            committed = self.path.commits and not self.path.before and number >= committed_at
            if self.path.before == "expired":
                committed = number >= committed_at
            violations += [f"killed {number} {point}: {each}" for each in self.check(request, committed)]
        return points, violations

    def check(self, request: Request, committed: bool) -> list[str]:
        """What is wrong after a request was killed, by what the database holds and what retries get."""
        self.kills += 1
        path = self.path
        violations = []
        if 0 in (left := statuses(request.key)):
            violations.append(f"it left a claim behind: {left}")
        first = self.retrier.ask_until_final(request, path.retry)
        second = self.retrier.ask_until_final(request, path.retry)
        expected = sorted(path.effect + (path.effect if path.before == "expired" else ()))
        if first.status != 201:
            violations.append(f"the retry got {first.status} {first.code} {first.error}")
        if first.replayed != (committed or path.before == "live"):
            violations.append(f"the retry was {'' if first.replayed else 'not '}replayed, committed: {committed}")
        if not second.replayed or second.body != first.body or second.status != first.status:
            violations.append(f"a second retry got {second} after {first}")
        if (seen := amounts(request.key)) != expected:
            violations.append(f"effects {seen} instead of {expected}")
        if statuses(request.key) != [201]:
            violations.append(f"the store holds {statuses(request.key)}")
        return violations


@dataclass(frozen=True, slots=True)
class Race:
    """What the clients of a race for one key must not see."""

    key: str
    answers: list[list[Reply]]  # of each client, in its order

    def violations(self, effects: list[int], suspicious: bool = False) -> list[str]:
        """*suspicious*: the database may end a transaction on suspicion, which is 503 or 500, and rolled back."""
        replies = [reply for answers in self.answers for reply in answers]
        allowed = {201, 400, 409}
        final = [reply for reply in replies if reply.status == 201]
        violations = [
            f"{reply.status} {reply.code} {reply.error}"
            for reply in replies
            if reply.status not in allowed and not (suspicious and reply.is_suspicion)
        ]
        if unserved := [answers[-1].status for answers in self.answers if answers[-1].status != 201]:
            violations.append(f"clients without a final answer: {unserved}")
        if len({reply.body for reply in final}) > 1:
            violations.append(f"{len({reply.body for reply in final})} different answers")
        if (executed := sum(not reply.replayed for reply in final)) != 1:
            violations.append(f"{executed} executions were answered")
        if (seen := amounts(self.key)) != effects:
            violations.append(f"effects {seen} instead of {effects}")
        if statuses(self.key) != [201]:
            violations.append(f"the store holds {statuses(self.key)}")
        return [f"{self.key}: {each}" for each in violations]


def race(children: list[Child], request: Request, *, fails: float, attempts: int = 400) -> Race:
    """Let all *children* send *request* at once, and each again until it has its final answer."""
    for number, child in enumerate(children):
        child.do("race", seed=f"{request.key}/{number}", fails=fails, attempts=attempts, **request.as_sent())
    for child in children:
        assert child.result() == {"ready": True}
    for child in children:
        child.lines.send({"go": True})
    return Race(request.key, [[Reply(**answer) for answer in child.result()["answers"]] for child in children])
