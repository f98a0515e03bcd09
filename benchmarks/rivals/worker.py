"""
A process in a contender's own environment, which serves requests in process: `python -m benchmarks.rivals.worker NAME`.

It reads commands from its standard input and writes answers to its standard output, each a line of JSON.
"""

from __future__ import annotations

import gc
import io
import json
import os
import platform
import signal
import sys
import time
import uuid
from importlib import metadata
from typing import IO, Any

from benchmarks.rivals import project
from benchmarks.rivals.contenders import CONTENDERS, Contender, Services

COLLECT_EVERY = 50  # rounds; the collector is off inside them
REPLAYED_FOR = 30  # seconds, because drf-idem forgets an answer after 60 at most


class Worker:
    """The commands, one method each. Arguments and results are JSON."""

    def __init__(self, contender: Contender, services: Services, commands: IO[str], answers: IO[str]) -> None:
        self.contender = contender
        self.services = services
        self.commands = commands
        self.answers = answers
        self.rounds = 0
        self.replayed: tuple[str, bytes, float] | None = None  # the key of `replay`, its first answer, and until when

    def serve(self) -> None:
        """Answer commands until the input ends."""
        for line in self.commands:
            command = json.loads(line)
            self.say(getattr(self, command.pop("do"))(**command))

    def say(self, answer: object) -> None:
        self.answers.write(json.dumps(answer) + "\n")
        self.answers.flush()

    def prepare(self) -> dict[str, str]:
        """Make the tables. The result is the versions."""
        project.prepare(self.contender, self.services)
        return {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in (self.contender.package, "django", "djangorestframework")},
        }

    def start(self) -> None:
        """Load the project, whose tables are there."""
        from django.core.wsgi import WSGIHandler
        from rest_framework.authtoken.models import Token

        from benchmarks.rivals import views

        self.at_rendering = views.at_rendering
        self.application = WSGIHandler()
        self.tokens = dict(Token.objects.values_list("user__username", "key"))

    def post(
        self,
        view: str,
        reference: str,
        key: str | None = None,
        amount: int = 1200,
        user: str = "payer",
        at_rendering: str | None = None,
    ) -> dict[str, Any]:
        """One request. *at_rendering*: `kill` this process there, or `hold` the request until the next line."""
        if at_rendering is not None:
            self.at_rendering.append({"kill": kill, "hold": self.hold}[at_rendering])
        status, body, _ = self.request(view, reference, key, amount, user)
        self.at_rendering.clear()  # a refusal that no renderer wrote has left it
        return {"status": status, "body": body.decode()}

    def hold(self) -> None:
        self.say("held")
        self.commands.readline()

    def count(self, reference: str) -> int:
        """The payments of that *reference*."""
        from benchmarks.payments.models import Payment

        return Payment.objects.filter(reference=reference).count()

    def revoke(self, user: str) -> None:
        """Take the token of *user* away, whose requests still send it."""
        from rest_framework.authtoken.models import Token

        Token.objects.filter(user__username=user).delete()

    def case(self, case: str) -> float:
        """The seconds of one request: `bare`, `first` or `replay`. Raises where it was something else."""
        number = uuid.uuid4().hex
        match case:
            case "bare":
                status, body, seconds = self.request("bare", number)
            case "first":
                status, body, seconds = self.request("protected", number, str(uuid.uuid4()))
            case "replay":
                if self.replayed is None or time.monotonic() > self.replayed[2]:
                    key = str(uuid.uuid4())
                    until = time.monotonic() + REPLAYED_FOR
                    self.replayed = key, self.request("protected", "replayed", key)[1], until
                key, first, _ = self.replayed
                status, body, seconds = self.request("protected", "replayed", key)
                if body != first:
                    raise RuntimeError(f"not a replay: {body!r}, the first was {first!r}")
                number = "replayed"
            case _:
                raise ValueError(case)
        if status != 201 or json.loads(body)["reference"] != number:
            raise RuntimeError(f"{case} answered {status} {body!r}")
        return seconds

    def round(self, order: list[str]) -> dict[str, float]:
        """The seconds of each case, in this *order*, after a request that wakes this process up."""
        self.rounds += 1
        if self.rounds % COLLECT_EVERY == 1:
            gc.collect()
        gc.disable()
        self.case("bare")
        seconds = {case: self.case(case) for case in order}
        gc.enable()
        return seconds

    def request(
        self, view: str, reference: str, key: str | None = None, amount: int = 1200, user: str = "payer"
    ) -> tuple[int, bytes, float]:
        """The status, the body and the seconds of one request through Django's WSGI handler."""
        body = json.dumps({"amount": amount, "reference": reference}).encode()
        environ = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": project.PATHS[view],
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_AUTHORIZATION": f"Token {self.tokens[user]}",
            "wsgi.input": io.BytesIO(body),
            "wsgi.url_scheme": "http",
            "wsgi.errors": sys.stderr,
        }
        if key is not None:
            environ["HTTP_IDEMPOTENCY_KEY"] = key
        statuses: list[str] = []
        begun = time.perf_counter()
        response = self.application(environ, lambda status, headers: statuses.append(status))
        content = b"".join(response)
        response.close()
        spent = time.perf_counter() - begun
        return int(statuses[0].split()[0]), content, spent


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(name: str) -> None:
    commands = os.fdopen(os.dup(0), "r")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a package prints is no answer
    contender = CONTENDERS[name]
    services = Services(
        database_url=os.environ["DATABASE_URL"],
        redis_url=os.environ["REDIS_URL"],
        namespace=os.environ["NAMESPACE"],
        folder=os.environ["FOLDER"],
    )
    project.configure(contender, services)
    Worker(contender, services, commands, answers).serve()


if __name__ == "__main__":
    main(sys.argv[1])
