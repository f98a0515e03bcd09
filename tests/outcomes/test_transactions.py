"""The law and Django's own ways with transactions: savepoints, hooks, outer blocks, tests, isolation, two databases."""

import logging

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, connections, transaction
from django.test import TestCase
from django.urls import path
from rest_framework.permissions import BasePermission
from rest_framework.test import APIClient

from django_idempotency import idempotent
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Child, Payment, Unique
from tests.app.serving import VENDOR, drf_class, is_replay, plain, post
from tests.app.views import answer, make_payment
from tests.conftest import authenticated

committing = pytest.mark.django_db(transaction=True)

# --- savepoints ---


@committing
def test_a_savepoint_that_the_handler_rolls_back_takes_only_its_own_work(protect, client, serve, atomic_requests):
    """A handler may try something in an `atomic` of its own: what it catches outside of that block harms nothing."""

    def handler(request):
        Unique.objects.create(name="one")
        try:
            with transaction.atomic():
                Payment.objects.create(amount=1)
                Unique.objects.create(name="one")
        except IntegrityError:
            pass  # tried, and it was there
        return make_payment(request)

    serve(protect(handler))

    first, second = post(client), post(client)

    assert first.status_code == second.status_code == 201
    assert first.content == second.content
    assert [payment.amount for payment in Payment.objects.all()] == [10]


@committing
def test_set_rollback_in_an_inner_block_undoes_that_block_alone(protect, client, serve, atomic_requests):
    """The flag is Django's, for the innermost block: the answer and the rest of the work are kept."""

    def handler(request):
        with transaction.atomic():
            Payment.objects.create(amount=1)
            transaction.set_rollback(True)
        return make_payment(request)

    serve(protect(handler))

    assert post(client).status_code == 201
    assert is_replay(post(client))
    assert [payment.amount for payment in Payment.objects.all()] == [10]


@committing
def test_a_deferred_constraint_that_holds_at_commit_is_no_obstacle(protect, client, serve, atomic_requests, vendor):
    """A child may come before its parent, where the database looks at COMMIT only."""

    def handler(request):
        payment = Payment(pk=1_000_001, amount=1)
        if vendor in ("mariadb", "mysql"):  # InnoDB defers nothing
            payment.save()
        Child.objects.create(payment=payment)
        payment.save()
        return answer(request, {})

    serve(protect(handler))

    assert post(client).status_code == 201
    assert is_replay(post(client))
    assert Child.objects.get().payment.amount == 1


# --- hooks ---


@committing
def test_an_on_commit_hook_runs_for_the_execution_and_never_for_a_replay(protect, client, serve, atomic_requests):
    """A hook is part of the one execution, and sees its work committed."""
    seen = []

    def handler(request):
        transaction.on_commit(lambda: seen.append(connection.in_atomic_block))
        return make_payment(request)

    serve(protect(handler))

    for _ in range(3):
        assert post(client).status_code == 201
    assert seen == [False]


@committing
def test_an_on_commit_hook_does_not_run_for_what_is_rolled_back(protect, client, serve, atomic_requests):
    """A refusal takes its hooks with it."""
    seen = []

    def handler(request):
        transaction.on_commit(lambda: seen.append(1))
        return answer(request, {}, 400)

    serve(protect(handler))

    assert post(client).status_code == 400
    assert seen == []


# --- outer blocks and tests ---


@committing
def test_an_outer_block_that_rolls_back_takes_the_record_with_it(protect, client, serve):
    """What rolls back is forgotten, whoever rolls it back."""
    serve(protect(make_payment))

    with transaction.atomic():
        first = post(client)
        assert is_replay(post(client))  # inside the block it is there
        transaction.set_rollback(True)
    second = post(client)

    assert first.status_code == second.status_code == 201
    assert not is_replay(second)
    assert Payment.objects.count() == 1


@committing
def test_an_outer_block_that_commits_keeps_both(protect, client, serve):
    """The record and the work are part of whatever they are made in."""
    serve(protect(make_payment))

    with transaction.atomic():
        first = post(client)
    second = post(client)

    assert is_replay(second)
    assert first.content == second.content


@committing
def test_a_refusal_does_not_roll_an_outer_block_back(protect, client, serve):
    """Only the handler's own work goes."""
    serve(protect(lambda request: (make_payment(request), answer(request, {}, 422))[1]))

    with transaction.atomic():
        Payment.objects.create(amount=1)
        assert post(client).status_code == 422

    assert [payment.amount for payment in Payment.objects.all()] == [1]


class PayInATestCase(TestCase):
    """Users test their views in `TestCase`, inside its transactions."""

    def setUp(self):
        self.client = authenticated(User.objects.create_user("payer"))

    def test_a_retry_is_replayed(self):
        """The record is there for the rest of the test."""
        first, second = (self.client.post("/pay/", {"amount": 1}, headers={"Idempotency-Key": "k"}) for _ in range(2))

        assert first.status_code == second.status_code == 201
        assert first.content == second.content
        assert is_replay(second)
        assert Payment.objects.count() == 1

    def test_the_next_test_finds_nothing(self):
        """TestCase's rollback takes the records like all else: the same key is new again."""
        assert not IdempotencyRecord.objects.exists()
        response = self.client.post("/pay/", {"amount": 1}, headers={"Idempotency-Key": "k"})

        assert response.status_code == 201
        assert not is_replay(response)

    def test_a_refusal_is_rolled_back(self):
        """A savepoint does the same for a refusal as the transaction would."""
        response = self.client.post("/pay/", {}, headers={"Idempotency-Key": "k"})

        assert response.status_code == 500
        assert not IdempotencyRecord.objects.exists()
        assert not Payment.objects.exists()

    def test_hooks_are_captured(self):
        """`captureOnCommitCallbacks` sees the execution's hooks once, and those of a replay never."""
        hooks = []

        @idempotent
        def view(request):
            transaction.on_commit(lambda: hooks.append(1))
            return make_payment(request)

        with self.settings(ROOT_URLCONF=(path("act/", view),)):
            with self.captureOnCommitCallbacks(execute=True) as first:
                assert post(self.client).status_code == 201
            with self.captureOnCommitCallbacks(execute=True) as second:
                assert is_replay(post(self.client))

        assert (len(first), len(second), hooks) == (1, 0, [1])


# --- several databases ---

both = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@both
def test_using_names_the_database_that_the_handler_writes_to(protect, client, serve):
    """Claim, work and record are all in that database, and commit there together."""
    serve(
        protect(
            lambda request: answer(request, {"id": Payment.objects.using("other").create(amount=1).pk}), using="other"
        )
    )

    first, second = post(client), post(client)

    assert first.content == second.content
    assert is_replay(second)
    assert Payment.objects.using("other").count() == IdempotencyRecord.objects.using("other").count() == 1
    assert not IdempotencyRecord.objects.exists()


@both
def test_a_refusal_rolls_back_in_the_named_database(protect, client, serve):
    """`using` moves the whole law."""

    def handler(request):
        Payment.objects.using("other").create(amount=1)
        return answer(request, {}, 422)

    serve(protect(handler, using="other"))

    assert post(client).status_code == 422
    assert not Payment.objects.using("other").exists()
    assert not IdempotencyRecord.objects.using("other").exists()


@both
def test_reads_of_another_database_are_not_warned_of(protect, client, serve, caplog):
    """A look-up elsewhere breaks nothing."""
    serve(protect(lambda request: (Payment.objects.using("other").count(), make_payment(request))[1]))

    with caplog.at_level(logging.WARNING, "django_idempotency"):
        assert post(client).status_code == 201

    assert not [record for record in caplog.records if record.name == "django_idempotency"]


# --- isolation levels ---

LEVELS = {
    "postgresql": ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"],
    "mariadb": ["read committed", "repeatable read", "serializable"],
    "sqlite": [None],  # has but one
}[VENDOR]


@pytest.fixture(params=LEVELS)
def isolation_level(request):
    """The level that Django's `OPTIONS` set for every connection."""
    level = request.param
    options = connections["default"].settings_dict["OPTIONS"]
    before = dict(options)
    if VENDOR == "postgresql":
        from django.db.backends.postgresql.psycopg_any import IsolationLevel

        options["isolation_level"] = IsolationLevel[level.replace(" ", "_")]
    elif level is not None:
        options["isolation_level"] = level
    connection.close()
    yield level
    options.clear()
    options.update(before)
    connection.close()


def shown_level() -> str:
    with connection.cursor() as cursor:
        if VENDOR == "postgresql":
            cursor.execute("SHOW transaction_isolation")
        else:
            cursor.execute("SHOW VARIABLES WHERE variable_name IN ('transaction_isolation', 'tx_isolation')")
        return cursor.fetchone()[-1].replace("-", " ")


@committing
def test_an_isolation_level_changes_nothing(isolation_level, protect, client, serve, atomic_requests):
    """Execution, replay, reuse, refusal and expiry are the same at each of them."""
    levels = []

    def handler(request):
        if VENDOR != "sqlite":
            levels.append(shown_level().casefold())
        return make_payment(request) if request.headers.get("X-Refuse") is None else answer(request, {}, 422)

    serve(protect(handler))

    assert post(client, headers={"X-Refuse": "1"}).status_code == 422
    first, second = post(client), post(client)
    assert (first.status_code, second.content, is_replay(second)) == (201, first.content, True)
    assert post(client, {"amount": 11}).json()["code"] == "key-reused"
    assert Payment.objects.count() == 1
    assert levels == ([] if VENDOR == "sqlite" else [isolation_level.casefold()] * 2)


@committing
@pytest.mark.parametrize("at", ["the claim", "the snapshot"])
def test_a_rival_that_committed_after_our_snapshot(isolation_level, user, serve, background, atomic_requests, at):
    """
    Its answer is replayed where a new statement or a new transaction of ours can see it. Inside an outer transaction
    with an older snapshot it is 409 and a later retry, never a second execution and never a 503.
    """
    rivals = []

    class RivalComesFirst(BasePermission):
        """Between our first statements and our claim, a rival with the same key starts, executes and commits."""

        def has_permission(self, request, view):
            if "X-Rival" not in request.headers:
                if at == "the snapshot":
                    Unique.objects.count()
                if VENDOR != "sqlite" or not atomic_requests:  # where we are SQLite's one writer, there is no rival
                    rivals.append(background(post, authenticated(user), headers={"X-Rival": "1"}).result())
            return True

    serve(drf_class(make_payment, permission_classes=[RivalComesFirst]))

    ours = post(authenticated(user))

    assert Payment.objects.count() == 1
    snapshot_is_older = atomic_requests and isolation_level not in (None, "READ COMMITTED", "read committed")
    for rival in rivals:
        assert rival.status_code == 201
        if ours.status_code == 409:
            assert snapshot_is_older
            assert ours.json()["code"] == "request-in-progress"
            assert int(ours["Retry-After"]) >= 1
        else:
            assert is_replay(ours)
            assert ours.content == rival.content
    if rivals and VENDOR == "postgresql" and snapshot_is_older:
        assert ours.status_code == 409
    assert is_replay(post(authenticated(user)))


@committing
def test_a_duplicate_in_flight_is_seen_at_every_level(
    isolation_level, serve, background, gate, slow_payment, atomic_requests
):
    """A duplicate gets 409 at once, at each level (SQLite, which has one writer, is slower: see the edges)."""
    serve(plain(slow_payment, scope=lambda request: "one"))
    if VENDOR == "sqlite":
        gate.open()
    first = background(post, APIClient())
    gate.reached()
    if VENDOR != "sqlite":
        second = post(APIClient())
        assert (second.status_code, second.json()["code"]) == (409, "request-in-progress")
        assert not IdempotencyRecord.objects.exists()
    gate.open()
    assert first.result().status_code == 201
    assert is_replay(post(APIClient()))
    assert Payment.objects.count() == 1
