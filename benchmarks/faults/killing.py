"""
Kills by the thousand: `python -m benchmarks.faults.killing`, with a JSON of a `Plan` on standard input.

The process prepares Django once and forks lanes. A lane forks victims, each of which makes one request and dies on its
way by SIGKILL: before or after a statement that it counts itself, or at an instant of its lane's choice. A retrier, one
for each lane, is the client that asks again, sometimes while the victim is still alive. Prints what was done as JSON;
whether the law held is the checker's to say, from the database and the log.
"""

import json
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults.journal import Journal
from tests.lab.lines import Lines
from tests.lab.origin import answer_of
from tests.proof.child import configure, halting, prepare

PATIENCE = 30  # seconds in which a database must have noticed that a client is dead
RIVALS = 0.2  # the share of keys for which two victims run at once
EARLY = 0.25  # the share of kills that the retrier does not wait for
AGAIN = 0.3  # the share of keys that are killed once more
REPEAT = 0.2  # the share of answered keys that are asked for a third time, by a victim
EXPIRES = 0.1  # the share of keys that have an expired record before they are killed

# What the handler does, and how often. A retry asks for the plain payment.
SCRIPTS = {"": 8, "refuse": 1, "raise": 1}

ATOMIC = ("/pay/", "/plain/")
PHASED = "/phased/brief/"

# Of a request, until one has been counted to its end: more than there are, because only a survivor tells.
POINTS, POINTS_IN_PHASES = 32, 100
INSTANT, INSTANT_IN_PHASES = 0.02, 0.1  # seconds that a request takes, until one has been timed


@dataclass(slots=True, kw_only=True)
class Plan:
    """
    *lanes* are configurations, as `tests.proof.child.configure` takes them; each gets its part of the kills. With a
    *gateway*, a folder, the views are in phases, and charge there.
    """

    kills: int
    lanes: list[dict[str, Any]]
    database: str
    log: str
    prefix: str
    token: str
    seed: int
    gateway: str = ""
    seconds: float = 3600.0  # after which no victim is made any more


@dataclass(slots=True)
class Suicide:
    """Stands where a test listens to points: counts them, and kills its own process at the one numbered *at*."""

    at: int
    count: int = 0

    def send(self, message: Any) -> None:
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1

    def receive(self) -> bool:
        return True


@dataclass(slots=True)
class Tally:
    """What a lane has done. Only a process that was found dead by SIGKILL is a kill."""

    kills: int = 0
    instants: int = 0  # of these, at an instant and not at a point
    survived: int = 0  # victims that ended before their point or instant
    keys: int = 0
    retries: int = 0
    committed: int = 0  # retries after a kill that found the work done
    waited: float = 0.0  # seconds, the longest that a retrier waited for a dead client's claim
    points: dict[str, int] = field(default_factory=dict)  # of each path, as far as known


class Lane:
    def __init__(self, plan: Plan, number: int, quota: int) -> None:
        self.plan = plan
        self.number = number
        self.quota = quota
        self.draw = random.Random(f"{plan.seed}/{number}")
        self.journal = Journal(Path(plan.log))
        self.tally = Tally()
        self.instant = INSTANT_IN_PHASES if plan.gateway else INSTANT

    def run(self) -> Tally:
        self.retrier = self.fork_retrier()
        deadline = time.monotonic() + self.plan.seconds
        while self.tally.kills < self.quota and time.monotonic() < deadline:
            self.tally.keys += 1
            self.kill_for(f"{self.plan.prefix}-{self.number}-{self.tally.keys}")
        self.retrier.close()
        return self.tally

    def kill_for(self, key: str) -> None:
        """One key: victims, and retries until it has its answer, which a last retry must get again."""
        path = PHASED if self.plan.gateway else self.draw.choice(ATOMIC)
        if self.draw.random() < EXPIRES:
            self.retry(key, path, expire=True)
        while True:
            script = "" if self.plan.gateway else self.draw.choices(list(SCRIPTS), list(SCRIPTS.values()))[0]
            again = self.draw.random() < AGAIN
            self.kill(key, path, script, retried=not again)
            if not again:
                break
        if self.draw.random() < REPEAT:  # a replay is killed too
            self.kill(key, path, "")
        self.retry(key, path)

    def kill(self, key: str, path: str, script: str, *, retried: bool = True) -> None:
        at_point = self.draw.random() < 0.5
        early = retried and self.draw.random() < EARLY
        victims = []
        begun = time.monotonic()
        for _ in range(1 + (self.draw.random() < RIVALS)):
            guess = POINTS_IN_PHASES if self.plan.gateway else POINTS
            known = self.tally.points.get(path + script, guess)
            at = self.draw.randrange(known) if at_point else None
            victims.append(self.fork_victim(key, path, script, at))
        if early:
            self.ask_retrier(key, path)
        if not at_point:
            time.sleep(self.draw.uniform(0, self.instant))  # the instant is what is tried here
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
        died = 0
        for victim in victims:
            _, status = os.waitpid(victim, 0)
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
                died += 1
                continue
            self.tally.survived += 1
            if at_point and (counted := os.waitstatus_to_exitcode(status)):
                self.tally.points[path + script] = counted
        self.tally.kills += died
        if not at_point:
            self.tally.instants += died
            # Towards a length in which most victims die, and some have just ended.
            self.instant *= 1.01 if died == len(victims) else 0.96
            self.instant = min(max(self.instant, 0.001), 60 * INSTANT, 2 * (time.monotonic() - begun) + 0.002)
        if early:
            self.hear_retrier(died)
        elif retried:
            self.retry(key, path, died=died)

    # --- the victims ---

    def fork_victim(self, key: str, path: str, script: str, at: int | None) -> int:
        if pid := os.fork():
            return pid
        code = 0
        try:
            request = self.request(key, path, script)
            if at is None:
                answer = answer_of(**request)
            else:
                points = Suicide(at)
                with halting(points) as halt:  # type: ignore[arg-type]
                    answer = answer_of(**request)
                halt.reach("before the answer is sent")
                # A replay and a refusal are shorter, and would hide the later points from then on.
                is_whole = answer["status"] in (201, 400) and "idempotency-replayed" not in answer["headers"]
                code = min(points.count, 255) if is_whole else 0
            self.journal.answer(key, answer["status"], answer["body"].encode("latin-1"))
        finally:
            os._exit(code)

    def request(self, key: str, path: str, script: str) -> dict[str, Any]:
        headers = {"Idempotency-Key": key, "X-Proof": script}
        if path != "/plain/":
            headers["Authorization"] = f"Token {self.plan.token}"
        body = {"amount": 10, "reference": key}
        if self.plan.gateway:
            body["gateway"] = self.plan.gateway
        return {"path": path, "headers": headers, "body": body}

    # --- the retrier ---

    def retry(self, key: str, path: str, *, expire: bool = False, died: int = 0) -> None:
        self.ask_retrier(key, path, expire=expire)
        self.hear_retrier(died)

    def ask_retrier(self, key: str, path: str, *, expire: bool = False) -> None:
        self.retrier.send({"key": key, "path": path, "expire": expire})

    def hear_retrier(self, died: int) -> None:
        said = self.retrier.receive()
        if said is None:
            raise RuntimeError(f"the retrier of lane {self.number} is gone")
        self.tally.retries += said["attempts"]
        self.tally.committed += bool(died and said["replayed"])
        self.tally.waited = max(self.tally.waited, said["seconds"])

    def fork_retrier(self) -> Lines:
        """A client of its own process: this one has no connection that its victims could inherit."""
        listener = socket.create_server(("127.0.0.1", 0))
        if os.fork():
            with listener:
                return Lines(listener.accept()[0])
        try:
            lines = Lines(socket.create_connection(listener.getsockname()))
            listener.close()
            while (job := lines.receive()) is not None:
                lines.send(self.ask_until_final(**job))
        finally:
            os._exit(0)

    def ask_until_final(self, key: str, path: str, expire: bool) -> dict[str, Any]:
        """As a client does: until there is a final answer, or patience is at its end."""
        begun = time.monotonic()
        attempts = 0
        while True:
            attempts += 1
            answer = answer_of(**self.request(key, path, ""))
            line = self.journal.answer(key, answer["status"], answer["body"].encode("latin-1"))
            if line["status"] == 201 or line["code"] == "outcome-unknown" or time.monotonic() > begun + PATIENCE:
                break
            time.sleep(0.002)  # as a client that polls
        if expire:
            from tests.proof.lab import expire as let_expire

            let_expire(key)
            self.journal.expired(key)
        replayed = answer["headers"].get("idempotency-replayed") == "true"
        return {"attempts": attempts, "seconds": time.monotonic() - begun, "replayed": replayed}


def prepare_lane(config: dict[str, Any]) -> None:
    """The lane's configuration, and what the store finds out about its server; nothing of it is a connection."""
    from django.db import connections

    from django_idempotency.stores import stores

    bug = config.pop("bug", "")
    configure(**{"database": {}, "options": {}, "isolation": "", "plain": False, "bug": "", **config})
    if bug:
        from benchmarks.faults import bugs

        bugs.plant(bug)
    stores["default"].dialect("default")
    connections.close_all()


def fork_lane(plan: Plan, number: int, quota: int) -> tuple[int, int]:
    """The process of a lane, and the pipe on which it tells its tally."""
    config = dict(plan.lanes[number])
    reader, writer = os.pipe()
    if pid := os.fork():
        os.close(writer)
        return pid, reader
    try:
        os.close(reader)
        if not config.pop("fold", True):
            from django_idempotency.stores.database import folded

            folded.can_fold = lambda connection: False
        prepare_lane(config)
        tally = Lane(plan, number, quota).run()
        told = {name: getattr(tally, name) for name in Tally.__slots__}
        os.write(writer, json.dumps(told).encode())
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def run(plan: Plan) -> dict[str, Any]:
    """All lanes at once. Returns the sum of their tallies, how long it took, and how many lanes broke."""
    begun = time.monotonic()
    share, rest = divmod(plan.kills, len(plan.lanes))
    lanes = [fork_lane(plan, number, share + (number < rest)) for number in range(len(plan.lanes))]
    sums: Counter[str] = Counter()
    longest, broken = 0.0, 0
    for pid, reader in lanes:
        with os.fdopen(reader, "rb") as pipe:
            told = pipe.read()
        os.waitpid(pid, 0)
        if not told:
            broken += 1
            continue
        tally = json.loads(told)
        longest = max(longest, tally.pop("waited"))
        tally.pop("points")
        sums.update(tally)
    return {**sums, "waited": longest, "broken": broken, "seconds": time.monotonic() - begun}


if __name__ == "__main__":
    plan = Plan(**json.load(sys.stdin))
    prepare(plan.database)
    sys.stdout.write(json.dumps(run(plan)) + "\n")
