"""A store beside all databases: what a lease is, and what becomes of a claim when it has run out."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from django_idempotency.core.decision import Claimed, ClaimResult, Completed, InFlight, Unsettled
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

CLAIMED_AGAIN = "claim: `Claimed` again where the token holds the claim already, as its reply may have been lost."
LASTS = "claim: `InFlight` while another's lease lasts."
UNSETTLED = "claim: After the lease `Unsettled`, whose `found_out` says why to the first who asks."
TAKES_OVER = "claim: With `take_over` and the same fingerprint `Claimed` instead (`taken_over`)."
KEPT = "claim: A claim without an outcome is kept for `attempt.ttl` from its last lease on."
ONE_STEP = "claim: Claim the identity in one atomic step."


class LeaseTests(RecordTests, OperatorTests):
    """Claims by their leases, in a store beside all databases."""

    @property
    def using(self) -> None:
        return None

    # --- how such a store is asked ---

    def claim(
        self,
        first: Attempt,
        token: str | None = None,
        *,
        lease: float = LONG,
        take_over: bool = False,
        store: Any = None,
    ) -> ClaimResult:
        """What a client with this *token*, or a new one, finds."""
        found: ClaimResult = (store or self.store).claim(first, token or new_token(), lease, take_over=take_over)
        return found

    def claimed(self, first: Attempt, *, lease: float = LONG) -> Claimed:
        return expect_claimed(self.claim(first, lease=lease), "claim: `Claimed` where nothing is stored.")

    def overdue(self, first: Attempt) -> Claimed:
        """A claim whose lease has run out, which somebody was told."""
        claim = self.claimed(first, lease=SHORT)
        until(lambda: self.claim(first), lambda found: not isinstance(found, InFlight), UNSETTLED)
        return claim

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

    def test_a_claim_has_the_token_of_its_owner(self) -> None:
        """And is taken over from nobody."""
        token = new_token()

        found = self.claim(attempt(), token)

        expect(found == Claimed(token), "claim: Claim the identity for the token.", found)

    def test_a_token_that_holds_the_claim_is_claimed_again(self) -> None:
        """Its reply was lost on the way: the client asks again, and is told the same."""
        first, token = attempt(), new_token()
        self.claim(first, token)

        found = self.claim(first, token)

        expect(found == Claimed(token), CLAIMED_AGAIN, found)

    def test_another_client_finds_it_in_flight(self) -> None:
        """Whatever it asks for, takeover included."""
        first = attempt()
        self.claimed(first)

        for take_over in (False, True):
            found = self.claim(first, take_over=take_over)
            expect(isinstance(found, InFlight) and found.fingerprint in (None, FINGERPRINT), LASTS, found)

    def test_another_request_finds_the_firsts_fingerprint_in_flight(self) -> None:
        """Never its own: it is to be refused, or to wait, and is not to get the first one's answer."""
        first = attempt()
        self.claimed(first)

        found = self.claim(replace(first, fingerprint=OTHER_FINGERPRINT), take_over=True)

        expect(isinstance(found, InFlight) and found.fingerprint in (None, FINGERPRINT), LASTS, found)

    def test_of_threads_that_claim_at_once_one_is_claimed(self) -> None:
        """And of those that follow when the key is free again, again one."""
        for _ in range(10):
            first = attempt()
            found = self.in_threads(lambda place, first=first: self.claim(first))  # type: ignore[misc]
            claimed = [each for each in found if isinstance(each, Claimed)]
            expect(len(claimed) == 1, ONE_STEP, found)
            expect(all(isinstance(each, (Claimed, InFlight)) for each in found), LASTS, found)
            self.store.release(first, claimed[0])

    def test_of_processes_that_claim_at_once_one_is_claimed(self) -> None:
        """Each with a store of its own."""
        if not self.between_processes:
            skip("between_processes is False")
        attempts = [attempt() for _ in range(20)]

        def work(line: Any) -> list[bool]:
            store = self.make_store()
            line.tell("ready")
            line.wait()
            return [isinstance(self.claim(each, store=store), Claimed) for each in attempts]

        processes = [Process(work) for _ in range(3)]
        try:
            for process in processes:
                process.hear()
            for process in processes:
                process.send("go")
            found = [process.result() for process in processes]
        finally:
            for process in processes:
                process.__exit__()
        for number, each in enumerate(zip(*found, strict=True)):
            expect(sum(each) == 1, ONE_STEP, (number, each))

    # --- renewal ---

    def test_a_renewed_lease_lasts(self) -> None:
        """Past the end of the one before."""
        first = attempt()
        claim = self.claimed(first, lease=SHORT)

        renewed = self.store.renew(first, claim, LONG)
        let_pass(2 * SHORT)

        expect(
            renewed is True,
            "renew: Let the claim last from now on. Returns False where it is not its token's.",
            renewed,
        )
        found = self.claim(first)
        expect(isinstance(found, InFlight), "renew: Let the claim last `lease` seconds from now on.", found)

    def test_a_renewal_counts_from_now_on(self) -> None:
        """It is no extension of the lease before."""
        first = attempt()
        claim = self.claimed(first)

        self.store.renew(first, claim, SHORT)

        sentence = "renew: Let the claim last `lease` seconds from now on."
        until(lambda: self.claim(first), lambda found: isinstance(found, Unsettled), sentence)

    def test_a_lease_that_has_run_out_is_renewed(self) -> None:
        """The process stood still, and nobody has taken the claim over meanwhile: it goes on."""
        first = attempt()
        claim = self.overdue(first)

        renewed = self.store.renew(first, claim, LONG)

        expect(renewed is True, "renew: Returns False where it is not its token's any more.", renewed)
        found = self.claim(first)
        expect(isinstance(found, InFlight), LASTS, found)

    def test_nothing_to_renew(self) -> None:
        """False, and nothing is claimed by it; nor does it undo a record."""
        first = attempt()
        sentence = "renew: Returns False where it is not its token's any more."
        claim = self.claimed(first)
        self.store.release(first, claim)

        renewed = self.store.renew(first, claim, LONG)
        expect(renewed is False, sentence, renewed)

        claim = self.claimed(first)
        self.store.complete(first, claim, RECORD)
        renewed = self.store.renew(first, claim, LONG)
        expect(renewed is False, sentence, renewed)
        expect(self.ask(first) == Completed(RECORD, FINGERPRINT), sentence, self.ask(first))

    # --- when it has run out ---

    def test_after_its_lease_the_outcome_is_unknown(self) -> None:
        """Whoever comes is told so; the first of them is told why, and nobody after."""
        first = attempt()
        self.claimed(first, lease=SHORT)

        found = until(lambda: self.claim(first), lambda found: not isinstance(found, InFlight), UNSETTLED)

        expect(
            isinstance(found, Unsettled) and found.fingerprint == FINGERPRINT and bool(found.found_out),
            UNSETTLED,
            found,
        )
        again = [self.claim(first), self.claim(replace(first, fingerprint=OTHER_FINGERPRINT), take_over=True)]
        expect(again == [Unsettled(FINGERPRINT)] * 2, UNSETTLED, again)

    def test_of_threads_that_find_out_at_once_one_is_told_why(self) -> None:
        """So it is announced once."""
        first = attempt()
        self.claimed(first, lease=SHORT)
        let_pass(SHORT)

        def ask(place: int) -> ClaimResult:
            return until(lambda: self.claim(first), lambda found: not isinstance(found, InFlight), UNSETTLED)

        found = self.in_threads(ask)

        told = [each for each in found if isinstance(each, Unsettled) and each.found_out]
        expect(all(isinstance(each, Unsettled) for each in found) and len(told) == 1, UNSETTLED, found)

    def test_a_claim_is_taken_over_after_its_lease(self) -> None:
        """By one who asks for that: the work is harmless to repeat."""
        first = attempt()
        self.claimed(first, lease=SHORT)
        token = new_token()

        found = until(
            lambda: self.claim(first, token, take_over=True),
            lambda found: not isinstance(found, InFlight),
            TAKES_OVER,
        )

        expect(found == Claimed(token, taken_over=True), TAKES_OVER, found)
        rival = self.claim(first, take_over=True)
        expect(isinstance(rival, InFlight), LASTS, rival)

    def test_a_reply_that_was_lost_is_given_again(self) -> None:
        """The client asks once more with its token: what it has to tell of is not lost with the reply."""
        first, token = attempt(), new_token()
        self.claimed(first, lease=SHORT)
        until(lambda: self.claim(first, token), lambda found: not isinstance(found, InFlight), UNSETTLED)

        found = self.claim(first, token)
        expect(isinstance(found, Unsettled) and bool(found.found_out), UNSETTLED, found)
        others = self.claim(first)
        expect(others == Unsettled(FINGERPRINT), UNSETTLED, others)

        self.claim(first, token, take_over=True)
        found = self.claim(first, token, take_over=True)
        expect(found == Claimed(token, taken_over=True), CLAIMED_AGAIN, found)

    def test_a_claim_is_taken_over_though_it_was_found_out(self) -> None:
        """An earlier request that was refused has changed nothing."""
        first = attempt()
        self.overdue(first)

        found = self.claim(first, take_over=True)

        expect(isinstance(found, Claimed) and found.taken_over, TAKES_OVER, found)

    def test_another_request_takes_nothing_over(self) -> None:
        """What the key named may have taken effect."""
        first = attempt()
        self.overdue(first)

        found = self.claim(replace(first, fingerprint=OTHER_FINGERPRINT), take_over=True)

        expect(isinstance(found, Unsettled) and found.fingerprint == FINGERPRINT, TAKES_OVER, found)

    def test_of_threads_that_take_over_at_once_one_is_claimed(self) -> None:
        """The others find that one in flight."""
        first = attempt()
        self.overdue(first)

        found = self.in_threads(lambda place: self.claim(first, take_over=True))

        claimed = [each for each in found if isinstance(each, Claimed)]
        expect(len(claimed) == 1 and claimed[0].taken_over, TAKES_OVER, found)
        expect(all(isinstance(each, (Claimed, InFlight)) for each in found), LASTS, found)

    def test_an_unknown_outcome_is_kept_for_its_lifetime(self) -> None:
        """Then its key is new."""
        first = attempt(ttl=SHORT)
        self.claimed(first, lease=SHORT)

        found = until(lambda: self.claim(first), lambda found: isinstance(found, Claimed), KEPT)

        expect(isinstance(found, Claimed) and not found.taken_over, KEPT, found)

    def test_a_lease_longer_than_the_lifetime_lasts(self) -> None:
        """A claim is never new again while its lease lasts."""
        first = attempt(ttl=SHORT)
        self.claimed(first)
        let_pass(2 * SHORT)

        found = self.claim(first)

        expect(isinstance(found, InFlight), KEPT, found)

    # --- operators, of any execution ---

    def test_a_lease_that_has_run_out_is_listed(self) -> None:
        """Whether or not somebody has come with its key meanwhile."""
        first = attempt()
        self.claimed(first, lease=SHORT)

        listed = until(lambda: self.unsettled(first), bool, "unsettled: executions whose outcome is not known.")

        expect(len(listed) == 1, "unsettled: each of them once.", listed)

    def test_what_is_stored_is_freed_whichever_execution_it_is(self) -> None:
        """With None as its time, which the caller does not know."""
        completed, unsettled = attempt(), attempt()
        self.keep(completed)
        self.leave_unsettled(unsettled)

        for each in (completed, unsettled):
            freed = self.store.free(None, each.identity.digest, None)
            expect(freed, "free: the execution that is stored, where `executed_at` is None whichever it is.", freed)
            expect_claimed(self.ask(each), "free: the next request runs again.")


def new_token() -> str:
    return secrets.token_hex(16)
