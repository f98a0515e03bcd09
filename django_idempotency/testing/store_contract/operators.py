"""What operators ask of a store: find, list, free, settle."""

from datetime import timedelta
from typing import Any

from django.core.checks import CheckMessage

from django_idempotency.core.decision import Claimed, Completed, Unsettled
from django_idempotency.core.keys import Attempt
from django_idempotency.exceptions import PolicyError, RequestInProgress
from django_idempotency.stores.base import Fault
from django_idempotency.testing.store_contract.base import (
    FINGERPRINT,
    OTHER_FINGERPRINT,
    OTHER_RECORD,
    RECORD,
    SHORT,
    StoreTests,
    attempt,
    expect,
    expect_claimed,
    let_pass,
    skip,
    until,
)

IN_FLIGHT = "Raises `RequestInProgress` where the identity is in flight."
OTHER = "Raises `RequestInProgress` where another execution of it is stored."
ANSWERED = "free: With *unsettled* an answer that has come since it was read stays: `RequestInProgress`."
FREED = "free: Forget the execution: the next request runs again."
SETTLED = "settle: Store the record as the answer of the execution whose outcome is not known."
LIST = "unsettled: At most `limit` unsettled outcomes, the oldest first."
A_MOMENT = 0.01  # seconds: two executions are told apart by their time, and a clock may know milliseconds


class OperatorTests(StoreTests):
    """What is shown and changed by hand, in either kind of store."""

    def free(self, seen: Any) -> bool:
        return bool(self.change(lambda: self.store.free(self.using, seen.digest, seen.executed_at)))

    def settle(self, seen: Any) -> bool:
        return bool(self.change(lambda: self.store.settle(self.using, seen.digest, seen.executed_at, OTHER_RECORD)))

    def unsettled(self, *attempts: Attempt) -> list[bytes]:
        """Those of *attempts* that are listed, in their order: others may use the store too."""
        digests = {each.identity.digest for each in attempts}
        listed = [record.digest for record in self.store.unsettled(self.using, 100_000)]
        return [digest for digest in listed if digest in digests]

    # --- find ---

    def test_nothing_is_found_where_nothing_is_stored(self) -> None:
        """None, and no error."""
        found = self.store.find(self.using, attempt().identity.digest)

        expect(found is None, "find: None where nothing is stored for the identity.", found)

    def test_a_claim_in_flight_is_not_found(self) -> None:
        """Nothing can be said of it yet."""
        first = attempt()

        found = self.while_in_flight(first, lambda: self.store.find(self.using, first.identity.digest))

        expect(
            found is None or found.record == RECORD,
            "find: What is stored for the identity, a claim in flight excepted.",
            found,
        )

    def test_a_record_is_found_with_what_was_asked(self) -> None:
        """All that the pages of operators show: key, request, answer, and the store's own times."""
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
        expect(all(each.utcoffset() == timedelta(0) for each in times), "Its times are aware and in UTC.", times)
        left = (found.expires_at - found.now).total_seconds()
        expect(0 < left <= first.ttl + 1, "`expires_at`: a record is kept for `attempt.ttl` seconds.", left)
        expect(found.executed_at <= found.now, "`executed_at` is when the identity was claimed.", found.executed_at)

    def test_an_unknown_outcome_is_found_with_status_0(self) -> None:
        """It has no record."""
        first = attempt()
        self.leave_unsettled(first)

        found = self.found(first)

        expect(
            found.is_unsettled and found.record is None,
            "The status of an unsettled outcome is 0.",
            found.status,
        )

    # --- unsettled ---

    def test_unknown_outcomes_are_listed_the_oldest_first(self) -> None:
        """Whatever their digests are."""
        attempts = [attempt() for _ in range(4)]
        for each in attempts:
            self.leave_unsettled(each)
            let_pass(A_MOMENT)

        listed = self.unsettled(*attempts)

        expect(listed == [each.identity.digest for each in attempts], LIST, listed)

    def test_no_more_are_listed_than_asked_for(self) -> None:
        """The limit holds over all that is stored."""
        for _ in range(3):
            self.leave_unsettled(attempt())

        for limit in (1, 2):
            listed = self.store.unsettled(self.using, limit)
            expect(len(listed) == limit, LIST, listed)

    def test_only_unknown_outcomes_are_listed(self) -> None:
        """Neither what is stored nor what is in flight."""
        completed, in_flight = attempt(), attempt()
        self.keep(completed)

        listed = self.while_in_flight(in_flight, lambda: self.unsettled(completed, in_flight))

        expect(not listed, LIST, listed)

    def test_an_unknown_outcome_that_has_expired_is_not_listed(self) -> None:
        """Its key is new again."""
        first = attempt(ttl=SHORT)
        self.leave_unsettled(first)

        until(lambda: self.unsettled(first), lambda listed: not listed, LIST)

    # --- free ---

    def test_nothing_to_free(self) -> None:
        """False, and no error."""
        seen = self._kept()
        self.free(seen)

        freed = self.free(seen)

        expect(not freed, "free: Returns False where nothing is stored.", freed)

    def test_a_freed_record_is_forgotten(self) -> None:
        """The key is new, for another request too."""
        seen = self._kept()

        freed = self.free(seen)

        expect(freed, FREED, freed)
        expect(self.store.find(self.using, seen.digest) is None, FREED, "It is still found.")
        later = attempt(key=seen.key, fingerprint=OTHER_FINGERPRINT)
        expect(isinstance(found := self.ask(later), Claimed), FREED, found)
        self.keep(later, OTHER_RECORD)
        expect(self.ask(later) == Completed(OTHER_RECORD, OTHER_FINGERPRINT), FREED, self.ask(later))

    def test_an_answer_that_has_come_is_not_freed_as_unknown(self) -> None:
        """Two operators at once: one has stored an answer since the other read that there is none."""
        first = attempt()
        self.leave_unsettled(first)
        seen = self.found(first)
        self.settle(seen)

        self.refuses(lambda: self.store.free(self.using, seen.digest, seen.executed_at, unsettled=True), ANSWERED)

        expect(self.ask(first) == Completed(OTHER_RECORD, FINGERPRINT), ANSWERED, self.ask(first))

    def test_an_unknown_outcome_is_freed(self) -> None:
        """Somebody has looked: the work may run again."""
        first = attempt()
        self.leave_unsettled(first)

        freed = self.free(self.found(first))

        expect(freed, FREED, freed)
        expect(not self.unsettled(first), FREED, "It is still listed.")
        expect_claimed(self.ask(first), FREED)

    def test_what_is_in_flight_is_not_freed(self) -> None:
        """It goes on, and its record is kept."""
        first = attempt()

        def free() -> object:
            try:
                return self.change(lambda: self.store.free(self.using, first.identity.digest, None))
            except RequestInProgress:
                return False

        freed = self.while_in_flight(first, free)

        expect(not freed, IN_FLIGHT, freed)
        expect(self.ask(first) == Completed(RECORD, FINGERPRINT), IN_FLIGHT, self.ask(first))

    def test_another_execution_is_not_freed(self) -> None:
        """The operator has seen an earlier one, and decided about that."""
        seen = self._kept()
        self.free(seen)
        let_pass(A_MOMENT)
        again = attempt(key=seen.key)
        self.keep(again, OTHER_RECORD)

        digest = seen.digest
        self.refuses(lambda: self.store.free(self.using, digest, seen.executed_at), OTHER)

        earlier = self.found(again).executed_at - timedelta(seconds=5)
        self.refuses(lambda: self.store.free(self.using, digest, earlier), OTHER)
        expect(self.ask(again) == Completed(OTHER_RECORD, FINGERPRINT), OTHER, self.ask(again))

    # --- settle ---

    def test_an_unknown_outcome_is_settled(self) -> None:
        """From then on its record answers, for as long as a handler's own would."""
        first = attempt()
        self.leave_unsettled(first)

        settled = self.settle(self.found(first))

        expect(settled, SETTLED, settled)
        found = self.ask(first)
        expect(found == Completed(OTHER_RECORD, FINGERPRINT), SETTLED, found)
        expect(not self.unsettled(first), SETTLED, "It is still listed.")
        shown = self.found(first)
        left = (shown.expires_at - shown.now).total_seconds()
        expect(first.ttl * 0.9 < left <= first.ttl + 1, "settle: its lifetime begins anew.", left)

    def test_nothing_to_settle(self) -> None:
        """False, and nothing is stored."""
        first = attempt()
        self.leave_unsettled(first)
        seen = self.found(first)
        self.free(seen)

        settled = self.settle(seen)

        expect(not settled, "settle: Returns False where no such execution is stored.", settled)
        expect_claimed(self.ask(first), "settle: Returns False where no such execution is stored.")

    def test_a_record_is_not_settled(self) -> None:
        """Its outcome is known: two operators settle one, and the second is told."""
        first = attempt()
        self.leave_unsettled(first)
        seen = self.found(first)
        self.change(lambda: self.store.settle(self.using, first.identity.digest, seen.executed_at, RECORD))
        sentence = "settle: Returns False where no such execution is stored, or raises `RequestInProgress`."

        try:
            settled = self.settle(seen)
        except RequestInProgress:
            settled = False

        expect(not settled, sentence, settled)
        found = self.ask(first)
        expect(isinstance(found, Completed) and found.record.body == RECORD.body, sentence, found)

    def test_what_is_in_flight_is_not_settled(self) -> None:
        """Its own answer is the one that is kept."""
        first = attempt()

        def settle() -> object:
            try:
                return self.change(lambda: self.store.settle(self.using, first.identity.digest, None, OTHER_RECORD))
            except RequestInProgress:
                return False

        settled = self.while_in_flight(first, settle)

        expect(not settled, IN_FLIGHT, settled)
        expect(self.ask(first) == Completed(RECORD, FINGERPRINT), IN_FLIGHT, self.ask(first))

    def test_another_execution_is_not_settled(self) -> None:
        """Freed, and uncertain again: that is another story."""
        first = attempt()
        self.leave_unsettled(first)
        seen = self.found(first)
        self.free(seen)
        let_pass(A_MOMENT)
        self.leave_unsettled(first)

        digest = first.identity.digest
        self.refuses(lambda: self.store.settle(self.using, digest, seen.executed_at, OTHER_RECORD), OTHER)

        expect(isinstance(found := self.ask(first), Unsettled), OTHER, found)

    def _kept(self) -> Any:
        first = attempt()
        self.keep(first)
        return self.found(first)

    # --- options, errors, checks ---

    def test_an_unknown_option_is_an_error(self) -> None:
        """A typing slip is found when the store is made."""
        try:
            made = type(self.store)("conformance", {"NO_SUCH_OPTION": 1})
        except PolicyError as error:
            expect("NO_SUCH_OPTION" in str(error), "The error names the option.", str(error))
        else:
            expect(False, "A name that the store does not know is an error: `PolicyError`.", made)

    def test_an_error_that_is_none_of_the_stores_is_a_defect(self) -> None:
        """It propagates: nobody may take it for a server that is away."""
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
        """A claim of *store*, which is away."""
        raise NotImplementedError

    def test_checks_are_messages(self) -> None:
        """What `manage.py check` says, in a list."""
        for messages in (self.store.check(), self.store.check_servers()):
            expect(
                isinstance(messages, list) and all(isinstance(message, CheckMessage) for message in messages),
                "check: What `manage.py check` says of this store.",
                messages,
            )
