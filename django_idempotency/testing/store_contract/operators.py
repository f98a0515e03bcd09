"""What operators ask of a store: to find, list, free and settle. Also its options, errors and checks."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from django.core.checks import CheckMessage

from django_idempotency.core.decision import Claimed, Unsettled
from django_idempotency.core.keys import Attempt
from django_idempotency.exceptions import PolicyError, RequestInProgress
from django_idempotency.stores.base import Fault
from django_idempotency.testing.store_contract.base import (
    FIND,
    FINGERPRINT,
    LONG,
    OTHER_FINGERPRINT,
    OTHER_RECORD,
    RECORD,
    SHORT,
    StoreTests,
    attempt,
    expect,
    let_pass,
    seconds_left,
    skip,
    until,
)

IN_FLIGHT = "Raises `RequestInProgress` if the identity is in flight."
OTHER = "Raises `RequestInProgress` if another execution of it is stored."
ANSWERED = "free: With *unsettled* an answer that has come since it was read stays: `RequestInProgress`."
FREED = "free: Forget the execution: the next request runs again."
SETTLED = "settle: Store the record as the answer of the execution whose outcome is unsettled."
NOT_SETTLED = "settle: Returns False if no such execution is stored."
LIST = "unsettled: At most `limit` unsettled outcomes, the oldest first."
STAYS = "claim: A claim without an outcome stays until it is settled or freed."
EXPIRES = "claim: With `attempt.uncertain_ttl` an unknown outcome expires so many seconds after its beginning."
A_MOMENT = 0.01  # seconds: two executions differ by their time, and a clock may count in milliseconds


class OperatorTests(StoreTests):
    """What operators see and change, in either kind of store."""

    def free(self, seen: Any) -> bool:
        return bool(self.change(lambda: self.store.free(self.using, seen.digest, seen.executed_at)))

    def settle(self, seen: Any) -> bool:
        return bool(self.change(lambda: self.store.settle(self.using, seen.digest, seen.executed_at, OTHER_RECORD)))

    def unsettled(self, *attempts: Attempt) -> list[bytes]:
        """The listed ones of *attempts*, in the list's order: others may use the store too."""
        digests = {each.identity.digest for each in attempts}
        listed = [record.digest for record in self.store.unsettled(self.using, 100_000)]
        return [digest for digest in listed if digest in digests]

    def kept(self) -> Any:
        """A new record, as an operator finds it."""
        first = attempt()
        self.keep(first)
        return self.found(first)

    # --- find ---

    def test_nothing_is_found_where_nothing_is_stored(self) -> None:
        """The result is None, and there is no error."""
        found = self.store.find(self.using, attempt().identity.digest)

        expect(found is None, "find: None if nothing is stored for the identity.", found)

    def test_a_claim_in_flight_is_not_found(self) -> None:
        """Its outcome is still to come."""
        first = attempt()

        found = self.while_in_flight(first, lambda: self.store.find(self.using, first.identity.digest))

        expect(found is None or found.record == RECORD, FIND, found)

    def test_a_record_is_found_with_what_was_asked(self) -> None:
        """The pages of operators show key, request, answer and the store's own times."""
        first = attempt(request_id="request-1")
        self.keep(first)
        found = self.found(first)

        seen = {
            "identity": found.digest,
            "scope": found.scope,
            "operation": found.operation,
            "key": found.key,
            "fingerprint": found.fingerprint,
            "request": found.request,
            "request id": found.request_id,
            "record": found.record,
            "location": (found.location.store, found.location.using),
        }
        expected = {
            "identity": first.identity.digest,
            "scope": first.identity.scope,
            "operation": first.identity.operation,
            "key": first.identity.key,
            "fingerprint": FINGERPRINT,
            "request": first.request,
            "request id": "request-1",
            "record": RECORD,
            "location": (self.store, self.using),
        }
        expect(seen == expected, "find: a `StoredRecord` with each of its fields.", seen)
        times = (found.executed_at, found.expires_at, found.now)
        aware = all(each is not None and each.utcoffset() == timedelta(0) for each in times)
        expect(aware, "Its times are aware and in UTC.", times)
        left = seconds_left(found)
        expect(0 < left <= first.ttl + 1, "`expires_at`: a record is kept for `attempt.ttl` seconds.", left)
        expect(found.executed_at <= found.now, "`executed_at` is when the identity was claimed.", found.executed_at)

    def test_an_unknown_outcome_is_found_with_status_0(self) -> None:
        """It has no record."""
        first = attempt()
        self.leave_unsettled(first)

        found = self.found(first)

        sentence = "The status of an unsettled outcome is 0."
        expect(found.is_unsettled and found.record is None, sentence, found.status)

    # --- unsettled ---

    def test_unknown_outcomes_are_listed_the_oldest_first(self) -> None:
        """Their digests do not matter."""
        attempts = [attempt() for _ in range(4)]
        for each in attempts:
            self.leave_unsettled(each)
            let_pass(A_MOMENT)

        listed = self.unsettled(*attempts)

        expect(listed == [each.identity.digest for each in attempts], LIST, listed)

    def test_no_more_are_listed_than_asked_for(self) -> None:
        """The limit applies to all that is stored."""
        for _ in range(3):
            self.leave_unsettled(attempt())

        for limit in (1, 2):
            listed = self.store.unsettled(self.using, limit)
            expect(len(listed) == limit, LIST, listed)

    def test_only_unknown_outcomes_are_listed(self) -> None:
        """Records and claims in flight are not."""
        completed, in_flight = attempt(), attempt()
        self.keep(completed)

        listed = self.while_in_flight(in_flight, lambda: self.unsettled(completed, in_flight))

        expect(not listed, LIST, listed)

    def test_an_unknown_outcome_that_has_expired_is_not_listed(self) -> None:
        """Its key is new again."""
        first = attempt(uncertain_ttl=SHORT)
        self.leave_unsettled(first)

        until(lambda: self.unsettled(first), lambda listed: not listed, LIST)
        self.expect_new(first, EXPIRES)

    def test_an_unknown_outcome_does_not_expire(self) -> None:
        """Its key is not new again before somebody has looked. Settled, it lives for its ttl from then on."""
        first = attempt(ttl=10 * SHORT)
        self.leave_unsettled(first)
        let_pass(11 * SHORT)

        found = self.ask(first)

        expect(found == Unsettled(FINGERPRINT), STAYS, found)
        expect(len(self.unsettled(first)) == 1, STAYS, "It is not listed as unsettled.")
        seen = self.found(first)
        expect(seen.expires_at is None, "`expires_at` is None for what never expires.", seen.expires_at)
        expect(self.settle(seen), SETTLED)
        self.expect_answer(first, "settle: The record's lifetime begins anew.", OTHER_RECORD)
        until(lambda: self.ask(first), lambda found: isinstance(found, Claimed), "settle: Then its key is new.")

    def test_an_unknown_outcome_expires_by_its_own_time(self) -> None:
        """`uncertain_ttl` may be longer than `ttl`; a record that is stored in time has the lifetime of a record."""
        first = attempt(ttl=SHORT, uncertain_ttl=LONG)
        self.leave_unsettled(first)
        let_pass(2 * SHORT)
        found = self.ask(first)
        expect(found == Unsettled(FINGERPRINT), EXPIRES, found)
        left = seconds_left(self.found(first))
        expect(LONG - 30 < left <= LONG + 1, EXPIRES, left)

        kept = attempt(uncertain_ttl=SHORT)
        self.keep(kept)
        let_pass(2 * SHORT)
        self.expect_answer(kept, "A completion record answers until it expires.")

    # --- free ---

    def test_nothing_to_free(self) -> None:
        """The result is False, and there is no error."""
        seen = self.kept()
        self.free(seen)

        freed = self.free(seen)

        expect(not freed, "free: Returns False if nothing is stored.", freed)

    def test_a_freed_record_is_forgotten(self) -> None:
        """The key is new, for another request too."""
        seen = self.kept()

        freed = self.free(seen)

        expect(freed, FREED, freed)
        expect(self.store.find(self.using, seen.digest) is None, FREED, "It is still found.")
        later = attempt(key=seen.key, fingerprint=OTHER_FINGERPRINT)
        self.expect_new(later, FREED)
        self.keep(later, OTHER_RECORD)
        self.expect_answer(later, FREED, OTHER_RECORD)

    def test_an_answer_that_has_come_is_not_freed_as_unknown(self) -> None:
        """One of two operators has stored an answer after the other read that there was none."""
        first = attempt()
        self.leave_unsettled(first)
        seen = self.found(first)
        self.settle(seen)

        free = partial(self.store.free, self.using, seen.digest, seen.executed_at, unsettled=True)
        self.expect_refused(free, ANSWERED)

        self.expect_answer(first, ANSWERED, OTHER_RECORD)

    def test_an_unknown_outcome_is_freed(self) -> None:
        """An operator has decided that the work may run again."""
        first = attempt()
        self.leave_unsettled(first)

        freed = self.free(self.found(first))

        expect(freed, FREED, freed)
        expect(not self.unsettled(first), FREED, "It is still listed.")
        self.expect_new(first, FREED)

    def test_another_execution_is_not_freed(self) -> None:
        """The operator has seen an earlier one, and decided about that."""
        seen = self.kept()
        self.free(seen)
        let_pass(A_MOMENT)
        again = attempt(key=seen.key)
        self.keep(again, OTHER_RECORD)
        earlier = self.found(again).executed_at - timedelta(seconds=5)

        for executed_at in (seen.executed_at, earlier):
            self.expect_refused(partial(self.store.free, self.using, seen.digest, executed_at), OTHER)

        self.expect_answer(again, OTHER, OTHER_RECORD)

    def test_what_is_in_flight_is_neither_freed_nor_settled(self) -> None:
        """It goes on, and its own answer is kept."""

        def change(call: Callable[[], object]) -> object:
            try:
                return self.change(call)
            except RequestInProgress:
                return False

        for verb, more in {"free": (), "settle": (OTHER_RECORD,)}.items():
            first = attempt()
            call = partial(getattr(self.store, verb), self.using, first.identity.digest, None, *more)

            done = self.while_in_flight(first, partial(change, call))

            expect(not done, f"{verb}: {IN_FLIGHT}", done)
            self.expect_answer(first, f"{verb}: {IN_FLIGHT}")

    # --- settle ---

    def test_an_unknown_outcome_is_settled(self) -> None:
        """From then on its record answers, for as long as a handler's own would."""
        first = attempt()
        self.leave_unsettled(first)

        settled = self.settle(self.found(first))

        expect(settled, SETTLED, settled)
        self.expect_answer(first, SETTLED, OTHER_RECORD)
        expect(not self.unsettled(first), SETTLED, "It is still listed.")
        left = seconds_left(self.found(first))
        expect(first.ttl * 0.9 < left <= first.ttl + 1, "settle: its lifetime begins anew.", left)

    def test_nothing_to_settle(self) -> None:
        """The result is False, and nothing is stored."""
        first = attempt()
        self.leave_unsettled(first)
        seen = self.found(first)
        self.free(seen)

        settled = self.settle(seen)

        expect(not settled, NOT_SETTLED, settled)
        self.expect_new(first, NOT_SETTLED)

    def test_a_record_is_not_settled(self) -> None:
        """Two operators settle one outcome: the second learns that it is known."""
        first = attempt()
        self.leave_unsettled(first)
        seen = self.found(first)
        self.change(lambda: self.store.settle(self.using, first.identity.digest, seen.executed_at, RECORD))
        sentence = f"{NOT_SETTLED} Or raises `RequestInProgress`."

        try:
            settled = self.settle(seen)
        except RequestInProgress:
            settled = False

        expect(not settled, sentence, settled)
        self.expect_answer(first, sentence)

    def test_another_execution_is_not_settled(self) -> None:
        """The operator has seen an earlier one: the key was freed, and its next outcome is unsettled too."""
        first = attempt()
        self.leave_unsettled(first)
        seen = self.found(first)
        self.free(seen)
        let_pass(A_MOMENT)
        self.leave_unsettled(first)

        settle = partial(self.store.settle, self.using, seen.digest, seen.executed_at, OTHER_RECORD)
        self.expect_refused(settle, OTHER)

        found = self.ask(first)
        expect(isinstance(found, Unsettled), OTHER, found)

    # --- options, errors, checks ---

    def test_an_unknown_option_is_an_error(self) -> None:
        """A misspelt option is found when the store is made."""
        try:
            made = type(self.store)("conformance", {"NO_SUCH_OPTION": 1})
        except PolicyError as error:
            expect("NO_SUCH_OPTION" in str(error), "The error names the option.", str(error))
        else:
            expect(False, "A name that the store does not know is an error: `PolicyError`.", made)

    def test_an_error_that_is_none_of_the_stores_is_a_defect(self) -> None:
        """It propagates, and is not taken for a server that is away."""
        self.ask(attempt())  # so it is not away

        fault = self.store.classify(self.using, ZeroDivisionError("a defect"))

        expect(fault is Fault.OTHER, "classify: OTHER, a defect or a mis-configuration: it propagates.", fault)

    def test_a_server_that_is_away_is_told_from_a_defect(self) -> None:
        """Nothing was done, so the client may send the request again."""
        store = self.make_store_that_is_away()
        if store is None:
            skip("make_store_that_is_away() makes none")
        try:
            found = self.claim_of(store)
        except Exception as error:
            fault = store.classify(self.using, error)
            expect(fault is Fault.UNAVAILABLE, "classify: UNAVAILABLE, the store does not answer.", (fault, error))
        else:
            expect(False, "make_store_that_is_away() makes a store that does not answer.", found)

    def claim_of(self, store: Any) -> object:
        """Claim in *store*, which is away."""
        raise NotImplementedError

    def test_checks_are_messages(self) -> None:
        """`manage.py check` shows them."""
        for messages in (self.store.check(), self.store.check_servers()):
            are_messages = isinstance(messages, list) and all(isinstance(each, CheckMessage) for each in messages)
            expect(are_messages, "check: What `manage.py check` says of this store.", messages)
