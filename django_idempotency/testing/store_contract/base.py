"""What the tests of both kinds of store share: attempts, expectations, waiting with a deadline, threads."""

import threading
import time
import unittest
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

from django.db import connections

from django_idempotency.core.decision import Claimed, ClaimResult, Completed
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

FIND = "find: What is stored for the identity, except a claim in flight."

Outcome = TypeVar("Outcome")


class StoreTests:
    """
    The base of all tests. A subclass says how a store of its kind is used.

    The tests may be used without a test case, so they rely on none of its methods.
    """

    # Can another process use the same store? It calls `make_store` there.
    between_processes = True

    def make_store(self) -> Any:
        """Make the store under test: called once for each test, and in other processes."""
        raise NotImplementedError

    def make_store_that_is_away(self) -> Any:
        """Make a store whose server does not answer; None if there is no such thing."""
        return None

    @cached_property
    def store(self) -> Any:
        return self.make_store()

    @property
    def using(self) -> str | None:
        """The database that holds the records; None for a store outside the databases."""
        raise NotImplementedError

    # --- how a store of each kind is used ---

    def ask(self, attempt: Attempt) -> ClaimResult:
        """Return what *attempt* finds as a new request. A claim that it gets is given back."""
        raise NotImplementedError

    def keep(self, attempt: Attempt, record: CompletionRecord = RECORD) -> None:
        """Execute *attempt*, with the answer *record*."""
        raise NotImplementedError

    def leave_unsettled(self, attempt: Attempt) -> None:
        """Execute *attempt* so that its outcome is unsettled, visible to all."""
        raise NotImplementedError

    def while_in_flight(self, attempt: Attempt, call: Callable[[], Outcome]) -> Outcome:
        """
        Make *call* from another client while *attempt* is in flight, and return its result. Then the attempt is
        completed with RECORD; a store that lets the other client wait may show it that.
        """
        raise NotImplementedError

    def change(self, call: Callable[[], Outcome]) -> Outcome:
        """Make *call*, an operator's, as the package makes it."""
        raise NotImplementedError

    # --- what is expected ---

    def found(self, attempt: Attempt) -> StoredRecord:
        found: StoredRecord | None = self.store.find(self.using, attempt.identity.digest)
        expect(found is not None, FIND, found)
        assert found is not None  # noqa: S101  # for the types
        return found

    def expect_answer(self, attempt: Attempt, sentence: str, record: CompletionRecord = RECORD) -> None:
        """A retry of *attempt* gets *record*."""
        found = self.ask(attempt)
        expect(found == Completed(record, attempt.fingerprint), sentence, found)

    def expect_new(self, attempt: Attempt, sentence: str) -> None:
        """A request like *attempt* is executed, as the first one of its identity."""
        found = self.ask(attempt)
        expect(isinstance(found, Claimed) and not found.taken_over, sentence, found)

    def expect_refused(self, call: Callable[[], object], sentence: str) -> None:
        """An operator's *call* raises `RequestInProgress`."""
        try:
            result = self.change(call)
        except RequestInProgress:
            return
        expect(False, sentence, result)

    # --- threads ---

    def in_threads(self, work: Callable[[int], Outcome], number: int = THREADS) -> list[Outcome]:
        """Let *number* threads begin *work* together, and return the result of each."""
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
        """Do *work* in another thread, and close its database connections at the end."""

        def run() -> Outcome:
            try:
                return work(*arguments)
            finally:
                if self.using is not None:
                    connections.close_all()

        return pool.submit(run)


def attempt(**changes: Any) -> Attempt:
    """An attempt of a new identity. Its record would outlive the test."""
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
    """Unless *truth*, fail the test with the *sentence* of the contract that does not hold, and what was *seen*."""
    if not truth:
        raise AssertionError(f"{sentence}\nSeen: {seen!r}")


def expect_claimed(found: ClaimResult, sentence: str) -> Claimed:
    expect(isinstance(found, Claimed), sentence, found)
    assert isinstance(found, Claimed)  # noqa: S101  # for the types
    return found


def seconds_left(found: StoredRecord) -> float:
    """For how long *found* is kept, by the store's clock."""
    return float("inf") if found.expires_at is None else (found.expires_at - found.now).total_seconds()


def until(call: Callable[[], Outcome], accept: Callable[[Outcome], bool], sentence: str) -> Outcome:
    """Repeat *call* until *accept* is true of its result: for what only time brings about."""
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
    """Wait, to test that something still holds after these *seconds*."""
    time.sleep(seconds)
