"""What the tests of both kinds of store share: attempts of their own, waiting with a deadline, other threads."""

import threading
import time
import unittest
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

from django.db import connections

from django_idempotency.core.decision import Claimed, ClaimResult
from django_idempotency.core.keys import Attempt, Identity
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.stores.stored import StoredRecord

TIMEOUT = 30.0  # seconds, for what happens at once unless a test fails
POLL = 0.005  # seconds
SHORT = 0.05  # seconds: a lease or a lifetime whose end a test waits for
LONG = 600.0  # seconds: one that does not end while a test runs
THREADS = 6

FINGERPRINT = b"\x01" * 32
OTHER_FINGERPRINT = b"\x02" * 32
RECORD = CompletionRecord(
    status=201, reason="Created", headers=(("Content-Type", "text/plain"),), body=b"one", request_id="request-1"
)
OTHER_RECORD = CompletionRecord(status=202, reason="Accepted", body=b"two", request_id="request-1")

Outcome = TypeVar("Outcome")


class StoreTests:
    """
    The ground of all the tests: what a kind of store needs to be asked by them.

    A test case is optional, so that nothing here may be one of its methods, `setUp` and assertions included.
    """

    # Can another process use the same store? It is made anew there, by `make_store`.
    between_processes = True

    def make_store(self) -> Any:
        """The store under test, made anew: once for each test, and in other processes."""
        raise NotImplementedError

    def make_store_that_is_away(self) -> Any:
        """A store whose server does not answer, if there is such a thing."""
        return None

    @cached_property
    def store(self) -> Any:
        return self.make_store()

    @property
    def using(self) -> str | None:
        """The database in whose transaction all happens, or None beside all of them."""
        raise NotImplementedError

    # --- what each kind of store does in its own way ---

    def ask(self, attempt: Attempt) -> ClaimResult:
        """What *attempt* finds as a newcomer. A claim that it gets is not kept."""
        raise NotImplementedError

    def keep(self, attempt: Attempt, record: CompletionRecord = RECORD) -> None:
        """Execute *attempt*, whose answer is *record*."""
        raise NotImplementedError

    def leave_unsettled(self, attempt: Attempt) -> None:
        """Execute *attempt* with an outcome that nobody knows, and let that be visible."""
        raise NotImplementedError

    def while_in_flight(self, attempt: Attempt, call: Callable[[], Outcome]) -> Outcome:
        """
        *call*, by another client while *attempt* is in flight; what it returns or raises. The attempt is completed with
        RECORD then. A store that lets the other client wait may let it see that.
        """
        raise NotImplementedError

    def change(self, call: Callable[[], Outcome]) -> Outcome:
        """*call*, an operator's, as the package makes it."""
        raise NotImplementedError

    # --- for the tests ---

    def found(self, attempt: Attempt) -> StoredRecord:
        found: StoredRecord | None = self.store.find(self.using, attempt.identity.digest)
        expect(found is not None, "find: What is stored for the identity, a claim in flight excepted.", found)
        assert found is not None  # noqa: S101  # for the types
        return found

    def refuses(self, call: Callable[[], object], sentence: str) -> None:
        """*call* raises `RequestInProgress`."""
        try:
            result = self.change(call)
        except RequestInProgress:
            return
        expect(False, sentence, result)

    def in_threads(self, work: Callable[[int], Outcome], number: int = THREADS) -> list[Outcome]:
        """What *work* returned in each of *number* threads that began together."""
        barrier = threading.Barrier(number)

        def begin(place: int) -> Outcome:
            barrier.wait(TIMEOUT)
            return work(place)

        with ThreadPoolExecutor(number) as pool:
            futures = [self.in_thread(pool, begin, place) for place in range(number)]
            return [future.result(TIMEOUT) for future in futures]

    def in_thread(
        self, pool: ThreadPoolExecutor, work: Callable[..., Outcome], *arguments: object
    ) -> "Future[Outcome]":
        """*work* in another thread, on connections of its own, which are closed at its end."""

        def run() -> Outcome:
            try:
                return work(*arguments)
            finally:
                if self.using is not None:
                    connections.close_all()

        return pool.submit(run)


def attempt(**changes: Any) -> Attempt:
    """An attempt of an identity that nobody else has, to be kept for longer than the test."""
    scope = changes.pop("scope", "conformance")
    operation = changes.pop("operation", "POST payments/")
    key = changes.pop("key", None) or str(uuid.uuid4())
    values = {
        "fingerprint": FINGERPRINT,
        "ttl": LONG,
        "request": "POST example.org/payments/",
        "request_id": RECORD.request_id,
    }
    return Attempt(identity=Identity(scope, operation, key), **{**values, **changes})


def expect(truth: bool, sentence: str, seen: object = None) -> None:
    """Fail the test with the *sentence* of the contract that does not hold, and what was *seen* instead."""
    if not truth:
        raise AssertionError(f"{sentence}\nSeen: {seen!r}")


def expect_claimed(found: ClaimResult, sentence: str) -> Claimed:
    expect(isinstance(found, Claimed), sentence, found)
    assert isinstance(found, Claimed)  # noqa: S101  # for the types
    return found


def until(call: Callable[[], Outcome], accept: Callable[[Outcome], bool], sentence: str) -> Outcome:
    """*call* again and again until its result is to *accept*: for what time alone brings about."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        result = call()
        if accept(result):
            return result
        expect(time.monotonic() < deadline, sentence, result)
        time.sleep(POLL)


def skip(reason: str) -> None:
    raise unittest.SkipTest(reason)


def let_pass(seconds: float) -> None:
    """Let time pass, for what must hold after it too."""
    time.sleep(seconds)
