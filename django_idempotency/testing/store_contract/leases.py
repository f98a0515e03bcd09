"""Leases of a store outside the databases: what a claim is while its lease lasts, and after it has run out."""

import secrets
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from django_idempotency.core.decision import Claimed, ClaimResult, InFlight, Unsettled
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import CompletionRecord
from django_idempotency.testing.processes.forks import Process
from django_idempotency.testing.store_contract.base import (
    FINGERPRINT,
    LONG,
    OTHER_FINGERPRINT,
    RECORD,
    SHORT,
    Outcome,
    attempt,
    expect,
    expect_claimed,
    let_pass,
    skip,
    until,
)
from django_idempotency.testing.store_contract.operators import OperatorTests
from django_idempotency.testing.store_contract.records import RecordTests

CLAIMED_AGAIN = "claim: `Claimed` again if the token holds the claim already, as its reply may have been lost."
LASTS = "claim: `InFlight` while another's lease lasts."
UNSETTLED = "claim: After the lease `Unsettled`, whose `found_out` says why to the first who asks."
TAKES_OVER = "claim: With `take_over` and the same fingerprint `Claimed` instead (`taken_over`)."
KEPT = "claim: With `attempt.uncertain_ttl` a claim is kept for that time, and while its lease lasts."
ONE_STEP = "claim: Claim the identity in one atomic step."
RENEWED = "renew: Let the claim last `lease` seconds from now on."
NOT_RENEWED = "renew: Returns False if it is no longer its token's."


class LeaseTests(RecordTests, OperatorTests):
    """Claims and their leases, in a store outside the databases."""

    @property
    def using(self) -> None:
        return None

    # --- how such a store is used ---

    def claim(
        self,
        first: Attempt,
        token: str | None = None,
        *,
        lease: float = LONG,
        take_over: bool = False,
        store: Any = None,
    ) -> ClaimResult:
        """Return what a client with this *token*, or a new one, finds."""
        found: ClaimResult = (store or self.store).claim(first, token or new_token(), lease, take_over=take_over)
        return found

    def claimed(self, first: Attempt, *, lease: float = LONG) -> Claimed:
        return expect_claimed(self.claim(first, lease=lease), "claim: `Claimed` if nothing is stored.")

    def claim_after_lease(self, first: Attempt, token: str | None = None, *, take_over: bool = False) -> ClaimResult:
        """Return what a client finds once the lease has run out."""
        return until(
            lambda: self.claim(first, token, take_over=take_over),
            lambda found: not isinstance(found, InFlight),
            TAKES_OVER if take_over else UNSETTLED,
        )

    def overdue(self, first: Attempt) -> Claimed:
        """Make a claim whose lease has run out. A client has found its outcome to be unknown."""
        claim = self.claimed(first, lease=SHORT)
        self.claim_after_lease(first)
        return claim

    def expect_in_flight(self, first: Attempt, sentence: str, *, take_over: bool = False) -> None:
        """A client finds *first* in flight, perhaps with its fingerprint."""
        found = self.claim(first, take_over=take_over)
        expect(isinstance(found, InFlight) and found.fingerprint in (None, FINGERPRINT), sentence, found)

    def ask(self, first: Attempt) -> ClaimResult:
        found = self.claim(first)
        if isinstance(found, Claimed):
            self.store.release(first, found)
        return found

    def keep(self, first: Attempt, record: CompletionRecord = RECORD) -> None:
        kept = self.store.complete(first, self.claimed(first), record)
        expect(kept is record, "complete: Returns the record that answers from now on: this one itself.", kept)

    def leave_unsettled(self, first: Attempt) -> None:
        self.store.mark_unsettled(first, self.claimed(first))

    def while_in_flight(self, first: Attempt, call: Callable[[], Outcome]) -> Outcome:
        claim = self.claimed(first)
        try:
            return call()
        finally:
            self.store.complete(first, claim, RECORD)

    def change(self, call: Callable[[], Outcome]) -> Outcome:
        return call()

    def claim_of(self, store: Any) -> object:
        return self.claim(attempt(), store=store)

    # --- while a lease lasts ---

    def test_a_token_that_holds_the_claim_is_claimed_again(self) -> None:
        """A client whose reply was lost asks again, and gets the same reply."""
        first, token = attempt(), new_token()

        found = [self.claim(first, token), self.claim(first, token)]

        expect(found == [Claimed(token)] * 2, CLAIMED_AGAIN, found)

    def test_another_client_finds_it_in_flight(self) -> None:
        """Takeover and another request make no difference, and a fingerprint that is shown is the first request's."""
        first = attempt()
        self.claimed(first)

        for rival in (first, replace(first, fingerprint=OTHER_FINGERPRINT)):
            self.expect_in_flight(rival, LASTS)
            self.expect_in_flight(rival, LASTS, take_over=True)

    def test_of_threads_that_claim_at_once_one_is_claimed(self) -> None:
        """When the key is free again, one of the next ones is claimed."""
        for _ in range(10):
            first = attempt()
            found = self.in_threads(lambda place, first=first: self.claim(first))  # type: ignore[misc]
            claimed = [each for each in found if isinstance(each, Claimed)]
            expect(len(claimed) == 1, ONE_STEP, found)
            expect(all(isinstance(each, (Claimed, InFlight)) for each in found), LASTS, found)
            self.store.release(first, claimed[0])

    def test_of_processes_that_claim_at_once_one_is_claimed(self) -> None:
        """Each process makes its own store."""
        if not self.between_processes:
            skip("between_processes is False")
        attempts = [attempt() for _ in range(20)]

        def work(line: Any) -> list[bool]:
            store = self.make_store()
            line.tell("ready")
            line.wait()
            return [isinstance(self.claim(each, store=store), Claimed) for each in attempts]

        with ExitStack() as stack:
            processes = [stack.enter_context(Process(work)) for _ in range(3)]
            for process in processes:
                process.hear()
            for process in processes:
                process.send("go")
            found = [process.result() for process in processes]
        for number, each in enumerate(zip(*found, strict=True)):
            expect(sum(each) == 1, ONE_STEP, (number, each))

    # --- renewal ---

    def test_a_renewed_lease_lasts(self) -> None:
        """It does not end when the lease before it would have ended."""
        first = attempt()
        claim = self.claimed(first, lease=SHORT)

        renewed = self.store.renew(first, claim, LONG)
        let_pass(2 * SHORT)

        expect(renewed is True, RENEWED, renewed)
        self.expect_in_flight(first, RENEWED)

    def test_a_renewal_counts_from_now_on(self) -> None:
        """A renewal replaces the lease before it, even a longer one."""
        first = attempt()
        claim = self.claimed(first)

        self.store.renew(first, claim, SHORT)

        until(lambda: self.claim(first), lambda found: isinstance(found, Unsettled), RENEWED)

    def test_a_lease_that_has_run_out_is_renewed(self) -> None:
        """A process that was frozen goes on if nobody has taken over its claim."""
        first = attempt()
        claim = self.overdue(first)

        renewed = self.store.renew(first, claim, LONG)

        expect(renewed is True, NOT_RENEWED, renewed)
        self.expect_in_flight(first, LASTS)

    def test_nothing_to_renew(self) -> None:
        """The result is False. A renewal claims nothing, and undoes no record."""
        first = attempt()
        claim = self.claimed(first)
        self.store.release(first, claim)

        renewed = self.store.renew(first, claim, LONG)
        expect(renewed is False, NOT_RENEWED, renewed)

        claim = self.claimed(first)
        self.store.complete(first, claim, RECORD)
        renewed = self.store.renew(first, claim, LONG)
        expect(renewed is False, NOT_RENEWED, renewed)
        self.expect_answer(first, NOT_RENEWED)

    # --- after a lease ---

    def test_after_its_lease_the_outcome_is_unknown(self) -> None:
        """All clients are refused. The first of them gets the reason."""
        first = attempt()
        self.claimed(first, lease=SHORT)

        found = self.claim_after_lease(first)

        expect(isinstance(found, Unsettled) and bool(found.found_out), UNSETTLED, found)
        expect(getattr(found, "fingerprint", None) == FINGERPRINT, UNSETTLED, found)
        again = [self.claim(first), self.claim(replace(first, fingerprint=OTHER_FINGERPRINT), take_over=True)]
        expect(again == [Unsettled(FINGERPRINT)] * 2, UNSETTLED, again)

    def test_of_threads_that_find_out_at_once_one_is_told_why(self) -> None:
        """The package announces an unsettled outcome once."""
        first = attempt()
        self.claimed(first, lease=SHORT)
        let_pass(SHORT)

        found = self.in_threads(lambda place: self.claim_after_lease(first))

        told = [each for each in found if isinstance(each, Unsettled) and each.found_out]
        expect(all(isinstance(each, Unsettled) for each in found) and len(told) == 1, UNSETTLED, found)

    def test_a_claim_is_taken_over_after_its_lease(self) -> None:
        """A client whose work is harmless to repeat asks for it."""
        first, token = attempt(), new_token()
        self.claimed(first, lease=SHORT)

        found = self.claim_after_lease(first, token, take_over=True)

        expect(found == Claimed(token, taken_over=True), TAKES_OVER, found)
        self.expect_in_flight(first, LASTS, take_over=True)

    def test_a_reply_that_was_lost_is_given_again(self) -> None:
        """A client asks once more with its token, and gets the reason, or its claim, again."""
        first, token = attempt(), new_token()
        self.claimed(first, lease=SHORT)
        self.claim_after_lease(first, token)

        found = self.claim(first, token)
        expect(isinstance(found, Unsettled) and bool(found.found_out), UNSETTLED, found)
        others = self.claim(first)
        expect(others == Unsettled(FINGERPRINT), UNSETTLED, others)

        self.claim(first, token, take_over=True)
        found = self.claim(first, token, take_over=True)
        expect(found == Claimed(token, taken_over=True), CLAIMED_AGAIN, found)

    def test_a_claim_is_taken_over_though_it_was_found_out(self) -> None:
        """Refusing an earlier request has changed nothing."""
        first = attempt()
        self.overdue(first)

        found = self.claim(first, take_over=True)

        expect(isinstance(found, Claimed) and found.taken_over, TAKES_OVER, found)

    def test_another_request_takes_nothing_over(self) -> None:
        """The work that the key stands for may have taken effect."""
        first = attempt()
        self.overdue(first)

        found = self.claim(replace(first, fingerprint=OTHER_FINGERPRINT), take_over=True)

        expect(isinstance(found, Unsettled) and found.fingerprint == FINGERPRINT, TAKES_OVER, found)

    def test_of_threads_that_take_over_at_once_one_is_claimed(self) -> None:
        """The other threads find that claim in flight."""
        first = attempt()
        self.overdue(first)

        found = self.in_threads(lambda place: self.claim(first, take_over=True))

        claimed = [each for each in found if isinstance(each, Claimed)]
        expect(len(claimed) == 1 and claimed[0].taken_over, TAKES_OVER, found)
        expect(all(isinstance(each, (Claimed, InFlight)) for each in found), LASTS, found)

    def test_an_overdue_claim_is_kept_for_its_own_time(self) -> None:
        """After that its key is new."""
        first = attempt(uncertain_ttl=SHORT)
        self.claimed(first, lease=SHORT)

        found = until(lambda: self.claim(first), lambda found: isinstance(found, Claimed), KEPT)

        expect(not expect_claimed(found, KEPT).taken_over, KEPT, found)

    def test_a_lease_longer_than_the_lifetime_lasts(self) -> None:
        """A key is never new while a lease on it lasts."""
        first = attempt(ttl=SHORT, uncertain_ttl=SHORT)
        self.claimed(first)
        let_pass(2 * SHORT)

        self.expect_in_flight(first, KEPT)

    # --- operators ---

    def test_a_lease_that_has_run_out_is_listed(self) -> None:
        """It is listed even if no client has used its key since."""
        first = attempt()
        self.claimed(first, lease=SHORT)

        listed = until(lambda: self.unsettled(first), bool, "unsettled: executions whose outcome is unsettled.")

        expect(len(listed) == 1, "unsettled: each of them once.", listed)

    def test_what_is_stored_is_freed_whichever_execution_it_is(self) -> None:
        """A caller who does not know its time gives None."""
        completed, unsettled = attempt(), attempt()
        self.keep(completed)
        self.leave_unsettled(unsettled)

        for each in (completed, unsettled):
            freed = self.store.free(None, each.identity.digest, None)
            expect(freed, "free: any execution that is stored, if `executed_at` is None.", freed)
            self.expect_new(each, "free: the next request runs again.")


def new_token() -> str:
    return secrets.token_hex(16)
