"""One run against one server: keys in the form that it takes, and a count of what took effect."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import replace

from django_idempotency.conformance.requests_file import Described, FileError, Requests, member, steps
from django_idempotency.conformance.wire import Answer, NoAnswer, Request, Wire

POLLS = 20  # retries of a request that may be in flight, and counts of one that may have run
BETWEEN_POLLS = 0.25  # seconds
PREPARATION = 6  # requests: two forms of a key, a second execution, three counts


class NotReady(Exception):
    """The server cannot be examined with this file; the message says what to change."""


class Session:
    """
    Sends what the file describes, over *wire*.

    *racers* is how many copies race. `prepare` comes first, and learns whether the server takes keys in quotes.
    """

    def __init__(self, wire: Wire, described: Described, *, racers: int) -> None:
        self.wire = wire
        self.described = described
        self.racers = racers
        self.quoted = True

    def new(self) -> Requests:
        """Requests with a unique value of their own."""
        return self.described.requests()

    def new_key(self) -> str:
        """A key that nobody has used, as the header's value."""
        return self.spell(str(uuid.uuid4()))

    def spell(self, name: str) -> str:
        return f'"{name}"' if self.quoted else name

    def send(self, request: Request, key: str | None) -> Answer:
        """Raises `NoAnswer`."""
        return self.wire.send(request, () if key is None else (key,))

    def settle(self, request: Request, key: str) -> Answer:
        """Send until it succeeds, at most `POLLS` times: another may be in flight. The last answer counts."""
        answer = self.send(request, key)
        for _ in range(POLLS - 1):
            if answer.succeeded:
                break
            time.sleep(BETWEEN_POLLS)
            answer = self.send(request, key)
        return answer

    def count(self) -> int | None:
        """How often the request has taken effect, by the file's `effects`; None without. Raises `NotReady`."""
        effects = self.described.effects
        if effects is None:
            return None
        answer = self.get(effects.path)
        problem = f"`effects` (GET {effects.path})"
        if not answer.succeeded:
            raise NotReady(f"{problem} is answered with {answer}")
        try:
            found = json.loads(answer.body)
            for step in steps(effects.pointer) if effects.pointer else ():
                found = member(found, step)
        except (ValueError, LookupError, TypeError, FileError) as error:
            raise NotReady(f"{problem} has nothing at {effects.pointer or 'its root'}: {answer}") from error
        if isinstance(found, list):
            return len(found)
        if isinstance(found, int) and not isinstance(found, bool):
            return found
        raise NotReady(f"{problem} must have a whole number or a list at {effects.pointer or 'its root'}: {answer}")

    def since(self, before: int | None) -> int | None:
        """How often the request has taken effect since the count *before*; None if it is not counted."""
        now = self.count()
        return None if now is None or before is None else now - before

    def since_hang_up(self, before: int | None) -> int | None:
        """The same, when there is one at least, or after `POLLS` counts: nobody tells when the server has noticed."""
        effects = self.since(before)
        for _ in range(POLLS - 1):
            if effects != 0:
                break
            time.sleep(BETWEEN_POLLS)
            effects = self.since(before)
        return effects

    def get(self, path: str, key: str | None = None) -> Answer:
        """GET *path* with the headers of `effects`, or else the request's. Raises `NoAnswer`."""
        effects = self.described.effects
        headers = effects.headers if effects else self.described.headers
        return self.send(Request(method="GET", path=path, headers=headers, body=b""), key)

    def prepare(self) -> None:
        """
        Learn in which form the server takes a key, and whether two executions can be told apart.

        Raises `NotReady` if the request does not succeed, or if nothing would tell that it ran twice.
        """
        self.wire.allow(PREPARATION)
        request = self.new().plain
        try:
            before = self.count()
            first = self.send(request, self.new_key())
            if not first.succeeded:
                self.quoted = False
                bare = self.send(request, self.new_key())
                if not bare.succeeded:
                    raise NotReady(
                        f"{request.method} {request.path} must succeed (2xx) before anything can be examined."
                        f" It is answered with {first}\nMend the request file until it succeeds."
                    )
                first = bare
            effects = self.since(before)
            second = self.send(request, self.new_key())
        except NoAnswer as error:
            raise NotReady(f"{self.wire.url} cannot be examined. {error}") from error
        if effects is not None and effects != 1:
            raise NotReady(
                f"One request changed the count of `effects` by {effects} instead of 1. It must count what the"
                " request makes, and nobody else may send it meanwhile."
            )
        if effects is None and second.same_as(first):
            raise NotReady(
                "Two requests with two keys got the same answer, so a second execution could not be told from a"
                " replay. Name in `effects` a GET that counts executions."
            )


def as_other(session: Session, request: Request) -> Request:
    """*request* by the other caller, at its own path if the file gives one."""
    described = session.described
    return replace(
        request, headers={**request.headers, **described.other_headers}, path=described.other_path or request.path
    )
