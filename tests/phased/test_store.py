"""The rows of a run: each change asks for its owner's token, and a takeover for what it has seen."""

import pytest
from django.db import connection, transaction

from django_idempotency.core.decision import Unsettled
from django_idempotency.core.keys import Attempt, Identity
from django_idempotency.core.progress import Progress
from django_idempotency.core.record import CompletionRecord
from django_idempotency.models import DatabaseNow, IdempotencyRecord, PhasedRun
from django_idempotency.stores import stores
from django_idempotency.stores.base import LostRace
from django_idempotency.stores.database.interrupted import due
from django_idempotency.stores.database.phased import Free, Run

pytestmark = pytest.mark.django_db(transaction=True)

ATTEMPT = Attempt(identity=Identity("scope", "operation", "key"), fingerprint=b"f" * 32, ttl=60.0, sent=b"{}")
ONE = Progress().with_phase("order", {"pk": 1})
ANSWER = CompletionRecord(status=201, body=b"done")
GIVE_BACK = {"doubt": 0, "phase": "order", "error": "TimeoutError"}


class Owner:
    """The calls of a run's owner, each in a transaction."""

    def __init__(self, token: int) -> None:
        self.token = str(token)

    def __getattr__(self, name):
        def call(*args, **kwargs):
            with transaction.atomic():
                return getattr(stores["default"].runs, name)("default", ATTEMPT, *args, **kwargs)

        return call

    def begin(self, free=Free(has_row=False)):  # noqa: B008
        return self.__getattr__("begin")(free, self.token, 30.0, 60.0)

    def take_over(self, run):
        return self.__getattr__("take_over")(run, self.token, 30.0)


def look_up():
    return stores["default"].runs.look_up("default", ATTEMPT)


def end_lease():
    PhasedRun.objects.update(ends_at=DatabaseNow())


@pytest.fixture
def owner():
    """It has claimed the identity."""
    owner = Owner(1)
    owner.begin()
    return owner


def test_a_claim_is_a_run_in_its_lease(owner):
    """With nothing done."""
    assert look_up() == Run(
        fingerprint=b"f" * 32, token="1", attempts=1, is_held=True, is_given_up=False, progress=Progress(), head=b"[]"
    )


def test_one_of_two_claims_wins(owner):
    """The other one looks again."""
    with pytest.raises(LostRace):
        Owner(2).begin()
    with pytest.raises(LostRace):
        Owner(2).begin(Free(has_row=True))

    assert look_up().token == "1"


def test_progress_is_read_back(owner):
    """By the next owner, which is another attempt."""
    assert owner.advance(owner.token, ONE)
    end_lease()
    seen = look_up()
    assert Owner(2).take_over(seen)

    assert (seen.progress, seen.is_held) == (ONE, False)
    assert (look_up().progress, look_up().token, look_up().attempts, look_up().is_held) == (ONE, "2", 2, True)


def test_a_takeover_needs_what_it_has_seen(owner):
    """A phase that was committed meanwhile would be done again."""
    end_lease()
    seen = look_up()
    owner.advance(owner.token, ONE)

    with pytest.raises(LostRace):
        Owner(2).take_over(seen)
    assert (look_up().token, look_up().progress) == ("1", ONE)


def test_a_takeover_needs_the_end_of_the_lease(owner):
    """A late renewal wins, and so does another takeover."""
    end_lease()
    seen = look_up()
    owner.renew(owner.token, 30.0)
    with pytest.raises(LostRace):
        Owner(2).take_over(seen)
    end_lease()
    Owner(3).take_over(look_up())
    with pytest.raises(LostRace):
        Owner(2).take_over(seen)

    assert (look_up().token, look_up().attempts) == ("3", 2)


def test_a_former_owner_changes_nothing(owner):
    """Whatever it tries."""
    end_lease()
    Owner(2).take_over(look_up())
    before = (IdempotencyRecord.objects.values().get(), PhasedRun.objects.values().get())

    assert owner.advance(owner.token, ONE) is False
    assert owner.finish(owner.token, ANSWER) is False
    assert owner.forget(owner.token) is False
    assert owner.renew(owner.token, 30.0) is False
    assert owner.owns(owner.token) is False
    owner.give_back(owner.token, **GIVE_BACK)
    assert owner.enter_phase(owner.token, 30.0, holds=False) is (connection.vendor != "sqlite")
    with transaction.atomic():
        assert owner.enter_phase(owner.token, 30.0, holds=True) is False
    assert (IdempotencyRecord.objects.values().get(), PhasedRun.objects.values().get()) == before


def test_what_has_a_phase_is_not_forgotten(owner):
    """Also if its owner does not know that the phase was committed, because the reply was lost."""
    owner.advance(owner.token, ONE)

    assert owner.forget(owner.token) is False
    assert look_up().progress == ONE


def test_a_lease_that_was_given_back_is_not_renewed(owner):
    """A renewal may have been on its way."""
    owner.give_back(owner.token, **GIVE_BACK)

    assert owner.renew(owner.token, 30.0) is False
    assert look_up().is_held is False


def test_an_end_leaves_the_record_alone(owner):
    """Finished, nothing is renewed or given back any more."""
    assert owner.finish(owner.token, ANSWER)
    owner.give_back(owner.token, **GIVE_BACK)

    assert owner.renew(owner.token, 30.0) is False
    assert owner.finish(owner.token, ANSWER) is False
    assert look_up().record == ANSWER
    assert not PhasedRun.objects.exists()


def test_a_run_that_is_left_over_is_taken_for_none(owner):
    """Its record was deleted, or belongs to another execution."""
    IdempotencyRecord.objects.all().delete()
    assert look_up() == Free(has_row=False)
    assert not due("default").exists()
    assert Owner(2).begin()

    assert look_up().token == "2"


@pytest.mark.parametrize("head", [b"", b"{}", b"[1]", b"\xff"])
def test_a_run_whose_progress_was_changed_is_an_unknown_outcome(owner, head):
    """Nobody can say what was done."""
    IdempotencyRecord.objects.update(head=head)
    end_lease()

    assert look_up() == Unsettled(b"f" * 32)
