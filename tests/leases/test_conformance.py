"""The stores beside the database keep the contract of a store; some with a bug planted show that the tests can fail."""

import time
import uuid
from collections.abc import Iterator

import pytest
from django.core.cache import caches
from django.test import SimpleTestCase

from django_idempotency.core.decision import Claimed
from django_idempotency.stores.redis import RedisStore
from django_idempotency.testing.memory import MemoryStore
from django_idempotency.testing.store_contract import LeasedStoreTests
from tests.lab.caches import NOWHERE, cache


class TestMemoryStore(LeasedStoreTests, SimpleTestCase):
    """In a test case without a database."""

    between_processes = False

    def make_store(self):
        return MemoryStore("conformance", {})


@pytest.fixture
def redis(settings) -> Iterator[None]:
    """A real server, in a space of this test's own; and an alias whose server is away."""

    settings.CACHES = {"default": cache(KEY_PREFIX=f"conformance-{uuid.uuid4()}"), "away": cache(NOWHERE)}
    yield
    caches["default"].delete_pattern("*")


@pytest.mark.usefixtures("redis")
class TestRedisStore(LeasedStoreTests):
    """On the server of this run, Redis or Valkey, and without a test case."""

    def make_store(self):
        return RedisStore("conformance", {"CACHE": "default"})

    def make_store_that_is_away(self):
        return RedisStore("conformance", {"CACHE": "away"})


# --- planted bugs ---


class AnyToken(MemoryStore):
    """Takes a record from whoever brings one."""

    def complete(self, attempt, claim, record):
        entry = self._live(attempt.identity.digest)
        return super().complete(attempt, Claimed(entry.token) if entry else claim, record)


class TwoSteps(MemoryStore):
    """Looks first and claims then: two clients may both find nothing."""

    def claim(self, attempt, token, lease, *, take_over):
        found = self._live(attempt.identity.digest)
        time.sleep(0.01)
        if found is None:
            self._enter(attempt, token, lease)
            return Claimed(token)
        return super().claim(attempt, token, lease, take_over=take_over)


class Forgetful(MemoryStore):
    """Frees a claim whose lease has run out: nobody is told that its outcome is unknown."""

    def _live(self, digest):
        entry = super()._live(digest)
        if entry is not None and entry.record is None and not self._in_flight(entry):
            del self._entries[digest]
            return None
        return entry


class TellsEverybody(MemoryStore):
    """Announces an unknown outcome to each who asks."""

    def claim(self, attempt, token, lease, *, take_over):
        found = super().claim(attempt, token, lease, take_over=take_over)
        entry = self._live(attempt.identity.digest)
        if entry is not None:
            entry.told = False
        return found


class LetsIn(MemoryStore):
    """Does not remember what was abandoned."""

    def abandon(self, attempt, claim, lease):
        self.release(attempt, claim)


class FreesAll(MemoryStore):
    """Frees what the operator has not seen."""

    def free(self, using, digest, executed_at):
        return super().free(using, digest, None)


class Deaf(MemoryStore):
    """Says that it has renewed a lease, and leaves it as it is."""

    def renew(self, attempt, claim, lease):
        return self._owned(attempt, claim) is not None


BUGS = {
    AnyToken: ("test_a_stale_token_changes_nothing_of_a_claim", "what comes with another one changes nothing"),
    Deaf: ("test_a_renewed_lease_lasts", "from now on"),
    Forgetful: ("test_after_its_lease_the_outcome_is_unknown", "After the lease `Unsettled`"),
    FreesAll: ("test_another_execution_is_not_freed", "if another execution of it is stored"),
    LetsIn: ("test_an_abandoned_claim_is_not_let_in_later", "is not let in any more"),
    TellsEverybody: ("test_of_threads_that_find_out_at_once_one_is_told_why", "says why to the first who asks"),
    TwoSteps: ("test_of_threads_that_claim_at_once_one_is_claimed", "in one atomic step"),
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug):
    """By the test that is about it, in the words of the contract."""
    name, sentence = BUGS[bug]
    tests = LeasedStoreTests()
    tests.store = bug("bug", {})

    with pytest.raises(AssertionError, match=sentence):
        getattr(tests, name)()
