"""What differs in two runs that nothing disturbs is left out of the comparison; all else, and every row, counts."""

import secrets
import uuid

import pytest
from django.db.models import F

from django_idempotency.testing.compare.equivalence import differences
from django_idempotency.testing.compare.shapes import Shape
from django_idempotency.testing.compare.snapshots import Changes, TableChanges, TableName, snapshot
from django_idempotency.testing.compare.variations import explain_differences, find_varying, mask
from tests.app.models import Child, Payment

pytestmark = pytest.mark.django_db


def changes(work):
    before = snapshot()
    work()
    return before.changes(snapshot())


def pay(amount=10, reference="paid"):
    return Payment.objects.create(amount=amount, reference=reference)


def columns(first, second):
    return {f"{place.table}.{column}" for place, column in find_varying(first, second)}


def problems_of(first, second, third):
    """What is said of a third run, by what two have shown."""
    found = find_varying(first, second)
    return [str(each) for each in explain_differences(mask(third, found), mask(first, found))]


def test_only_the_column_that_differs_is_left_out():
    """Not the column beside it, nor a reference to the row."""

    def work():
        Child.objects.create(payment=pay(reference=secrets.token_hex(5)))

    first, second, third = (changes(work) for _ in range(3))

    assert columns(first, second) == {"app_payment.reference"}
    assert problems_of(first, second, third) == []
    (told, child) = problems_of(first, second, changes(lambda: Child.objects.create(payment=pay(11, "x"))))
    assert "amount=10, reference='(varies)': differs in column amount: name `app_payment.amount` in `ignore`" in child
    assert "differs in column payment_id" in told


def test_rows_count_all_the_same():
    """Whatever stands in them."""

    def work():
        pay(reference=secrets.token_hex(5))

    first, second = changes(work), changes(work)

    (told,) = problems_of(first, second, changes(lambda: [work(), work()]))
    assert told.endswith("reference='(varies)': twice instead of once")
    (told,) = problems_of(first, second, changes(lambda: None))
    assert told.endswith("never instead of once")


def test_a_row_that_was_there_and_gets_a_random_value():
    """That it changed counts; what it got does not."""
    account = pay(100, "account")

    def rotate():
        Payment.objects.filter(pk=account.pk).update(reference=secrets.token_hex(5))

    first, second = changes(rotate), changes(rotate)

    assert columns(first, second) == {"app_payment.reference"}
    assert problems_of(first, second, changes(rotate)) == []
    (told,) = problems_of(first, second, changes(lambda: None))
    assert told.endswith("never instead of once")


def test_values_that_change_places():
    """Two rows that get the same two values, one time so and one time otherwise."""
    first = changes(lambda: [pay(1, "a"), pay(2, "b")])
    second = changes(lambda: [pay(1, "b"), pay(2, "a")])

    assert columns(first, second)
    assert problems_of(first, second, second) == []


def test_runs_that_differ_in_rows_have_no_column_in_common():
    """Nothing may be left out for that."""
    first, second = changes(pay), changes(lambda: [pay(), pay(11)])

    assert columns(first, second) == set()
    assert problems_of(first, second, second)


def test_a_step_that_was_taken_again():
    """A multiple of a number's change is the same change done again."""
    account = pay(100, "account")

    def charge():
        Payment.objects.filter(pk=account.pk).update(amount=F("amount") - 10)

    first, second = changes(charge), changes(charge)

    assert columns(first, second) == set()
    (told,) = problems_of(first, second, changes(lambda: [charge(), charge(), charge()]))
    assert told.endswith("amount='-10': 3 times instead of once")
    (told,) = problems_of(first, second, changes(lambda: Payment.objects.update(amount=F("amount") - 15)))
    assert "differs in column amount" in told


@pytest.mark.parametrize("kept", [str, lambda value: value.hex])
@pytest.mark.parametrize("copied", [str, lambda value: value.hex])
def test_a_generic_reference_to_a_random_key_in_either_spelling(kept, copied):
    """A database keeps a UUID as it likes; whoever copies it spells it as they like."""
    payment = Shape(key=("id",), made=frozenset({"id"}))
    note = Shape(generic=frozenset({"object_id"}))

    def run():
        key = uuid.uuid4()
        return Changes(
            {
                TableName("default", "payment"): TableChanges(payment, added=({"id": kept(key)},)),
                TableName("default", "note"): TableChanges(note, added=({"object_id": copied(key)},)),
            }
        )

    assert differences(run(), run()) == []
