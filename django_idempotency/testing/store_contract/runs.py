"""The store under the engine, as requests use it: when they are replayed, refused, joined, or run again."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from django_idempotency.core.decision import Answer
from django_idempotency.core.keys import Attempt, renamed
from django_idempotency.core.policy import resolve
from django_idempotency.core.probe import NOT_DONE, UNSURE, Found, UnsettledOperation
from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine.execution import Executed, Joined, Refused, Replayed
from django_idempotency.engine.handle import OperationHandle
from django_idempotency.engine.run import run
from django_idempotency.exceptions import KeyReused, NothingDone, OutcomeUnknown, RequestInProgress, StoreUnavailable
from django_idempotency.stores import stores
from django_idempotency.testing.store_contract.base import (
    OTHER_FINGERPRINT,
    StoreTests,
    attempt,
    expect,
    let_pass,
    seconds_left,
)

ALIAS = "conformance"
PROBED = "uncertain: A probe that is asked once decides about an unknown outcome."
A_MOMENT = 0.01  # seconds
ONCE = "A key takes effect at most once while its record lives."


class RunTests(StoreTests):
    """Executions under the engine, in either kind of store."""

    def run_once(
        self,
        first: Attempt,
        handler: Callable[[], Any],
        capture: Callable[[Any], Answer[Any]] | None = None,
        **options: Any,
    ) -> Any:
        """Let the engine execute *first* with this *handler* and the policy's *options*. Raises a refusal."""
        stores._made[ALIAS] = self.store  # as if it were configured
        policy = resolve(({"store": ALIAS, **options},), lambda path: path)
        outcome = run(first, policy, self.using, lambda handle: handler(), capture or stored)
        if isinstance(outcome, Refused):
            raise outcome.refusal
        return outcome

    def test_an_answer_is_replayed(self) -> None:
        """The handler runs once; a retry gets its answer, with the request id of the execution."""
        runs = Runs("answer")
        first = attempt(request_id="first")

        executed = self.run_once(first, runs)
        replayed = self.run_once(replace(first, request_id="second"), runs)

        expect(executed == Executed("answer", record_of("answer", "first")), "The handler's answer is kept.", executed)
        expect(replayed == Replayed(record_of("answer", "first")), "The record answers a retry.", replayed)
        expect(runs.number == 1, ONCE, runs.number)

    def test_another_request_with_the_key_is_refused(self) -> None:
        """It does not run the handler."""
        runs = Runs("answer")
        first = attempt()
        self.run_once(first, runs)

        seen = refusal(lambda: self.run_once(replace(first, fingerprint=OTHER_FINGERPRINT), runs))

        expect(isinstance(seen, KeyReused), "A record of another fingerprint is no answer.", seen)
        expect(runs.number == 1, ONCE, runs.number)

    def test_an_exception_that_says_no_leaves_the_key_free(self) -> None:
        """A retry runs the handler again, and so may another request."""
        runs = Runs(NothingDone("no"))
        first = attempt()

        seen = [refusal(lambda: self.run_once(first, runs)) for _ in range(2)]

        expect(all(isinstance(error, NothingDone) for error in seen), "The handler's exception is the caller's.", seen)
        expect(runs.number == 2, "release: Free the key. A retry runs again.", runs.number)
        later = self.run_once(replace(first, fingerprint=OTHER_FINGERPRINT), Runs("answer"))
        expect(isinstance(later, Executed), "release: Free the key, for another request too.", later)

    def test_a_refusal_leaves_the_key_free(self) -> None:
        """The answer is not kept."""
        runs = Runs("no")
        first = attempt()

        seen = [self.run_once(first, runs, lambda value: Answer(value, None)) for _ in range(2)]

        expect(seen == [Executed("no", None)] * 2, "An answer that is not to be kept is its caller's alone.", seen)
        expect(runs.number == 2, "release: Free the key. A retry runs again.", runs.number)

    def test_a_call_from_inside_the_handler_joins_it(self) -> None:
        """The same identity in the same call stack is one execution."""
        first = attempt()
        inner: list[object] = []

        def handler() -> str:
            inner.append(self.run_once(first, Runs("inner")))
            return "outer"

        outer = self.run_once(first, handler)

        expect(isinstance(inner[0], Joined), "A call from inside the handler joins its execution.", inner)
        expect(isinstance(outer, Executed) and outer.value == "outer", "The outer call records.", outer)

    def test_another_identity_inside_the_handler_is_its_own(self) -> None:
        """Both are executed, and both are kept."""
        first, other = attempt(), attempt()

        self.run_once(first, lambda: self.run_once(other, Runs("inner")).value)

        found = [self.run_once(each, Runs("again")) for each in (first, other)]
        expect(all(isinstance(each, Replayed) for each in found), "Each identity has a record of its own.", found)

    def test_a_request_in_flight_is_not_run_twice(self) -> None:
        """A rival has to come again, or gets the first one's answer after a wait."""
        runs = Runs("rival")
        first = attempt()

        def rival() -> object:
            try:
                return self.run_once(first, runs)
            except (RequestInProgress, StoreUnavailable) as error:
                return error

        seen = self.while_in_flight(first, rival)

        expect(
            isinstance(seen, (RequestInProgress, StoreUnavailable, Replayed)),
            "`InFlight`: another request holds the claim and is alive.",
            seen,
        )
        expect(runs.number == 0, ONCE, runs.number)

    # --- probes ---

    def test_what_a_probe_has_found_is_the_answer(self) -> None:
        """It is stored and replayed, and the handler does not run. The probe can name the operation elsewhere."""
        first, runs, asked = attempt(request_id="first"), Runs("again"), Asked(Found("found"))
        self.leave_unsettled(first)
        seen = self.found(first)

        answers = [self.run_once(first, runs, uncertain=asked) for _ in range(2)]

        expect(answers == [Replayed(record_of("found", "first"))] * 2, PROBED, answers)
        expect((runs.number, len(asked.operations)) == (0, 1), PROBED, (runs.number, asked.operations))
        operation = asked.operations[0]
        told = (operation.identity, operation.request, operation.executed_at, operation.derive_key("gateway"))
        named = (first.identity, first.request, seen.executed_at, OperationHandle(first).derive_key("gateway"))
        expect(told == named, "A probe gets the operation, and derives the same keys as the handler.", told)
        left = seconds_left(self.found(first))
        expect(first.ttl - 30 < left <= first.ttl + 1, "A record is kept for `attempt.ttl` seconds.", left)

    def test_what_was_not_done_runs(self) -> None:
        """Its answer is stored, and no probe is asked any more."""
        first, runs, asked = attempt(), Runs("answer"), Asked(NOT_DONE)
        self.leave_unsettled(first)
        before = self.found(first).executed_at
        let_pass(A_MOMENT)

        executed, replayed = [self.run_once(first, runs, uncertain=asked) for _ in range(2)]

        expect(isinstance(executed, Executed) and isinstance(replayed, Replayed), PROBED, (executed, replayed))
        expect((runs.number, len(asked.operations)) == (1, 1), PROBED, (runs.number, asked.operations))
        after = self.found(first).executed_at
        expect(after > before, "It is another execution than the one that an operator may have seen.", after)

    def test_what_a_probe_cannot_tell_stays_unknown(self) -> None:
        """So it does if the probe fails, and for another request no probe is asked. An operator can still decide."""
        first, runs = attempt(), Runs("again")
        self.leave_unsettled(first)
        seen = self.found(first)
        for answer in (UNSURE, ValueError("away"), None, "found", Found(b"no answer")):
            refused = refusal(lambda answer=answer: self.run_once(first, runs, uncertain=Asked(answer)))  # type: ignore[misc]
            expect(isinstance(refused, OutcomeUnknown), PROBED, (answer, refused))
        asked = Asked(NOT_DONE)
        other = refusal(lambda: self.run_once(replace(first, fingerprint=OTHER_FINGERPRINT), runs, uncertain=asked))

        expect(isinstance(other, KeyReused) and not asked.operations, ONCE, other)
        expect(runs.number == 0, ONCE, runs.number)
        expect(self.found(first).executed_at == seen.executed_at, "It is still the same execution.")

    def test_of_rivals_one_asks(self) -> None:
        """They are threads that begin together; the others wait for its answer, or have to come again."""
        first, runs = attempt(), Runs("answer")
        asked = Asked(NOT_DONE)
        self.leave_unsettled(first)

        seen = self.in_threads(lambda place: self.run_once(first, runs, uncertain=asked, in_flight="wait"))

        expect((runs.number, len(asked.operations)) == (1, 1), PROBED, (runs.number, len(asked.operations)))
        expect(sum(isinstance(each, Replayed) for each in seen) == len(seen) - 1, "All answers are the same.", seen)

    def test_an_execution_of_what_was_not_done_may_fail(self) -> None:
        """A key that it leaves free is free; else the outcome is unknown, and the next retry asks again."""
        first, asked = attempt(), Asked(NOT_DONE)
        self.leave_unsettled(first)
        refusal(lambda: self.run_once(first, Runs(RuntimeError("lost")), uncertain=asked))

        again = self.run_once(first, Runs("answer"), uncertain=asked)

        expect(isinstance(again, Executed) and len(asked.operations) == 2, PROBED, (again, asked.operations))

    def test_who_is_ended_in_a_probe_leaves_it_unknown(self) -> None:
        """As a server ends a worker that takes too long: the next retry asks again, at once."""
        first, runs = attempt(), Runs("again")
        self.leave_unsettled(first)
        seen = self.found(first)

        try:
            ended: object = self.run_once(first, runs, uncertain=Asked(SystemExit()))
        except SystemExit as error:
            ended = error

        expect(isinstance(ended, SystemExit), "What ends a worker propagates.", ended)
        left = self.found(first)
        expect(left.is_unsettled and left.executed_at == seen.executed_at, "It is still the same execution.", left)
        found = self.run_once(first, runs, uncertain=Asked(Found("found")))
        expect(isinstance(found, Replayed) and runs.number == 0, PROBED, found)

    def test_a_former_name_is_asked_about(self) -> None:
        """Of an operation that was renamed since. The answer is stored under today's name, too."""
        for answer, kind in ((Found("found"), Replayed), (NOT_DONE, Executed)):
            for both in (False, True):
                today, asked = attempt(), Asked(answer)
                former = renamed(today, "POST former/", OTHER_FINGERPRINT)
                for name in (former, today) if both else (former,):
                    self.leave_unsettled(name)

                outcome = self.run_once(replace(today, former=(former,)), Runs("answer"), uncertain=asked)
                again = self.run_once(today, Runs("again"))

                expect(isinstance(outcome, kind) and isinstance(again, Replayed), PROBED, (outcome, again))
                expect(len(asked.operations) == 1, PROBED, asked.operations)

    def test_of_rivals_that_wait_one_runs_and_all_get_its_answer(self) -> None:
        """They are threads that begin together."""
        first = attempt()
        runs = Runs("answer")

        seen = self.in_threads(lambda place: self.run_once(first, runs, in_flight="wait"))

        expect(runs.number == 1, ONCE, runs.number)
        executed = [each for each in seen if isinstance(each, Executed)]
        replayed = [each for each in seen if isinstance(each, Replayed)]
        expect(len(executed) == 1 and len(replayed) == len(seen) - 1, "All answers are the same.", seen)
        answers = {each.record for each in replayed}
        expect(answers <= {executed[0].record}, "All answers are the same.", seen)


class Asked:
    """A probe that keeps what it was asked about, and returns, or raises, *answer*."""

    def __init__(self, answer: Any) -> None:
        self.operations: list[UnsettledOperation] = []
        self._answer = answer

    def __call__(self, operation: UnsettledOperation) -> Any:
        self.operations.append(operation)
        let_pass(A_MOMENT)  # so that rivals meet it
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer


class Runs:
    """A handler that counts its calls. Each of them returns, or raises, *answer*."""

    def __init__(self, answer: Any) -> None:
        self.number = 0
        self._answer = answer
        self._lock = threading.Lock()

    def __call__(self) -> Any:
        with self._lock:
            self.number += 1
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer


def record_of(value: str, request_id: str = "") -> CompletionRecord:
    return CompletionRecord(status=200, reason="OK", body=value.encode(), request_id=request_id)


def stored(value: Any) -> Answer[Any]:
    return Answer(value, record_of(value.answer if isinstance(value, Found) else value))


def cannot_be_stored(value: Any) -> Answer[Any]:
    """Capture nothing, as of a stream."""
    raise ValueError("a stream")


def refusal(call: Callable[[], object]) -> object:
    """Return what *call* raises, or its result."""
    try:
        return call()
    except Exception as error:  # the test examines it
        return error
