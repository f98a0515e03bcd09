"""`race`: many processes at once with one key; a right view takes effect once, and each wrong one is told."""

import pytest

from django_idempotency.testing.calls import Call
from django_idempotency.testing.findings import NotProved
from django_idempotency.testing.processes import CannotFork
from django_idempotency.testing.races import race
from tests.app.models import Child, Payment
from tests.kit.crash_gallery import ACCOUNT, wait_for_two

pytestmark = [pytest.mark.django_db(transaction=True, databases=["default", "other"]), pytest.mark.race]


@pytest.fixture(autouse=True)
def _gallery(settings):
    settings.ROOT_URLCONF = "tests.kit.crash_gallery"


def post(name: str) -> Call:
    return Call.post(f"/{name}/", {"to": "shop"})


def test_a_race_takes_effect_once():
    """Of eight at once one executes, the others get its bytes; what it has done is there to be looked at."""
    Payment.objects.create(amount=100, reference=ACCOUNT)

    report = race(post("transfer"), key="8e03")

    assert report.key == "8e03"
    assert len(report.final) == 8
    assert report.executed == 1
    assert len({reply.body for reply in report.final}) == 1
    assert "8 at once, 1 executed, 8 x 201" in str(report)
    assert Payment.objects.get(reference=ACCOUNT).amount == 90
    assert Child.objects.get().payment.reference == "shop"


# What is said of each wrong view.
WRONG = {
    "look-first": ["8 times at once with one key", "reference='around'", "instead of once", "before the claim"],
    "names-its-process": ["different final answers: 1 x 201 b'"],
    "unprotected": ["A duplicate with the same key is done again"],
}


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_view_is_caught(name):
    """The failure says what was done more than once, or answered otherwise, and what to do."""

    def reset() -> None:
        Payment.objects.all().delete()
        wait_for_two()

    with pytest.raises(NotProved) as caught:
        race(post(name), reset=reset)

    told = str(caught.value)
    assert [words for words in WRONG[name] if words not in told] == [], told


@pytest.mark.django_db(transaction=False)
def test_a_transaction_of_the_test_is_told():
    """Where the test holds a transaction no other process sees its rows: the error says what to use."""
    with pytest.raises(CannotFork, match=r"django_db\(transaction=True\)"):
        race(post("right"))
