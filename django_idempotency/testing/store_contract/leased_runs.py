"""A store beside all databases under the engine: what an answer, an end and a long handler leave behind."""

from datetime import timedelta
from typing import Any

from django_idempotency.core.decision import Answer, Claimed, ClaimResult, Completed, InFlight
from django_idempotency.core.keys import Attempt
from django_idempotency.engine.execution import Executed, Replayed
from django_idempotency.exceptions import OutcomeUnknown
from django_idempotency.testing.store_contract.base import (
    FINGERPRINT,
    RECORD,
    attempt,
    expect,
    expect_claimed,
    let_pass,
    until,
)
from django_idempotency.testing.store_contract.leases import TAKES_OVER, LeaseTests
from django_idempotency.testing.store_contract.runs import Runs, RunTests, record_of, refusal

ANSWERS = "complete: Returns that of another request with the same fingerprint which has taken the claim over."
UNCERTAIN = "An execution that does not answer leaves an uncertain outcome: it is not run again by itself."


class LeasedRunTests(RunTests, LeaseTests):
    """Executions under the engine, in a store beside all databases."""

    def test_a_handler_that_is_ended_leaves_an_uncertain_outcome(self) -> None:
        """Its worker stops: whatever it was about to do."""
        runs = Runs(SystemExit("the worker ends"))
        first = attempt()

        try:
            self.run_once(first, runs)
        except SystemExit:
            pass
        seen = refusal(lambda: self.run_once(first, runs))

        expect(isinstance(seen, OutcomeUnknown), UNCERTAIN, seen)
        expect(runs.number == 1, UNCERTAIN, runs.number)
        expect(len(self.unsettled(first)) == 1, UNCERTAIN, "It is not listed as unsettled.")

    def test_an_answer_that_cannot_be_stored_leaves_an_uncertain_outcome(self) -> None:
        """The handler ran, and nobody could tell a retry what came of it."""
        runs = Runs("answer")
        first = attempt()

        def capture(value: Any) -> Answer[Any]:
            raise ValueError("a stream")

        refusal(lambda: self.run_once(first, runs, capture))
        seen = refusal(lambda: self.run_once(first, runs))

        expect(isinstance(seen, OutcomeUnknown), UNCERTAIN, seen)
        expect(runs.number == 1, UNCERTAIN, runs.number)

    def test_work_that_is_harmless_to_repeat_is_run_again(self) -> None:
        """The option `uncertain="retry"`."""
        first = attempt()
        try:
            self.run_once(first, Runs(SystemExit("the worker ends")))
        except SystemExit:
            pass

        again = self.run_once(first, Runs("answer"), uncertain="retry")

        expect(isinstance(again, Executed), "claim: With `take_over` and the same fingerprint `Claimed`.", again)
        replayed = self.run_once(first, Runs("third"))
        expect(replayed == Replayed(record_of("answer", first.request_id)), "Its record answers.", replayed)

    def test_the_lease_of_a_handler_that_takes_longer_is_renewed(self) -> None:
        """It stays in flight, and its answer is kept."""
        first = attempt()
        lease = 0.15

        def handler() -> str:
            let_pass(2 * lease)
            sentence = "renew: while the handler runs."
            # A busy machine may renew late; nobody else has the key meanwhile.
            until(lambda: self.claim(first), lambda found: isinstance(found, InFlight), sentence)
            return "answer"

        executed = self.run_once(first, handler, lease=timedelta(seconds=lease))

        expect(isinstance(executed, Executed), "A handler that takes longer than its lease keeps its claim.", executed)
        found = self.claim(first)
        expect(found == Completed(record_of("answer", first.request_id), FINGERPRINT), "Its answer is kept.", found)

    def test_a_handler_that_came_too_late_gives_its_successors_answer(self) -> None:
        """Its claim was taken over while it ran, by the same request: one answer for both."""
        first = attempt()
        tokens: list[str] = []
        claim = self.store.claim

        def noted(first: Attempt, token: str, lease: float, *, take_over: bool) -> ClaimResult:
            tokens.append(token)
            found: ClaimResult = claim(first, token, lease, take_over=take_over)
            return found

        def handler() -> str:
            self.store.claim = claim
            self.store.mark_unsettled(first, Claimed(tokens[0]))
            successor = expect_claimed(self.claim(first, take_over=True), TAKES_OVER)
            self.store.complete(first, successor, RECORD)
            return "late"

        self.store.claim = noted
        seen = self.run_once(first, handler)

        expect(seen == Replayed(RECORD), ANSWERS, seen)
        found = self.claim(first)
        expect(found == Completed(RECORD, FINGERPRINT), ANSWERS, found)
