"""A store inside the database: claim and record are part of the handler's own transaction."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from typing import Any

from django.db import Error, connections

from django_idempotency.core.decision import Answer, Claimed, ClaimResult, Completed, InFlight, Unsettled
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine.execution import Executed
from django_idempotency.engine.transactions import atomic_phase, roll_back
from django_idempotency.exceptions import CommittedEarly, RequestInProgress, TransactionBroken
from django_idempotency.stores.base import Fault, LostRace
from django_idempotency.testing.store_contract.base import (
    FINGERPRINT,
    OTHER_RECORD,
    RECORD,
    TIMEOUT,
    Outcome,
    attempt,
    expect,
    expect_claimed,
    skip,
)
from django_idempotency.testing.store_contract.operators import OperatorTests
from django_idempotency.testing.store_contract.records import RecordTests
from django_idempotency.testing.store_contract.runs import Runs, RunTests, refusal

A_MOMENT = 0.2  # seconds in which a rival that need not wait has its answer
RESTARTS = 20

LAW = "The law: what commits is remembered, what rolls back is forgotten."
LOOK_UP = "look_up: What can be known before the transaction begins, or None. Never `Claimed`."
IN_FLIGHT = "claim: the identity is another's while that one's transaction is open."
OWN_ROW = "complete: Write the record on the claim's own row, in the claim's own transaction."
UNSETTLED = "is_unsettled: Is the identity's claim committed without an outcome?"


class TransactionalStoreTests(RecordTests, OperatorTests, RunTests):
    """
    What a `TransactionalStore` passes. A subclass gives the store, by `make_store`; its test case is a
    `TransactionTestCase`, as what is tested is commit and rollback, and other threads have to see it.
    """

    @property
    def using(self) -> str:
        """The database: the store's own choice."""
        alias: str = self.store.database()
        return alias

    # --- how such a store is asked ---

    def _found(self, first: Attempt, act: Callable[[ClaimResult], Outcome]) -> Outcome:
        """*act* on what *first* finds, in the transaction that a claim was made in; begun anew after a lost race."""
        for tries_left in reversed(range(RESTARTS)):
            seen = self.store.look_up(self.using, first)
            expect(not isinstance(seen, Claimed), LOOK_UP, seen)
            if seen is not None:
                return act(seen)
            try:
                begun = self.store.begin(self.using, first)
                if begun is not None and not isinstance(begun, Claimed):
                    return act(begun)
                return atomic_phase(self.using, partial(self._act, begun, first, act))
            except LostRace:
                expect(tries_left > 0, "claim: Raises `LostRace` where only a new transaction can tell.", "again")
            except Error as error:
                if not tries_left or self.store.classify(self.using, error) is not Fault.RACE:
                    raise
        raise AssertionError  # not reached

    def _act(self, begun: Claimed | None, first: Attempt, act: Callable[[ClaimResult], Outcome]) -> Outcome:
        return act(begun or self.store.claim(self.using, first))

    def ask(self, first: Attempt) -> ClaimResult:
        def act(found: ClaimResult) -> ClaimResult:
            if isinstance(found, Claimed):
                roll_back(self.using)
            return found

        return self._found(first, act)

    def keep(self, first: Attempt, record: CompletionRecord = RECORD) -> None:
        def act(found: ClaimResult) -> None:
            claim = expect_claimed(found, "claim: Claim the identity for the open transaction.")
            self.store.complete(self.using, first, claim, record)

        self._found(first, act)

    def leave_unsettled(self, first: Attempt) -> None:
        """Its handler commits, and answers nothing."""
        self._found(first, lambda found: expect_claimed(found, "claim: Claim the identity for the open transaction."))

    def while_in_flight(self, first: Attempt, call: Callable[[], Outcome]) -> Outcome:
        with ThreadPoolExecutor(1) as pool:

            def act(found: ClaimResult) -> Any:
                claim = expect_claimed(found, "claim: Claim the identity for the open transaction.")
                rival = self.in_thread(pool, call)
                wait([rival], A_MOMENT)  # it is told at once, or waits for us
                self.store.complete(self.using, first, claim, RECORD)
                return rival

            rival: Any = self._found(first, act)
            outcome: Outcome = rival.result(TIMEOUT)
            return outcome

    def change(self, call: Callable[[], Outcome]) -> Outcome:
        """In a transaction of its own. A database that has one writer is told as a request in progress."""
        try:
            return atomic_phase(self.using, call)
        except Error as error:
            if self.store.classify(self.using, error) is Fault.OTHER:
                raise
            raise RequestInProgress from error

    def claim_of(self, store: Any) -> object:
        first = attempt()
        return store.look_up(store.database(), first) or atomic_phase(
            store.database(), lambda: store.claim(store.database(), first)
        )

    # --- claim ---

    def test_before_the_transaction_nothing_is_claimed(self) -> None:
        """A look-up finds what is stored, and takes nothing."""
        first = attempt()
        seen = self.store.look_up(self.using, first)
        expect(seen is None, LOOK_UP, seen)
        self.keep(first)

        seen = self.store.look_up(self.using, first)

        expect(seen in (None, Completed(RECORD, FINGERPRINT)), LOOK_UP, seen)

    def test_a_rollback_forgets_the_claim(self) -> None:
        """The key is new at once, for whoever comes."""
        first = attempt()
        for _ in range(2):
            found = self.ask(first)  # which rolls back
            expect(isinstance(found, Claimed), LAW, found)
        expect(self.store.find(self.using, first.identity.digest) is None, LAW, "It is found.")
        expect(self.store.is_unsettled(self.using, first) is False, UNSETTLED, "rolled back")

    def test_a_rollback_forgets_the_record(self) -> None:
        """Together with the handler's work. (By itself, COMMIT may travel with the record.)"""
        first = attempt()

        def act(found: ClaimResult) -> None:
            self.store.complete(self.using, first, expect_claimed(found, LAW), RECORD)
            roll_back(self.using)

        atomic_phase(self.using, lambda: self._found(first, act))

        expect(isinstance(found := self.ask(first), Claimed), LAW, found)
        expect(self.store.find(self.using, first.identity.digest) is None, LAW, "It is found.")

    def test_a_savepoint_that_is_rolled_back_forgets(self) -> None:
        """Inside an outer transaction the claim is in a savepoint: that is what rolls back, and no more."""
        kept, undone = attempt(), attempt()

        def outer() -> None:
            self.keep(kept)
            found = self.ask(kept)
            expect(found == Completed(RECORD, FINGERPRINT), f"{OWN_ROW} It is seen there at once.", found)
            found = self.ask(undone)  # which rolls its savepoint back
            expect(isinstance(found, Claimed), LAW, found)

        atomic_phase(self.using, outer)

        found = self.ask(kept), self.ask(undone)
        expect(found[0] == Completed(RECORD, FINGERPRINT) and isinstance(found[1], Claimed), LAW, found)

    def test_an_outer_transaction_that_is_rolled_back_forgets(self) -> None:
        """Whatever was decided inside it."""
        first = attempt()

        def outer() -> None:
            self.keep(first)
            roll_back(self.using)

        atomic_phase(self.using, outer)

        expect(isinstance(found := self.ask(first), Claimed), LAW, found)

    def test_a_rival_of_an_open_transaction_claims_nothing(self) -> None:
        """It is told at once, or waits for the end, and finds the record then."""
        first = attempt()

        found = self.while_in_flight(first, lambda: self.ask(first))

        expect(
            isinstance(found, InFlight) or found == Completed(RECORD, FINGERPRINT),
            IN_FLIGHT,
            found,
        )

    def test_of_threads_that_claim_at_once_one_executes(self) -> None:
        """The others find it in flight, or its record."""
        for _ in range(4):
            found = self._race(attempt())
            claimed = [each for each in found if isinstance(each, Claimed)]
            expect(len(claimed) == 1, "A key takes effect at most once while its record lives.", found)
            others = [each for each in found if not isinstance(each, (Claimed, InFlight))]
            expect(all(each == Completed(RECORD, FINGERPRINT) for each in others), IN_FLIGHT, found)

    def _race(self, first: Attempt) -> list[ClaimResult]:
        """What each of several threads finds, of which those that claim complete."""

        def act(found: ClaimResult) -> ClaimResult:
            if isinstance(found, Claimed):
                self.store.complete(self.using, first, found, RECORD)
            return found

        return self.in_threads(lambda place: self._found(first, act))

    def test_threads_take_turns_while_each_rolls_back(self) -> None:
        """A failed handler leaves the key to the next one; never two at once, never none for ever."""
        first = attempt()
        inside: list[int] = []
        together: list[int] = []

        def request(place: int) -> int:
            claims = 0

            def act(found: ClaimResult) -> bool:
                if not isinstance(found, Claimed):
                    return False
                inside.append(place)
                together.append(len(inside))
                inside.remove(place)
                roll_back(self.using)
                return True

            for _ in range(20):
                claims += self._found(first, act)
            return claims

        claims = self.in_threads(request, 3)

        expect(set(together) == {1}, IN_FLIGHT, together)
        expect(sum(claims) > 0, LAW, claims)

    # --- complete ---

    def test_a_record_needs_its_claim(self) -> None:
        """The handler's transaction was rolled back meanwhile, and it went on: nothing may be kept of it."""
        first = attempt()

        def act(found: ClaimResult) -> None:
            claim = expect_claimed(found, OWN_ROW)
            self._execute("ROLLBACK")
            self.store.complete(self.using, first, claim, RECORD)

        seen = refusal(lambda: self._found(first, act))

        expect(
            isinstance(seen, TransactionBroken), "complete: Raises `TransactionBroken` where the claim is gone.", seen
        )
        expect(isinstance(found := self.ask(first), Claimed), LAW, found)

    def test_a_claim_that_its_handler_committed_is_unsettled(self) -> None:
        """What it did before is committed, and cannot be taken back: its outcome is not known."""
        first = attempt()

        def act(found: ClaimResult) -> None:
            claim = expect_claimed(found, OWN_ROW)
            self._execute("COMMIT")
            self.store.complete(self.using, first, claim, RECORD)

        seen = refusal(lambda: self._found(first, act))

        sentence = "complete: Raises `CommittedEarly` where the handler committed the claim."
        expect(isinstance(seen, CommittedEarly), sentence, seen)
        expect(self.store.is_unsettled(self.using, first) is True, UNSETTLED, "committed by its handler")
        found = self.ask(first)
        expect(isinstance(found, Unsettled) and found.fingerprint == FINGERPRINT, sentence, found)

    def test_what_is_settled_is_not_unsettled(self) -> None:
        """Neither a record nor what an operator has settled."""
        first, other = attempt(), attempt()
        self.keep(first)
        self.leave_unsettled(other)
        expect(self.store.is_unsettled(self.using, other) is True, UNSETTLED, "committed without an outcome")
        self.settle(self.found(other))

        for each in (first, other, attempt()):
            expect(self.store.is_unsettled(self.using, each) is False, UNSETTLED, each)

    def test_a_records_lifetime_begins_with_its_transaction_or_later(self) -> None:
        """An operator sees until when it answers."""
        first = attempt()
        self.keep(first)

        shown = self.found(first)

        left = (shown.expires_at - shown.executed_at).total_seconds()
        expect(first.ttl <= left + 0.001 <= first.ttl + 60, "A record is kept for `attempt.ttl` seconds.", left)

    # --- operators ---

    def test_one_execution_is_told_from_the_next(self) -> None:
        """By when it was executed."""
        first = attempt()
        expect(
            self.store.executed_at(self.using, first.identity.digest) is None, "executed_at: None of nothing.", first
        )
        self.keep(first)

        found = self.store.executed_at(self.using, first.identity.digest)

        expect(found == self.found(first).executed_at, "executed_at: when what is stored was executed.", found)

    def test_what_an_operator_does_is_in_the_operators_transaction(self) -> None:
        """A rollback takes it back."""
        kept, uncertain = attempt(), attempt()
        self.keep(kept)
        self.leave_unsettled(uncertain)
        shown, unsettled = self.found(kept), self.found(uncertain)

        def both() -> None:
            self.store.free(self.using, kept.identity.digest, shown.executed_at)
            self.store.settle(self.using, uncertain.identity.digest, unsettled.executed_at, OTHER_RECORD)
            roll_back(self.using)

        atomic_phase(self.using, both)

        sentence = "free, settle: A transactional store does so in the caller's transaction."
        found = self.ask(kept), self.ask(uncertain)
        expect(found[0] == Completed(RECORD, FINGERPRINT) and isinstance(found[1], Unsettled), sentence, found)

    # --- under the engine ---

    def test_the_handler_runs_in_the_claims_transaction(self) -> None:
        """What it writes commits together with its record, or not at all."""
        first, other = attempt(), attempt()
        seen: list[bool] = []

        def handler() -> str:
            seen.append(connections[self.using].in_atomic_block)
            self.keep(other)  # a write, as good as any
            raise ValueError("no")

        refusal(lambda: self.run_once(first, handler))

        expect(seen == [True], "The engine opens the transaction, before the claim.", seen)
        expect(isinstance(found := self.ask(other), Claimed), LAW, found)

    def test_a_handler_that_is_ended_is_forgotten(self) -> None:
        """Its worker stops: the transaction is rolled back, and a retry runs again."""
        runs = Runs(SystemExit("the worker ends"))
        first = attempt()

        for _ in range(2):
            try:
                self.run_once(first, runs)
            except SystemExit:
                pass

        expect(runs.number == 2, LAW, runs.number)

    def test_an_answer_that_cannot_be_stored_is_forgotten(self) -> None:
        """With the work that it stands for."""
        runs = Runs("answer")
        first = attempt()

        def capture(value: Any) -> Answer[Any]:
            raise ValueError("a stream")

        refusal(lambda: self.run_once(first, runs, capture))
        again = self.run_once(first, runs)

        expect(isinstance(again, Executed) and runs.number == 2, LAW, again)

    def test_a_request_id_is_the_executions_own(self) -> None:
        """What a replay is traced back to."""
        first = attempt(request_id="first")
        self.run_once(first, Runs("answer"))

        found = self.ask(replace(first, request_id="second"))

        expect(
            isinstance(found, Completed) and found.record.request_id == "first", "The record's own request id.", found
        )

    def _execute(self, statement: str) -> None:
        """A statement of the handler's own, past all of Django's book-keeping."""
        if connections[self.using].vendor not in ("postgresql", "mysql", "sqlite"):
            skip("how this database spells it is not known here")
        with connections[self.using].cursor() as cursor:
            cursor.execute(statement)
