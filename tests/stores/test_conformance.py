"""The DatabaseStore keeps the contract of a store; some with a bug planted show that the tests can fail."""

from dataclasses import replace

import pytest

from django_idempotency.core.decision import InFlight
from django_idempotency.exceptions import TransactionBroken
from django_idempotency.stores.database import DatabaseStore
from django_idempotency.testing.store_contract import TransactionalStoreTests
from django_idempotency.testing.store_contract.base import RECORD, attempt
from tests.proof.bugs import EarlyCommit, NoClaim, RecordOutside

# Commits, so it is flushed after each test: our own tables, which are quicker than all.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["django_idempotency"])


class TestDatabaseStore(TransactionalStoreTests):
    """On the database of this run."""

    def make_store(self):
        return DatabaseStore("conformance", {})

    def test_a_record_is_not_written_over(self):
        """An operator may have settled the claim of a handler that committed by itself and went on."""
        first = attempt()

        def act(claim):
            self.store.complete(self.using, first, claim, RECORD)
            with pytest.raises(TransactionBroken):
                self.store.complete(self.using, first, claim, replace(RECORD, status=500))

        self._claim(first, act)

        assert self.ask(first).record == RECORD


class Texts(DatabaseStore):
    """Takes bodies for text."""

    def complete(self, using, attempt, claim, record):
        body = record.body.decode(errors="replace").encode()
        super().complete(using, attempt, claim, replace(record, body=body))


class Blind(NoClaim):
    """Claims nothing, and does not even look."""

    def look_up(self, using, attempt):
        return None


class Timid(DatabaseStore):
    """Takes everybody for a rival."""

    def claim(self, using, attempt):
        return InFlight()


BUGS = {
    Blind: ("test_a_rival_of_an_open_transaction_claims_nothing", "while that one's transaction is open"),
    EarlyCommit: ("test_a_rollback_forgets_the_claim", "what rolls back is forgotten"),
    RecordOutside: ("test_a_savepoint_that_is_rolled_back_forgets", "in the claim's own transaction"),
    Texts: ("test_a_record_comes_back_byte_for_byte", "as bytes in and out"),
    Timid: ("test_a_new_identity_is_claimed", "if nothing is stored"),
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug):
    """By the test that is about it, in the words of the contract."""
    name, sentence = BUGS[bug]
    tests = TransactionalStoreTests()
    tests.store = bug("bug", {})

    with pytest.raises(AssertionError, match=sentence):
        getattr(tests, name)()
