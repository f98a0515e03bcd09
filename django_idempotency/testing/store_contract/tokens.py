"""A store beside all databases: an owner's token, without which nothing is changed."""

from collections.abc import Callable
from dataclasses import replace

from django_idempotency.core.decision import Claimed, ClaimResult, Completed, InFlight, Unsettled
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
)
from django_idempotency.testing.store_contract.leases import LeaseTests, new_token

STALE = "Every change asks for the token first: what comes with another one changes nothing."
COMPLETE = (
    "complete: Write the record if the claim is still its token's, whether or not its lease has run out, or if the"
    " store itself has forgotten it."
)
ANSWERS = (
    "complete: Returns the record that answers from now on; or that of another request with the same fingerprint which"
    " has taken the claim over; or None where there is no such record."
)
RELEASE = "release: Free the key, if the claim is still its token's."
ABANDON = "abandon: Release a claim that may still be on its way to the store, and is not let in then."
MARK_UNSETTLED = "mark_unsettled: Let the claim's lease end now, without an outcome, of which everybody has been told."


class TokenTests(LeaseTests):
    """Whose claim it is, in a store beside all databases."""

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
        """The handler took longer, and nobody has taken its place: its answer is the answer."""
        first = attempt()
        claim = self.overdue(first)

        kept = self.store.complete(first, claim, RECORD)

        expect(kept is RECORD, COMPLETE, kept)
        expect(self.claim(first) == Completed(RECORD, FINGERPRINT), COMPLETE, self.claim(first))
        expect(not self.unsettled(first), COMPLETE, "It is listed as unsettled.")

    def test_a_record_is_written_though_the_claim_was_forgotten(self) -> None:
        """The claim has expired, or was evicted, and nobody else has claimed the identity."""
        first = attempt(ttl=SHORT)
        claim = self.claimed(first, lease=SHORT)
        let_pass(3 * SHORT)  # a store that has not forgotten it by then writes it all the same
        first = replace(first, ttl=60.0)

        kept = self.store.complete(first, claim, RECORD)

        expect(kept is RECORD, COMPLETE, kept)
        expect(self.claim(first) == Completed(RECORD, FINGERPRINT), COMPLETE, self.claim(first))

    def test_a_records_lifetime_begins_with_it(self) -> None:
        """Not with the claim, which may be old by then; and it ends when its time is over."""
        first = attempt()
        claim = self.claimed(first)

        self.store.complete(first, claim, RECORD)

        shown = self.found(first)
        left = (shown.expires_at - shown.now).total_seconds()
        expect(first.ttl - 30 < left <= first.ttl + 1, "complete: kept for `attempt.ttl` seconds.", left)

    def test_who_comes_too_late_gets_the_answer_of_who_took_over(self) -> None:
        """The same request, so its answer serves both. Before there is one, there is none for the late one either."""
        first, late, successor = self._taken_over()

        before = self.store.complete(first, late, OTHER_RECORD)
        self.store.complete(first, successor, RECORD)
        after = self.store.complete(first, late, OTHER_RECORD)

        expect(before is None, ANSWERS, before)
        expect(after == RECORD, ANSWERS, after)
        expect(self.claim(first) == Completed(RECORD, FINGERPRINT), STALE, self.claim(first))

    def test_who_comes_too_late_gets_no_answer_of_another_request(self) -> None:
        """An operator has freed the key, and another request has used it."""
        first = attempt()
        late = self.overdue(first)
        self.free(self.found(first))
        other = replace(first, fingerprint=OTHER_FINGERPRINT)
        self.keep(other)

        kept = self.store.complete(first, late, OTHER_RECORD)

        expect(kept is None, ANSWERS, kept)
        expect(self.claim(other) == Completed(RECORD, OTHER_FINGERPRINT), STALE, self.claim(other))

    # --- a stale token ---

    def test_a_stale_token_changes_nothing_of_a_claim(self) -> None:
        """It was taken over: its successor's claim lasts, and is completed."""
        for name in ("complete", "renew", "mark_unsettled", "release", "abandon"):
            first, late, successor = self._taken_over()

            result = self.changes(first, late)[name]()

            expect(not result, f"{name}: {STALE}", result)
            found = self.claim(first)
            expect(isinstance(found, InFlight), f"{name}: {STALE}", found)
            kept = self.store.complete(first, successor, RECORD)
            expect(kept == RECORD, f"{name}: {STALE}", kept)

    def test_a_stale_token_changes_nothing_of_a_record(self) -> None:
        """Neither that of who took over, nor the owner's own: what is stored is stored."""
        for name in ("complete", "renew", "mark_unsettled", "release", "abandon"):
            first, late, successor = self._taken_over()
            self.store.complete(first, successor, RECORD)

            self.changes(first, late)[name]()

            found = self.claim(first)
            expect(found == Completed(RECORD, FINGERPRINT), f"{name}: {STALE}", found)

    def test_an_owner_cannot_take_its_record_back(self) -> None:
        """A release, an end or a renewal that was on its way arrives after the record."""
        for name in ("renew", "mark_unsettled", "release", "abandon"):
            first = attempt()
            claim = self.claimed(first)
            self.store.complete(first, claim, RECORD)

            self.changes(first, claim)[name]()

            found = self.claim(first)
            expect(found == Completed(RECORD, FINGERPRINT), f"{name}: A completion record is immutable.", found)

    def test_an_owner_is_stale_once_its_key_is_freed(self) -> None:
        """An operator has decided that the request runs again: the first one's late word is not heard."""
        for name in ("complete", "renew", "mark_unsettled", "release"):
            first = attempt()
            late = self.overdue(first)
            self.free(self.found(first))

            result = self.changes(first, late)[name]()

            expect(not result, f"{name}: free: Forget the execution.", result)
            expect_claimed(self.ask(first), f"{name}: free: The next request runs again.")

    def test_an_owner_is_stale_once_its_outcome_is_settled(self) -> None:
        """The operator's answer answers."""
        for name in ("complete", "renew", "mark_unsettled", "release", "abandon"):
            first = attempt()
            late = self.overdue(first)
            settled = self.store.settle(None, first.identity.digest, self.found(first).executed_at, RECORD)
            expect(settled, "settle: Store the record as the answer.", settled)

            result = self.changes(first, late)[name]()

            expect(name != "complete" or result in (RECORD, None), ANSWERS, result)
            found = self.claim(first)
            expect(found == Completed(RECORD, FINGERPRINT), f"{name}: settle: Store the record as the answer.", found)

    # --- release, abandon, mark_unsettled ---

    def test_a_released_key_is_new(self) -> None:
        """For whoever comes, another request included."""
        first = attempt()
        self.store.release(first, self.claimed(first))

        found = self.claim(replace(first, fingerprint=OTHER_FINGERPRINT))

        expect(isinstance(found, Claimed) and not found.taken_over, RELEASE, found)

    def test_a_key_is_released_after_its_lease_too(self) -> None:
        """As long as it is still its owner's: the handler has answered by itself, late."""
        first = attempt()
        self.store.release(first, self.overdue(first))

        found = self.claim(first)

        expect(isinstance(found, Claimed) and not found.taken_over, RELEASE, found)
        expect(not self.unsettled(first), RELEASE, "It is listed as unsettled.")

    def test_nothing_to_release(self) -> None:
        """No error, and nothing is left of it."""
        first = attempt()
        for name in ("release", "mark_unsettled"):
            self.changes(first, Claimed(new_token()))[name]()

        found = self.claim(first)

        expect(isinstance(found, Claimed), RELEASE, found)

    def test_an_abandoned_claim_is_released(self) -> None:
        """Its reply was lost: another client has the key."""
        first = attempt()
        self.store.abandon(first, self.claimed(first), LONG)

        found = self.claim(replace(first, fingerprint=OTHER_FINGERPRINT))

        expect(isinstance(found, Claimed) and not found.taken_over, ABANDON, found)

    def test_an_abandoned_claim_is_not_let_in_later(self) -> None:
        """It arrives after it was given up: nobody waits for it, and nobody would renew it."""
        first, token = attempt(), new_token()
        self.store.abandon(first, Claimed(token), LONG)

        found = self.claim(first, token)

        expect(
            isinstance(found, InFlight), "claim: A token that was abandoned is not let in any more: `InFlight`.", found
        )
        expect(self.store.find(None, first.identity.digest) is None, ABANDON, "Something is found of it.")
        expect(not self.unsettled(first), ABANDON, "It is listed as unsettled.")
        others: ClaimResult = self.claim(first)
        expect(isinstance(others, Claimed), ABANDON, others)
        late = self.claim(first, token)
        expect(isinstance(late, InFlight), ABANDON, late)

    def test_each_abandoned_claim_is_not_let_in_later(self) -> None:
        """However many there are, and whatever became of the key meanwhile."""

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
                found = self.claim(first)
                expect(isinstance(found, InFlight), f"abandon: {STALE}", found)
                self.store.release(first, claim)
            return token

        names = ("another was abandoned", "an operator has freed the key", "another has come and gone", "another runs")
        for name in names:
            first = attempt()
            token = abandoned(name, first)

            found = self.claim(first, token)

            expect(
                isinstance(found, InFlight),
                f"claim: A token that was abandoned is not let in any more ({name}).",
                found,
            )
            others = self.ask(first)
            expect(isinstance(others, Claimed), f"{ABANDON} ({name})", others)

    def test_a_freed_owner_stays_stale_when_the_next_one_releases_the_key(self) -> None:
        """The operator has undone its work: its answer must not come back, though the next request was refused."""
        for name in ("release", "abandon"):
            first = attempt()
            late = self.overdue(first)
            self.free(self.found(first))
            self.changes(first, self.claimed(first))[name]()

            kept = self.store.complete(first, late, OTHER_RECORD)

            expect(kept is None, "free: The freed execution's own claim changes nothing any more.", kept)
            found = self.ask(first)
            expect(isinstance(found, Claimed), "free: The next request runs again.", found)

    def test_an_unsettled_claim_ends_at_once(self) -> None:
        """Its outcome is unknown from now on, and nobody is told why a second time."""
        first = attempt()
        self.store.mark_unsettled(first, self.claimed(first))

        found = self.claim(first)

        expect(found == Unsettled(FINGERPRINT), MARK_UNSETTLED, found)
        expect(len(self.unsettled(first)) == 1, MARK_UNSETTLED, "It is not listed as unsettled.")

    def test_a_renewal_after_it_was_marked_unsettled_changes_nothing(self) -> None:
        """It was on its way when the claim was given up: the outcome stays unknown, and was told."""
        first = attempt()
        claim = self.claimed(first)
        self.store.mark_unsettled(first, claim)

        renewed = self.store.renew(first, claim, LONG)

        expect(renewed is False, "renew: Returns False where the claim was marked unsettled.", renewed)
        found = self.claim(first)
        expect(found == Unsettled(FINGERPRINT), MARK_UNSETTLED, found)

    def test_an_unsettled_claim_is_taken_over(self) -> None:
        """As one whose lease has run out."""
        first = attempt()
        self.store.mark_unsettled(first, self.claimed(first))

        found = self.claim(first, take_over=True)

        expect(isinstance(found, Claimed) and found.taken_over, MARK_UNSETTLED, found)

    def _taken_over(self) -> tuple[Attempt, Claimed, Claimed]:
        """An identity, its first owner, and the one that has taken it over."""
        first = attempt()
        late = self.overdue(first)
        found = self.claim(first, take_over=True)
        return first, late, expect_claimed(found, "claim: With `take_over` and the same fingerprint `Claimed`.")
