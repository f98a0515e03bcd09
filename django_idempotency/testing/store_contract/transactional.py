"""A store inside the database: claim and record are part of the handler's own transaction."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from django.db import Error, connections

from django_idempotency.core.decision import Claimed, ClaimResult, Completed, InFlight, Unsettled
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
    seconds_left,
    skip,
)
from django_idempotency.testing.store_contract.operators import OperatorTests
from django_idempotency.testing.store_contract.records import RecordTests
from django_idempotency.testing.store_contract.runs import ONCE, Runs, RunTests, cannot_be_stored, refusal

A_MOMENT = 0.2  # seconds in which a rival that does not wait has its answer
RESTARTS = 20

LAW = "The law: what commits is remembered, what rolls back is forgotten."
CLAIM = "claim: Claim the identity for the open transaction."
LOOK_UP = "look_up: What can be known before the transaction begins, or None. Never `Claimed`."
LOST_RACE = "claim: Raises `LostRace` if only a new transaction can tell."
IN_FLIGHT = "claim: the identity is another's while that one's transaction is open."
OWN_ROW = "complete: Write the record on the claim's own row, in the claim's own transaction."
GONE = "complete: Raises `TransactionBroken` if the claim is gone."
COMMITTED = "complete: Raises `CommittedEarly` if the handler committed the claim."
UNSETTLED = "is_unsettled: Is the identity's claim committed without an outcome?"


class TransactionalStoreTests(RecordTests, OperatorTests, RunTests):
    """
    What a `TransactionalStore` has to pass. A subclass provides the store by `make_store`. Its test case is a
    `TransactionTestCase`, as the tests commit and roll back, and other threads have to see it.
    """

    @property
    def using(self) -> str:
        """The database: the store's own choice."""
        alias: str = self.store.database()
        return alias

    # --- how such a store is used ---

    def _claim(self, first: Attempt, act: Callable[[ClaimResult], Outcome]) -> Outcome:
        """Call *act* with what *first* finds, in the transaction of its claim. A lost race begins a new one."""
        for tries_left in reversed(range(RESTARTS)):
            seen = self.store.look_up(self.using, first)
            expect(not isinstance(seen, Claimed), LOOK_UP, seen)
            if seen is not None:
                return act(seen)
            try:
                begun = self.store.begin(self.using, first)
                if begun is None or isinstance(begun, Claimed):
                    return atomic_phase(self.using, partial(self._act, begun, first, act))
                return act(begun)
            except LostRace:
                expect(tries_left > 0, LOST_RACE, "again")
            except Error as error:
                if not tries_left or self.store.classify(self.using, error) is not Fault.RACE:
                    raise
        raise AssertionError  # not reached

    def _act(self, begun: Claimed | None, first: Attempt, act: Callable[[ClaimResult], Outcome]) -> Outcome:
        return act(begun or self.store.claim(self.using, first))

    def _complete(
        self, first: Attempt, record: CompletionRecord = RECORD, *, after: Callable[[], object] = lambda: None
    ) -> None:
        """Execute *first*: call *after* behind its claim, then store its *record*."""

        def act(found: ClaimResult) -> None:
            claim = expect_claimed(found, CLAIM)
            after()
            self.store.complete(self.using, first, claim, record)

        self._claim(first, act)

    def ask(self, first: Attempt) -> ClaimResult:
        def act(found: ClaimResult) -> ClaimResult:
            if isinstance(found, Claimed):
                roll_back(self.using)
            return found

        return self._claim(first, act)

    def keep(self, first: Attempt, record: CompletionRecord = RECORD) -> None:
        self._complete(first, record)

    def leave_unsettled(self, first: Attempt) -> None:
        """Commit the claim without a record."""
        self._claim(first, lambda found: expect_claimed(found, CLAIM))

    def while_in_flight(self, first: Attempt, call: Callable[[], Outcome]) -> Outcome:
        with ThreadPoolExecutor(1) as pool:
            rivals: list[Future[Outcome]] = []

            def begin() -> None:
                rivals.append(self.in_thread(pool, call))
                wait(rivals, A_MOMENT)  # a rival that waits for us goes on after the record

            self._complete(first, after=begin)
            return rivals[-1].result(TIMEOUT)

    def change(self, call: Callable[[], Outcome]) -> Outcome:
        """Make *call* in a transaction. If the database has one writer, that is a request in progress."""
        try:
            return atomic_phase(self.using, call)
        except Error as error:
            if self.store.classify(self.using, error) is Fault.OTHER:
                raise
            raise RequestInProgress from error

    def claim_of(self, store: Any) -> object:
        first, using = attempt(), store.database()
        return store.look_up(using, first) or atomic_phase(using, lambda: store.claim(using, first))

    def _execute(self, statement: str) -> None:
        """Send a statement of the handler's own, which Django does not notice."""
        if connections[self.using].vendor not in ("postgresql", "mysql", "sqlite"):
            skip("this test does not know the database's syntax")
        with connections[self.using].cursor() as cursor:
            cursor.execute(statement)

    # --- claim ---

    def test_before_the_transaction_nothing_is_claimed(self) -> None:
        """A look-up finds what is stored, and claims nothing."""
        first = attempt()
        seen = self.store.look_up(self.using, first)
        expect(seen is None, LOOK_UP, seen)
        self.keep(first)

        seen = self.store.look_up(self.using, first)

        expect(seen in (None, Completed(RECORD, FINGERPRINT)), LOOK_UP, seen)

    def test_a_rollback_forgets_the_claim(self) -> None:
        """The key is new at once."""
        first = attempt()
        for _ in range(2):
            self.expect_new(first, LAW)  # which rolls back
        expect(self.store.find(self.using, first.identity.digest) is None, LAW, "It is found.")
        expect(self.store.is_unsettled(self.using, first) is False, UNSETTLED, "rolled back")

    def test_a_rollback_forgets_the_record(self) -> None:
        """It goes together with the handler's work. (Without an outer transaction, COMMIT may travel with it.)"""
        first = attempt()

        def outer() -> None:
            self.keep(first)
            roll_back(self.using)

        atomic_phase(self.using, outer)

        self.expect_new(first, LAW)
        expect(self.store.find(self.using, first.identity.digest) is None, LAW, "It is found.")

    def test_a_savepoint_that_is_rolled_back_forgets(self) -> None:
        """Inside an outer transaction only the savepoint of a claim rolls back, and its record with it."""
        kept, undone = attempt(), attempt()

        def complete_and_roll_back(found: ClaimResult) -> None:
            self.store.complete(self.using, undone, expect_claimed(found, LAW), RECORD)
            roll_back(self.using)

        def outer() -> None:
            self.keep(kept)
            self.expect_answer(kept, f"{OWN_ROW} It is seen there at once.")
            self.expect_new(undone, LAW)  # which rolls its savepoint back
            self._claim(undone, complete_and_roll_back)

        atomic_phase(self.using, outer)

        self.expect_answer(kept, LAW)
        self.expect_new(undone, LAW)

    def test_a_rival_of_an_open_transaction_claims_nothing(self) -> None:
        """It learns so at once, or waits for the end and finds the record."""
        first = attempt()

        found = self.while_in_flight(first, lambda: self.ask(first))

        expect(isinstance(found, InFlight) or found == Completed(RECORD, FINGERPRINT), IN_FLIGHT, found)

    def test_of_threads_that_claim_at_once_one_executes(self) -> None:
        """The others find it in flight, or its record."""

        def execute(first: Attempt) -> ClaimResult:
            def act(found: ClaimResult) -> ClaimResult:
                if isinstance(found, Claimed):
                    self.store.complete(self.using, first, found, RECORD)
                return found

            return self._claim(first, act)

        for _ in range(4):
            first = attempt()
            found = self.in_threads(lambda place, first=first: execute(first))  # type: ignore[misc]
            expect(sum(isinstance(each, Claimed) for each in found) == 1, ONCE, found)
            others = [each for each in found if not isinstance(each, (Claimed, InFlight))]
            expect(all(each == Completed(RECORD, FINGERPRINT) for each in others), IN_FLIGHT, found)

    def test_threads_take_turns_while_each_rolls_back(self) -> None:
        """A handler that fails leaves the key to the next one: never to two at once, and not to none for ever."""
        first = attempt()
        inside: list[int] = []
        together: list[int] = []

        def request(place: int) -> int:
            def act(found: ClaimResult) -> bool:
                if not isinstance(found, Claimed):
                    return False
                inside.append(place)
                together.append(len(inside))
                inside.remove(place)
                roll_back(self.using)
                return True

            return sum(self._claim(first, act) for _ in range(20))

        claims = self.in_threads(request, 3)

        expect(set(together) == {1}, IN_FLIGHT, together)
        expect(sum(claims) > 0, LAW, claims)

    # --- complete ---

    def test_a_record_needs_its_claim(self) -> None:
        """The handler went on after its transaction was rolled back: nothing of it may be kept."""
        first = attempt()

        seen = refusal(lambda: self._complete(first, after=lambda: self._execute("ROLLBACK")))

        expect(isinstance(seen, TransactionBroken), GONE, seen)
        self.expect_new(first, LAW)

    def test_a_claim_that_its_handler_committed_is_unsettled(self) -> None:
        """Part of its work is committed and cannot be undone, so its outcome is unknown."""
        first = attempt()

        seen = refusal(lambda: self._complete(first, after=lambda: self._execute("COMMIT")))

        expect(isinstance(seen, CommittedEarly), COMMITTED, seen)
        expect(self.store.is_unsettled(self.using, first) is True, UNSETTLED, "committed by its handler")
        found = self.ask(first)
        expect(isinstance(found, Unsettled) and found.fingerprint == FINGERPRINT, COMMITTED, found)

    def test_what_is_settled_is_not_unsettled(self) -> None:
        """Neither is a record, nor an identity of which nothing is stored."""
        first, other = attempt(), attempt()
        self.keep(first)
        self.leave_unsettled(other)
        expect(self.store.is_unsettled(self.using, other) is True, UNSETTLED, "committed without an outcome")
        self.settle(self.found(other))

        for each in (first, other, attempt()):
            expect(self.store.is_unsettled(self.using, each) is False, UNSETTLED, each)

    def test_a_records_lifetime_begins_with_its_transaction_or_later(self) -> None:
        """Operators see how long it answers."""
        first = attempt()
        self.keep(first)

        shown = self.found(first)

        left = seconds_left(shown) + (shown.now - shown.executed_at).total_seconds()
        expect(first.ttl <= left + 0.001 <= first.ttl + 60, "A record is kept for `attempt.ttl` seconds.", left)

    # --- operators ---

    def test_one_execution_is_told_from_the_next(self) -> None:
        """They differ by their times."""
        first = attempt()
        found = self.store.executed_at(self.using, first.identity.digest)
        expect(found is None, "executed_at: None if nothing is stored.", found)
        self.keep(first)

        found = self.store.executed_at(self.using, first.identity.digest)

        expect(found == self.found(first).executed_at, "executed_at: when what is stored was executed.", found)

    def test_what_an_operator_does_is_in_the_operators_transaction(self) -> None:
        """A rollback undoes it."""
        kept, unsettled = attempt(), attempt()
        self.keep(kept)
        self.leave_unsettled(unsettled)
        seen, other = self.found(kept), self.found(unsettled)

        def both() -> None:
            self.store.free(self.using, seen.digest, seen.executed_at)
            self.store.settle(self.using, other.digest, other.executed_at, OTHER_RECORD)
            roll_back(self.using)

        atomic_phase(self.using, both)

        sentence = "free, settle: A transactional store does so in the caller's transaction."
        self.expect_answer(kept, sentence)
        found = self.ask(unsettled)
        expect(isinstance(found, Unsettled), sentence, found)

    # --- under the engine ---

    def test_the_handler_runs_in_the_claims_transaction(self) -> None:
        """Its own writes commit together with its record, or not at all."""
        first, other = attempt(), attempt()
        seen: list[bool] = []

        def handler() -> str:
            seen.append(connections[self.using].in_atomic_block)
            self.keep(other)  # stands for any write
            raise ValueError("no")

        refusal(lambda: self.run_once(first, handler))

        expect(seen == [True], "The engine opens the transaction, before the claim.", seen)
        self.expect_new(other, LAW)

    def test_a_handler_that_is_ended_is_forgotten(self) -> None:
        """Its worker stops, so its transaction rolls back, and a retry runs again."""
        runs = Runs(SystemExit("the worker ends"))
        first = attempt()

        for _ in range(2):
            with suppress(SystemExit):
                self.run_once(first, runs)

        expect(runs.number == 2, LAW, runs.number)

    def test_an_answer_that_cannot_be_stored_is_forgotten(self) -> None:
        """The handler's work rolls back too."""
        runs = Runs("answer")
        first = attempt()

        refusal(lambda: self.run_once(first, runs, cannot_be_stored))
        again = self.run_once(first, runs)

        expect(isinstance(again, Executed) and runs.number == 2, LAW, again)

    def test_a_request_id_is_the_executions_own(self) -> None:
        """A replay can be traced to its execution by it."""
        first = attempt(request_id="first")
        self.run_once(first, Runs("answer"))

        found = self.ask(replace(first, request_id="second"))

        ours = isinstance(found, Completed) and found.record.request_id == "first"
        expect(ours, "The record's own request id.", found)
