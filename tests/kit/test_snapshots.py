"""Snapshots see every row of every table, say what changed, and compare two runs by content."""

import uuid
from datetime import timedelta

import pytest
from django.contrib.auth.models import Group, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.db import connection, connections
from django.db.models import F
from django.utils import timezone
from rest_framework.authtoken.models import Token

from django_idempotency.testing import TableTooLarge, differences, equivalent, forget, snapshot
from tests.app.models import Child, Payment, Unique
from tests.app.serving import post

pytestmark = pytest.mark.django_db


def changes(work, **more):
    """What *work* changes."""
    before = snapshot(**more)
    work()
    return before.changes(snapshot(**more))


def pay(amount=10, reference="paid"):
    return Payment.objects.create(amount=amount, reference=reference)


def tables(found):
    return {place.table for place in found.tables}


# --- what is seen ---


def test_rows_that_were_added_changed_and_removed_are_told():
    """By table and by column, with their values."""
    kept, gone = pay(1, "kept"), pay(2, "gone")

    def work():
        pay(3, "new")
        Payment.objects.filter(pk=kept.pk).update(amount=5)
        Payment.objects.filter(pk=gone.pk).delete()

    found = changes(work)

    assert str(found).splitlines() == [
        "database 'default', table app_payment: 1 row added, 1 row removed, 1 row changed",
        f"  + id={gone.pk + 1} (new), amount=3, reference='new'",
        f"  - id={gone.pk}, amount=2, reference='gone'",
        f"  ~ id={kept.pk}: amount 1 -> 5",
    ]


def test_nothing_is_no_change():
    """Reading is not one, nor is a row that is written as it was, nor one that is gone again."""
    payment = pay()

    def work():
        payment.save()
        pay().delete()

    assert not changes(work)
    assert str(changes(work)) == "nothing changed"


def test_numbers_and_times_are_explained():
    """What another run would make anew is told from what it would repeat."""
    user = User.objects.create_user("payer")
    told = str(changes(lambda: Token.objects.create(user=user)))

    assert f"user_id={user.pk}," in told + ","
    assert " (now)" in told
    assert " (new)" in str(changes(pay))


def test_tables_of_all_kinds_are_seen():
    """Many-to-many tables and children, texts and times."""
    user, group = User.objects.create_user("payer"), Group.objects.create(name="payers")

    def work():
        user.groups.add(group)
        Child.objects.create(payment=pay())
        Token.objects.create(user=user)

    assert tables(changes(work)) == {"auth_user_groups", "app_child", "app_payment", "authtoken_token"}


@pytest.mark.django_db(transaction=True)
def test_a_table_without_a_model_is_seen():
    """With a primary key, and without one, where rows that are alike are counted."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kit_log (line varchar(20))")
        cursor.execute("CREATE TABLE kit_job (id integer PRIMARY KEY, state integer)")
        try:
            cursor.execute("INSERT INTO kit_log VALUES ('a'), ('b')")
            cursor.execute("INSERT INTO kit_job VALUES (1, 0)")

            def work():
                cursor.execute("INSERT INTO kit_log VALUES ('a'), ('a')")
                cursor.execute("UPDATE kit_job SET state = 1")
                cursor.execute("INSERT INTO kit_job VALUES (2, 0)")

            found = changes(work)
        finally:
            cursor.execute("DROP TABLE kit_log")
            cursor.execute("DROP TABLE kit_job")

    (jobs, log) = found.tables.values()
    assert [row["line"] for row in log.added] == ["a", "a"]
    assert jobs.changed == (({"id": 1, "state": 0}, {"id": 1, "state": 1}),)
    assert jobs.shape.key == ("id",)
    assert jobs.shape.made == {"id"}


ODD = {"sqlite": ("", "'a'"), "postgresql": ("point", "point(1, 2)"), "mysql": ("year", "2026")}


@pytest.mark.django_db(transaction=True)
def test_a_column_whose_type_django_does_not_know_is_read():
    """On SQLite a column need not have one."""
    kind, value = ODD[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE kit_odd (odd {kind})")
        try:
            found = changes(lambda: cursor.execute(f"INSERT INTO kit_odd VALUES ({value})"))
        finally:
            cursor.execute("DROP TABLE kit_odd")

    [(table, odd)] = found.tables.items()
    assert "kit_odd" in str(table)
    assert len(odd.added) == 1


@pytest.mark.django_db(transaction=True)
def test_statistics_of_the_database_are_left_out():
    """ANALYZE writes rows of its own."""

    def work():
        pay()
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE TABLE app_payment" if connection.vendor == "mysql" else "ANALYZE")
            if connection.vendor == "mysql":
                cursor.fetchall()

    assert tables(changes(work)) == {"app_payment"}


def test_what_is_written_by_the_way_is_left_out():
    """Sessions, content types, and the package's own tables, which can be asked for."""

    def work():
        Session.objects.create(session_key="kit", expire_date=timezone.now())
        ContentType.objects.create(app_label="kit", model="kit")

    assert not changes(work)


@pytest.mark.django_db(transaction=True)
def test_own_tables_can_be_asked_for(api):
    """The record of a request, beside its payment."""
    assert tables(changes(lambda: post(api, url="/pay/", key="key-1"))) == {"app_payment"}
    assert forget("key-1") == 1
    assert tables(changes(lambda: post(api, url="/pay/", key="key-1"), own=True)) == {
        "app_payment",
        "django_idempotency_record",
    }


@pytest.mark.django_db(databases=["default", "other"])
def test_every_database_is_seen_that_the_test_may_use():
    """Or those that are named."""

    def work():
        Payment.objects.using("other").create(amount=1)

    assert [str(place) for place in changes(work).tables] == ["database 'other', table app_payment"]
    assert not changes(work, using="default")
    assert changes(work, using=["other"])


def test_a_database_that_the_test_may_not_use_is_left_out():
    """As nothing that the test calls can use it; to name it is an error."""
    assert {place.using for place in snapshot().tables} == {"default"}
    with pytest.raises(AssertionError, match="other"):
        snapshot("other")


def test_another_name_of_the_same_database_is_no_second_one(monkeypatch):
    """A replica, in a test, is its primary."""
    settings = {**connections["default"].settings_dict}
    monkeypatch.setattr(connections["other"], "settings_dict", settings)

    assert {place.using for place in snapshot().tables} == {"default"}


def test_tables_can_be_ignored():
    """By name or by pattern."""
    assert not changes(pay, ignore=["app_payment"])
    assert not changes(pay, ignore=["app_*"])
    assert changes(pay, ignore=["app"])


def test_columns_can_be_ignored():
    """One of them, or by pattern; those of the primary key are needed."""
    payment = pay()

    def work():
        Payment.objects.filter(pk=payment.pk).update(reference="seen")

    assert changes(work)
    assert not changes(lambda: Payment.objects.update(reference="again"), ignore=["app_payment.reference"])
    assert not changes(lambda: Payment.objects.update(reference="more"), ignore=["*.ref*"])
    assert changes(lambda: Payment.objects.update(reference="last"), ignore=["app_payment.id", "reference"])


def test_a_large_table_is_refused():
    """With its name: a comparison that leaves rows out would prove nothing."""
    for _ in range(3):
        pay()

    others = ["auth_*"]
    snapshot(ignore=others, limit=3)
    with pytest.raises(TableTooLarge, match=r"app_payment .* more than 2 rows"):
        snapshot(ignore=others, limit=2)


def test_many_rows_are_summed_up():
    """The text stays readable."""
    found = changes(lambda: [pay(reference="x" * 40) for _ in range(8)])

    assert len(str(found).splitlines()) == 7
    assert str(found).endswith("  … and 3 more")


# --- two runs compared ---


def run_twice(work, **more):
    """How the second of two runs of *work* differs from the first."""
    return differences(changes(lambda: work(1)), changes(lambda: work(2)), **more)


def test_numbers_of_new_rows_are_not_compared():
    """Nor is a reference to a new row, whose content counts."""

    def work(run):
        Child.objects.create(payment=pay())

    assert not run_twice(work)


def test_content_is_compared():
    """Of a new row, and of the new row that it refers to."""
    assert run_twice(lambda run: pay(amount=run))
    told = run_twice(lambda run: Child.objects.create(payment=pay(amount=run)))
    assert any("app_child" in each.place for each in told)


def test_a_reference_to_an_old_row_is_compared():
    """It is another effect where it is another row."""
    old = {1: pay(), 2: pay()}

    assert run_twice(lambda run: Child.objects.create(payment=old[run]))
    assert not run_twice(lambda run: Child.objects.create(payment=old[1]))


def test_a_second_effect_is_told():
    """With how often it was found, and how often it is expected."""
    once, twice = changes(pay), changes(lambda: [pay(), pay()])

    (again,) = differences(twice, once)
    assert (again.place, again.found, again.expected) == ("database 'default', table app_payment", 2, 1)
    assert again.what.startswith("added id=(new), amount=10, reference='paid'")
    assert str(again) == f"{again.place}: {again.what}: twice instead of once"
    (lost,) = differences(changes(lambda: None), once)
    assert (lost.found, lost.expected) == (0, 1)
    assert str(lost).endswith(": never instead of once")
    assert not equivalent(twice, once)
    assert equivalent(twice, twice)


def test_times_of_the_run_and_random_keys_are_not_compared():
    """Other times are."""

    joined = {1: timezone.now() - timedelta(days=3), 2: timezone.now() - timedelta(days=4)}
    names = ["auth_user.username", "authtoken_token.key"]

    def join(run, when=None):
        created = User.objects.create(username=uuid.uuid4().hex, date_joined=when or timezone.now())
        Token.objects.create(user=created)

    assert not run_twice(join, ignore=names)
    assert any("authtoken_token: added key=" in str(each) for each in run_twice(join, ignore=names[:1]))
    assert run_twice(lambda run: join(run, joined[run]), ignore=names)
    assert not run_twice(lambda run: join(run, joined[1]), ignore=names)


def test_numbers_of_old_rows_compare_by_how_much_they_changed():
    """An account that is charged twice in a row is charged alike."""
    account = pay(100, "account")

    def charge(amount):
        Payment.objects.filter(pk=account.pk).update(amount=F("amount") - amount)

    assert not run_twice(lambda run: charge(10))
    wanted = [f"changed id={account.pk}, amount='-{amount}'" for amount in (2, 1)]
    assert [each.what for each in run_twice(charge)] == wanted


def test_keys_in_texts_are_not_compared():
    """Where both runs had keys of their own."""
    keys = {1: str(uuid.uuid4()), 2: str(uuid.uuid4())}

    def work(run):
        pay(reference=f"{keys[run]}/x")

    assert run_twice(work)
    assert not run_twice(work, keys=keys.values())


def test_columns_and_tables_can_be_left_out():
    """By name or by pattern."""

    def work(run):
        pay(reference=str(run))

    assert run_twice(work)
    assert not run_twice(work, ignore=["app_payment.reference"])
    assert not run_twice(work, ignore=["app_pay*"])


def test_removed_rows_are_compared():
    """By all that they held."""
    for name in ("a", "b"):
        Unique.objects.create(name=name)

    assert run_twice(lambda run: Unique.objects.filter(name="ab"[run - 1]).delete())
    assert not run_twice(lambda run: None)


def test_only_times_moved_on():
    """A row in which only a time of this moment is another is no change, where that is asked."""
    user = User.objects.create_user("payer", last_login=timezone.now() - timedelta(days=1))

    def work():
        User.objects.filter(pk=user.pk).update(last_login=timezone.now())

    found = changes(work)
    assert found
    assert not found.without_times()
    assert changes(lambda: User.objects.filter(pk=user.pk).update(is_staff=True)).without_times()
    assert changes(pay).without_times()
