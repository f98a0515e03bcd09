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
HELD = "hold: Take over the unsettled claim, so that a probe can be asked."
BEGUN = "begin: Let an execution begin under a claim that is held. False if it belongs to another token, or is gone."
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

    # --- held for a probe ---

    def held(self, first: Attempt, *, lease: float = LONG) -> Claimed:
        token = new_token()
        seen = self.store.hold(first, token, lease)
        expect(seen is not None, HELD, seen)
        return Claimed(token)

    def test_an_unsettled_claim_is_held(self) -> None:
        """It is in flight for all others, and it is the same execution. Its first owner comes too late."""
        first, token = attempt(), new_token()
        late = self.overdue(first)
        seen = self.found(first)

        began = [self.store.hold(first, token, LONG) for _ in range(2)]

        expect(began == [seen.executed_at] * 2, "hold: Returns when the execution began, twice if asked twice.", began)
        self.expect_in_flight(first, HELD, take_over=True)
        kept = self.store.complete(first, late, RECORD)
        expect(kept is None, HELD, kept)
        kept = self.store.complete(first, Claimed(token), RECORD)
        expect(kept is RECORD, "hold: `complete` ends it with an answer.", kept)
        self.expect_answer(first, HELD)

    def test_nothing_to_hold(self) -> None:
        """Nothing, a claim in flight, one that is held, a record, and the unknown outcome of another request."""
        flying, held, kept, other = attempt(), attempt(), attempt(), attempt()
        self.claimed(flying)
        self.overdue(held)
        self.held(held)
        self.keep(kept)
        self.leave_unsettled(other)
        for each in (attempt(), flying, held, kept, replace(other, fingerprint=OTHER_FINGERPRINT)):
            found = self.store.hold(each, new_token(), LONG)
            expect(found is None, "hold: None if there is no such claim.", found)

    def test_of_threads_one_holds(self) -> None:
        """A probe is not asked twice at once."""
        first = attempt()
        self.leave_unsettled(first)

        found = self.in_threads(lambda place: self.store.hold(first, new_token(), LONG))

        expect(sum(each is not None for each in found) == 1, HELD, found)

    def test_what_is_held_is_given_back(self) -> None:
        """Its outcome is as unknown as before, and told to nobody again."""
        first = attempt()
        self.leave_unsettled(first)
        self.store.mark_unsettled(first, self.held(first))

        found = self.claim(first)

        expect(found == Unsettled(FINGERPRINT), "hold: `mark_unsettled` gives it back.", found)
        expect(len(self.unsettled(first)) == 1, HELD, "It is not listed as unsettled.")
        self.held(first)

    def test_who_asks_and_is_killed_leaves_it_unknown(self) -> None:
        """When the lease has run out, one is told, unless it was announced before."""
        first, token, known = attempt(), new_token(), attempt()
        self.claimed(first, lease=SHORT)
        self.claim_after_lease(first, token)
        self.store.hold(first, token, SHORT)
        self.leave_unsettled(known)
        self.held(known, lease=SHORT)

        found = [self.claim_after_lease(each) for each in (first, known)]

        told = [isinstance(each, Unsettled) and bool(each.found_out) for each in found]
        expect(told == [True, False], "hold: if the lease runs out its outcome is as unknown as before.", found)

    def test_an_execution_begins_under_what_is_held(self) -> None:
        """It is another one than that whose outcome was unknown."""
        first = attempt()
        self.leave_unsettled(first)
        before = self.found(first).executed_at
        claim = self.held(first, lease=SHORT)
        let_pass(2 * SHORT)  # nobody else has asked meanwhile

        begun = self.store.begin(first, claim, LONG)

        expect(begun is True, BEGUN, begun)
        self.expect_in_flight(first, BEGUN)
        expect(self.store.renew(first, claim, LONG) is True, BEGUN)
        self.store.mark_unsettled(first, claim)
        after = self.found(first).executed_at
        expect(after > before, BEGUN, (before, after))

    def test_who_asked_for_too_long_begins_nothing(self) -> None:
        """Another one has asked meanwhile, and has run it, or will: at most one of them begins."""
        for end in ("held", "begun", "completed", "unsettled", "free"):
            first = attempt()
            self.leave_unsettled(first)
            late = self.held(first, lease=SHORT)
            until(lambda first=first: self.claim(first), lambda found: isinstance(found, Unsettled), HELD)  # type: ignore[misc]
            successor = self.held(first)
            if end != "held":
                self.store.begin(first, successor, LONG)
            if end == "completed":
                self.store.complete(first, successor, RECORD)
            elif end == "unsettled":
                self.store.mark_unsettled(first, successor)
            elif end == "free":
                self.store.release(first, successor)

            begun = self.store.begin(first, late, LONG)

            expect(begun is False, f"{BEGUN} ({end})", begun)

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
