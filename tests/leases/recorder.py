"""A store that notes what it is asked, and answers as a test tells it to: the keeper's counterpart."""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from django_idempotency.core.decision import Claimed
from django_idempotency.core.keys import Attempt, Identity
from django_idempotency.engine.renewal import Lease
from django_idempotency.testing.memory import MemoryStore

TIMEOUT = 30.0  # seconds, for what happens at once unless a test fails


class Call(NamedTuple):
    verb: str
    key: str
    at: float  # monotonic
    thread: int


class Recorder(MemoryStore):
    """Each verb is noted, then *answer* is called: it may raise, wait, or return what renew answers."""

    def __init__(self, answer: Callable[[str, str], object] = lambda verb, key: True, calls: "Calls | None" = None):
        super().__init__("recorder", {})
        self.answer = answer
        self.calls = calls or Calls()

    def _asked(self, verb: str, attempt: Attempt) -> bool:
        self.calls.note(verb, attempt.identity.key)
        return bool(self.answer(verb, attempt.identity.key))

    def renew(self, attempt: Attempt, claim: Claimed, lease: float) -> bool:
        return self._asked("renew", attempt)

    def release(self, attempt: Attempt, claim: Claimed) -> None:
        self._asked("release", attempt)

    def abandon(self, attempt: Attempt, claim: Claimed, lease: float) -> None:
        self._asked("abandon", attempt)

    def mark_unsettled(self, attempt: Attempt, claim: Claimed) -> None:
        self._asked("mark_unsettled", attempt)

    def lease(self, key: str, seconds: float) -> Lease:
        attempt = Attempt(identity=Identity("scope", "operation", key), fingerprint=b"f" * 32, ttl=60)
        return Lease(self, attempt, Claimed(f"token of {key}"), seconds)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what nothing tells of."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Calls:
    """What one or several stores were asked, in its order, and a way to wait for more of it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._seen: list[Call] = []

    def note(self, verb: str, key: str) -> None:
        with self._changed:
            self._seen.append(Call(verb, key, time.monotonic(), threading.get_ident()))
            self._changed.notify_all()

    def of(self, key: str | None = None, verb: str | None = None) -> list[Call]:
        with self._changed:
            return [call for call in self._seen if key in (None, call.key) and verb in (None, call.verb)]

    def wait(self, number: int, key: str | None = None, verb: str | None = None) -> list[Call]:
        """At least *number* calls for *key*, or any of them; waits for them."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.of(key, verb)) >= number, TIMEOUT), self._seen
        return self.of(key, verb)

    def more(self, number: int, key: str | None = None) -> None:
        """Wait for *number* calls more than there are."""
        self.wait(len(self.of(key)) + number, key)
