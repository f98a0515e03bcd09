"""`race`: many processes at once with one key; a right view takes effect once, and each wrong one is told."""

import pytest

from django_idempotency.testing.calls import Call
from django_idempotency.testing.compare.snapshots import TableTooLarge
from django_idempotency.testing.findings import NotProved
from django_idempotency.testing.processes.forks import CannotFork
from django_idempotency.testing.processes.races import race
from tests.app.models import Child, Payment, Unique
from tests.kit.gallery import ACCOUNT, wait_for

pytestmark = [pytest.mark.django_db(transaction=True, databases=["default", "other"]), pytest.mark.race]


@pytest.fixture(autouse=True)
def _gallery(settings):
    settings.ROOT_URLCONF = "tests.kit.gallery"


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


def test_what_differs_from_run_to_run_is_no_alarm():
    """Random values and copies of numbers; but rows still count."""
    assert race(post("differs"), processes=2).executed == 1

    assert Payment.objects.count() == 2


def test_a_used_key_is_told():
    """All would be replays."""
    post("right")("used")

    with pytest.raises(NotProved, match="answered by a replay: its key was used before"):
        race(post("right"), processes=2, key="used")


def test_a_call_that_does_nothing_is_told():
    """Unless its author says that it leaves no trace."""
    with pytest.raises(NotProved, match="changed nothing that can be seen"):
        race(post("idle"), processes=2)

    assert race(post("idle"), processes=2, effect=False).executed == 1


def test_one_pattern_is_no_row_of_patterns():
    """The characters of a bare text would leave out everything."""
    with pytest.raises(NotProved, match="done again"):
        race(post("unprotected"), processes=2, ignore="audit_*")


def test_a_large_table_is_not_read_where_it_is_ignored():
    """Or the limit is raised."""
    Unique.objects.bulk_create(Unique(name=str(number)) for number in range(400))

    with pytest.raises(TableTooLarge, match="app_unique"):
        race(post("right"), processes=2, limit=300)
    assert race(post("right"), processes=2, limit=300, ignore="app_uni*")


# What is said of each wrong view.
WRONG = {
    "look-first": ["8 times at once with one key", "reference='around'", "instead of once", "before the claim"],
    "names-its-process": ["different final answers: 1 x 201 b'"],
    "unprotected": ["A duplicate with the same key is done again"],
}


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_view_is_caught(name):
    """The failure says what was done more than once, or answered otherwise, and what to do."""

    resets = []

    def reset() -> None:
        resets.append(Payment.objects.all().delete())
        if len(resets) == 2:  # the single runs are over
            wait_for(2)

    with pytest.raises(NotProved) as caught:
        race(post(name), reset=reset)

    told = str(caught.value)
    assert [words for words in WRONG[name] if words not in told] == [], told


@pytest.mark.django_db(transaction=False)
def test_a_transaction_of_the_test_is_told():
    """Where the test holds a transaction no other process sees its rows: the error says what to use."""
    with pytest.raises(CannotFork, match=r"django_db\(transaction=True\)"):
        race(post("right"))


# --- a key each ---


def test_requests_with_keys_of_their_own_leave_what_they_leave_without_protection():
    """Each executes, and what they left is there to be looked at."""
    report = race(post("right"), processes=3, keys="each")

    assert report.executed == 3
    assert Payment.objects.count() == 3


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "locks-for-the-session",
            ["leave without protection", "instead of once", "pg_advisory_lock"],
        ),
        ("locks-nothing", ["disturb each other, with and without protection"]),
    ],
)
def test_a_lock_that_is_let_go_before_commit_is_told(name, told, vendor):
    """Two requests get the same number; and a view that keeps nothing apart by itself is not blamed on protection."""
    if vendor == "sqlite":
        pytest.skip("SQLite has one writer, which the claim is")
    resets = []

    def reset() -> None:
        resets.append(Payment.objects.all().delete())
        if len(resets) > 2:  # the requests that are sent alone are over
            wait_for(4)

    with pytest.raises(NotProved) as caught:
        race(post(name), processes=4, keys="each", reset=reset)

    assert [words for words in told if words not in str(caught.value)] == [], caught.value
    assert Payment.objects.count() == 0


def test_a_lock_that_is_held_until_commit_is_right(vendor):
    """All numbers are given out once."""
    if vendor == "sqlite":
        pytest.skip("SQLite has no such locks")
    Unique.objects.create(name="lock")

    race(post("locks-until-commit"), processes=4, keys="each")

    assert sorted(Payment.objects.values_list("amount", flat=True)) == [1, 2, 3, 4]


def test_keys_and_key_must_agree():
    """One key cannot be each one's own."""
    with pytest.raises(ValueError, match="is a callable that makes a key"):
        race(post("right"), key="one", keys="each")
    with pytest.raises(ValueError, match="'one' or 'each', not 'all'"):
        race(post("right"), keys="all")
