"""A store outside the databases: its leases and tokens, and what executions under the engine leave in it."""

from contextlib import suppress
from datetime import timedelta

from django_idempotency.core.decision import Claimed, ClaimResult, InFlight
from django_idempotency.core.keys import Attempt
from django_idempotency.engine.execution import Executed, Replayed
from django_idempotency.exceptions import OutcomeUnknown
from django_idempotency.testing.store_contract.base import RECORD, attempt, expect, expect_claimed, let_pass, until
from django_idempotency.testing.store_contract.leases import TAKES_OVER
from django_idempotency.testing.store_contract.runs import Runs, RunTests, cannot_be_stored, record_of, refusal
from django_idempotency.testing.store_contract.tokens import TokenTests

ANSWERS = "complete: Returns that of another request with the same fingerprint which has taken the claim over."
UNSETTLED = "An execution that does not answer leaves its outcome unsettled: it does not run again by itself."


class LeasedStoreTests(TokenTests, RunTests):
    """
    What a `LeasedStore` has to pass. A subclass provides the store by `make_store`.

    If the store's server can be away, `make_store_that_is_away` makes a store without one. `between_processes` is False
    for a store that other processes cannot see.
    """

    def test_a_handler_that_is_ended_leaves_an_unsettled_outcome(self) -> None:
        """Its worker stopped, and may have done anything before."""
        runs = Runs(SystemExit("the worker ends"))
        first = attempt()

        with suppress(SystemExit):
            self.run_once(first, runs)
        seen = refusal(lambda: self.run_once(first, runs))

        expect(isinstance(seen, OutcomeUnknown), UNSETTLED, seen)
        expect(runs.number == 1, UNSETTLED, runs.number)
        expect(len(self.unsettled(first)) == 1, UNSETTLED, "It is not listed as unsettled.")

    def test_an_answer_that_cannot_be_stored_leaves_an_unsettled_outcome(self) -> None:
        """The handler ran, and a retry cannot be given its answer."""
        runs = Runs("answer")
        first = attempt()

        refusal(lambda: self.run_once(first, runs, cannot_be_stored))
        seen = refusal(lambda: self.run_once(first, runs))

        expect(isinstance(seen, OutcomeUnknown), UNSETTLED, seen)
        expect(runs.number == 1, UNSETTLED, runs.number)

    def test_work_that_is_harmless_to_repeat_is_run_again(self) -> None:
        """The option `uncertain="retry"` says that it is."""
        first = attempt()
        with suppress(SystemExit):
            self.run_once(first, Runs(SystemExit("the worker ends")))

        again = self.run_once(first, Runs("answer"), uncertain="retry")

        expect(isinstance(again, Executed), TAKES_OVER, again)
        replayed = self.run_once(first, Runs("third"))
        expect(replayed == Replayed(record_of("answer", first.request_id)), "Its record answers.", replayed)

    def test_the_lease_of_a_handler_that_takes_longer_is_renewed(self) -> None:
        """It stays in flight, and its answer is kept."""
        first = attempt()
        lease = 0.15

        def handler() -> str:
            let_pass(2 * lease)
            sentence = "renew: while the handler runs."
            # A busy machine may renew late; nobody else claims the key meanwhile.
            until(lambda: self.claim(first), lambda found: isinstance(found, InFlight), sentence)
            return "answer"

        executed = self.run_once(first, handler, lease=timedelta(seconds=lease))

        expect(isinstance(executed, Executed), "A handler that takes longer than its lease keeps its claim.", executed)
        self.expect_answer(first, "Its answer is kept.", record_of("answer", first.request_id))

    def test_a_handler_that_came_too_late_gives_its_successors_answer(self) -> None:
        """The same request took over its claim while it ran, so one answer serves both."""
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
        self.expect_answer(first, ANSWERS)
