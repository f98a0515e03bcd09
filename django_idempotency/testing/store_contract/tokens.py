"""Tokens in a store outside the databases: only the owner of a claim changes anything."""

from collections.abc import Callable
from dataclasses import replace

from django_idempotency.core.decision import Claimed, InFlight, Unsettled
from django_idempotency.core.keys import Attempt
from django_idempotency.testing.store_contract.base import (
    FINGERPRINT,
    LONG,
    OTHER_FINGERPRINT,
    OTHER_RECORD,
    RECORD,
    SHORT,
    attempt,
    expect,
    expect_claimed,
    let_pass,
    seconds_left,
)
from django_idempotency.testing.store_contract.leases import TAKES_OVER, LeaseTests, new_token

STALE = "Every change asks for the token first: what comes with another one changes nothing."
IMMUTABLE = "A completion record is immutable."
COMPLETE = (
    "complete: Write the record if the claim is still its token's, whether or not its lease has run out, or if the"
    " store itself has forgotten it."
)
ANSWERS = (
    "complete: Returns the record that answers from now on; or that of another request with the same fingerprint which"
    " has taken the claim over; or None if there is no such record."
)
RELEASE = "release: Free the key, if the claim is still its token's."
ABANDON = "abandon: Release a claim that may still be on its way to the store, and is not let in then."
NOT_LET_IN = "claim: A token that was abandoned is not let in any more: `InFlight`."
MARK_UNSETTLED = "mark_unsettled: Let the claim's lease end now, without an outcome; that has been announced."
FREED = "free: Forget the execution: the next request runs again."
SETTLED = "settle: Store the record as the answer."


class TokenTests(LeaseTests):
    """The owners of claims, in a store outside the databases."""

    def changes(self, first: Attempt, claim: Claimed) -> dict[str, Callable[[], object]]:
        """Everything that the owner of *claim* may do."""
        return {
            "complete": lambda: self.store.complete(first, claim, OTHER_RECORD),
            "renew": lambda: self.store.renew(first, claim, SHORT),
            "mark_unsettled": lambda: self.store.mark_unsettled(first, claim),
            "release": lambda: self.store.release(first, claim),
            "abandon": lambda: self.store.abandon(first, claim, LONG),
        }

    # --- complete ---

    def test_a_record_is_written_after_the_lease_too(self) -> None:
        """The handler took longer than its lease. If nobody has taken over, its answer counts."""
        first = attempt()
        claim = self.overdue(first)

        kept = self.store.complete(first, claim, RECORD)

        expect(kept is RECORD, COMPLETE, kept)
        self.expect_answer(first, COMPLETE)
        expect(not self.unsettled(first), COMPLETE, "It is listed as unsettled.")

    def test_a_record_is_written_though_the_claim_was_forgotten(self) -> None:
        """The claim has expired or was evicted, and nobody else has claimed the identity."""
        first = attempt(uncertain_ttl=SHORT)
        claim = self.claimed(first, lease=SHORT)
        let_pass(3 * SHORT)  # a store that has not forgotten it by then has to write the record as well
        kept = self.store.complete(first, claim, RECORD)

        expect(kept is RECORD, COMPLETE, kept)
        self.expect_answer(first, COMPLETE)

    def test_a_records_lifetime_begins_with_it(self) -> None:
        """It does not begin with the claim, which may be old by then."""
        first = attempt()
        claim = self.claimed(first)

        self.store.complete(first, claim, RECORD)

        left = seconds_left(self.found(first))
        expect(first.ttl - 30 < left <= first.ttl + 1, "complete: kept for `attempt.ttl` seconds.", left)

    def test_who_comes_too_late_gets_the_answer_of_who_took_over(self) -> None:
        """It is the same request, so one answer serves both. Until the new owner has answered there is none."""
        first, late, successor = self._taken_over()

        before = self.store.complete(first, late, OTHER_RECORD)
        self.store.complete(first, successor, RECORD)
        after = self.store.complete(first, late, OTHER_RECORD)

        expect(before is None, ANSWERS, before)
        expect(after == RECORD, ANSWERS, after)
        self.expect_answer(first, STALE)

    def test_who_comes_too_late_gets_no_answer_of_another_request(self) -> None:
        """An operator has freed the key, and another request has used it."""
        first = attempt()
        late = self.overdue(first)
        self.free(self.found(first))
        other = replace(first, fingerprint=OTHER_FINGERPRINT)
        self.keep(other)

        kept = self.store.complete(first, late, OTHER_RECORD)

        expect(kept is None, ANSWERS, kept)
        self.expect_answer(other, STALE)

    # --- a stale token ---

    def test_a_stale_token_changes_nothing_of_a_claim(self) -> None:
        """The claim was taken over: its new owner keeps it, and completes it."""
        for name in ("complete", "renew", "mark_unsettled", "release", "abandon"):
            first, late, successor = self._taken_over()

            result = self.changes(first, late)[name]()

            expect(not result, f"{name}: {STALE}", result)
            self.expect_in_flight(first, f"{name}: {STALE}")
            kept = self.store.complete(first, successor, RECORD)
            expect(kept == RECORD, f"{name}: {STALE}", kept)

    def test_a_stale_token_changes_nothing_of_a_record(self) -> None:
        """The claim was taken over, and its new owner has stored the record."""
        for name in ("complete", "renew", "mark_unsettled", "release", "abandon"):
            first, late, successor = self._taken_over()
            self.store.complete(first, successor, RECORD)

            self.changes(first, late)[name]()

            self.expect_answer(first, f"{name}: {STALE}")

    def test_an_owner_cannot_take_its_record_back(self) -> None:
        """A release, an end or a renewal that was sent before the record may arrive after it."""
        for name in ("renew", "mark_unsettled", "release", "abandon"):
            first = attempt()
            claim = self.claimed(first)
            self.store.complete(first, claim, RECORD)

            self.changes(first, claim)[name]()

            self.expect_answer(first, f"{name}: {IMMUTABLE}")

    def test_an_owner_is_stale_once_its_key_is_freed(self) -> None:
        """An operator has decided that the request runs again."""
        for name in ("complete", "renew", "mark_unsettled", "release"):
            first = attempt()
            late = self.overdue(first)
            self.free(self.found(first))

            result = self.changes(first, late)[name]()

            expect(not result, f"{name}: {FREED}", result)
            self.expect_new(first, f"{name}: {FREED}")

    def test_an_owner_is_stale_once_its_outcome_is_settled(self) -> None:
        """The operator's answer counts."""
        for name in ("complete", "renew", "mark_unsettled", "release", "abandon"):
            first = attempt()
            late = self.overdue(first)
            settled = self.store.settle(None, first.identity.digest, self.found(first).executed_at, RECORD)
            expect(settled, SETTLED, settled)

            result = self.changes(first, late)[name]()

            expect(name != "complete" or result in (RECORD, None), ANSWERS, result)
            self.expect_answer(first, f"{name}: {SETTLED}")

    def test_a_freed_owner_stays_stale_when_the_next_one_releases_the_key(self) -> None:
        """Its answer must not come back: the operator has undone its work."""
        for name in ("release", "abandon"):
            first = attempt()
            late = self.overdue(first)
            self.free(self.found(first))
            self.changes(first, self.claimed(first))[name]()

            kept = self.store.complete(first, late, OTHER_RECORD)

            expect(kept is None, "free: The freed execution's own claim changes nothing any more.", kept)
            self.expect_new(first, FREED)

    # --- release, abandon ---

    def test_a_released_key_is_new(self) -> None:
        """An abandoned one is new as well, for another request too."""
        for name, sentence in {"release": RELEASE, "abandon": ABANDON}.items():
            first = attempt()
            self.changes(first, self.claimed(first))[name]()

            self.expect_new(replace(first, fingerprint=OTHER_FINGERPRINT), sentence)

    def test_a_key_is_released_after_its_lease_too(self) -> None:
        """The handler raised late, and nobody has taken over its claim."""
        first = attempt()
        self.store.release(first, self.overdue(first))

        self.expect_new(first, RELEASE)
        expect(not self.unsettled(first), RELEASE, "It is listed as unsettled.")

    def test_nothing_to_release(self) -> None:
        """A release or an end without a claim is no error, and leaves nothing."""
        first = attempt()
        for name in ("release", "mark_unsettled"):
            self.changes(first, Claimed(new_token()))[name]()

        self.expect_new(first, RELEASE)

    def test_an_abandoned_claim_is_not_let_in_later(self) -> None:
        """It arrives after it was given up: its client is gone, so nobody would renew it."""
        first, token = attempt(), new_token()
        self.store.abandon(first, Claimed(token), LONG)

        found = self.claim(first, token)

        expect(isinstance(found, InFlight), NOT_LET_IN, found)
        expect(self.store.find(None, first.identity.digest) is None, ABANDON, "Something is found of it.")
        expect(not self.unsettled(first), ABANDON, "It is listed as unsettled.")
        expect_claimed(self.claim(first), ABANDON)
        late = self.claim(first, token)
        expect(isinstance(late, InFlight), NOT_LET_IN, late)

    def test_each_abandoned_claim_is_not_let_in_later(self) -> None:
        """There may be many, and the key may have been used since."""

        def abandoned(name: str, first: Attempt) -> str:
            token = new_token()
            if name == "another was abandoned":
                self.store.abandon(first, Claimed(token), LONG)
                self.store.abandon(first, Claimed(new_token()), LONG)
            elif name == "an operator has freed the key":
                self.overdue(first)
                self.free(self.found(first))
                self.store.abandon(first, Claimed(token), LONG)
            elif name == "another has come and gone":
                self.store.abandon(first, Claimed(token), LONG)
                self.store.release(first, self.claimed(first))
            else:  # another runs, and goes
                claim = self.claimed(first)
                self.store.abandon(first, Claimed(token), LONG)
                self.expect_in_flight(first, f"abandon: {STALE}")
                self.store.release(first, claim)
            return token

        names = ("another was abandoned", "an operator has freed the key", "another has come and gone", "another runs")
        for name in names:
            first = attempt()
            token = abandoned(name, first)

            found = self.claim(first, token)

            expect(isinstance(found, InFlight), f"{NOT_LET_IN} ({name})", found)
            self.expect_new(first, f"{ABANDON} ({name})")

    # --- mark_unsettled ---

    def test_an_unsettled_claim_ends_at_once(self) -> None:
        """Its outcome is unknown from now on, and nobody gets the reason a second time."""
        first = attempt()
        self.leave_unsettled(first)

        found = self.claim(first)

        expect(found == Unsettled(FINGERPRINT), MARK_UNSETTLED, found)
        expect(len(self.unsettled(first)) == 1, MARK_UNSETTLED, "It is not listed as unsettled.")

    def test_a_renewal_after_it_was_marked_unsettled_changes_nothing(self) -> None:
        """A renewal that was sent before the end arrives after it: the outcome stays unsettled."""
        first = attempt()
        claim = self.claimed(first)
        self.store.mark_unsettled(first, claim)

        renewed = self.store.renew(first, claim, LONG)

        expect(renewed is False, "renew: Returns False if the claim was marked unsettled.", renewed)
        found = self.claim(first)
        expect(found == Unsettled(FINGERPRINT), MARK_UNSETTLED, found)

    def test_an_unsettled_claim_is_taken_over(self) -> None:
        """It is like one whose lease has run out."""
        first = attempt()
        self.leave_unsettled(first)

        found = self.claim(first, take_over=True)

        expect(isinstance(found, Claimed) and found.taken_over, MARK_UNSETTLED, found)

    def _taken_over(self) -> tuple[Attempt, Claimed, Claimed]:
        """An attempt, its first owner, and the owner that has taken it over."""
        first = attempt()
        late = self.overdue(first)
        return first, late, expect_claimed(self.claim(first, take_over=True), TAKES_OVER)
