"""What is said of an outcome, and of whose: answers, signals and logs when operations meet inside one request."""

from contextvars import copy_context
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.http import Http404

from django_idempotency import once, signals
from django_idempotency.exceptions import CommittedEarly, KeyReused, StoreUnavailable
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment, Unique
from tests.app.serving import hearing, is_replay, post
from tests.app.views import answer, make_payment

pytestmark = pytest.mark.django_db(transaction=True)


@once("announcements.inner", key=lambda event: event["id"], fingerprint=lambda event: bytes([event["amount"]]))
def inner(event):
    return event["amount"]


def run_sql(*statements):
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@pytest.fixture
def heard():
    """The signals that are sent, in their order: name and arguments."""
    with hearing() as heard:
        yield heard


# --- refusals of other operations ---


@pytest.mark.parametrize("key", ["key-1", None], ids=["with a key", "without one"])
def test_the_refusal_of_an_inner_operation_is_not_the_views_own(client, protect, serve, atomic_requests, key):
    """The client's key is not at fault: it is an error of the handler like any other, and rolls back as it would."""
    inner({"id": "e1", "amount": 1})

    def handler(request):
        make_payment(request)
        inner({"id": "e1", "amount": 2})

    serve(protect(handler))

    response = post(client, key=key)

    assert response.status_code == 500
    # Without a key and a transaction the handler is on its own, as it was without us.
    assert Payment.objects.count() == (key is None and not atomic_requests)


def test_an_inner_store_that_is_away_does_not_say_that_nothing_was_done(client, protect, serve):
    """503 is the answer to a request that was not executed; this one was, in part."""

    def handler(request):
        make_payment(request)
        raise StoreUnavailable

    serve(protect(handler))

    assert post(client).status_code == 500
    assert not Payment.objects.exists()


# --- receivers ---


def test_a_receivers_database_error_does_not_undo_the_work(client, protect, serve, atomic_requests, caplog):
    """A receiver that fails is logged; 201 is never sent for work that rolled back."""
    Unique.objects.create(name="taken")

    def receive(**kwargs):
        Unique.objects.create(name="taken")

    signals.operation_executed.connect(receive)
    try:
        serve(protect(make_payment))
        response = post(client)
    finally:
        signals.operation_executed.disconnect(receive)

    assert response.status_code == 201
    assert Payment.objects.count() == IdempotencyRecord.objects.count() == 1
    assert is_replay(post(client))


def test_an_inner_operation_that_is_rolled_back_is_not_announced_as_executed(client, protect, serve, heard):
    """It stands when the outer one has committed, and not before."""

    def handler(request):
        inner({"id": "e1", "amount": 1})
        return answer(request, {}, 400)

    serve(protect(handler))
    post(client)

    heard = [(name, about["identity"].operation) for name, about in heard]
    assert ("executed", "announcements.inner") not in heard


def test_a_replay_that_the_guard_refuses_is_not_announced(client, protect, serve, heard):
    """Nobody got the answer, so nothing was replayed."""

    def guard(request, record):
        raise Http404

    serve(protect(make_payment, replay_guard=guard))

    assert [post(client).status_code for _ in range(2)] == [201, 404]
    assert [name for name, _ in heard] == ["executed"]


# --- handlers that commit by themselves ---


def commits_and_refuses(request):
    make_payment(request)
    run_sql("COMMIT")
    return answer(request, {}, 400)


def commits_and_raises(request):
    make_payment(request)
    run_sql("COMMIT")
    raise Http404


@pytest.mark.parametrize("handler", [commits_and_refuses, commits_and_raises])
def test_what_was_committed_before_a_refusal_is_unsettled(client, protect, serve, heard, handler, caplog):
    """The work is committed and the claim stays: it is logged and signalled as that, not as rolled back."""
    serve(protect(handler))

    post(client)

    assert [name for name, _ in heard] == ["unsettled"]
    assert "Unsettled" in caplog.text
    assert IdempotencyRecord.objects.unsettled().count() == 1
    retry = post(client)
    assert (retry.status_code, retry.json()["code"]) == (409, "outcome-unknown")
    assert Payment.objects.count() == 1


def test_a_hooks_own_commit_is_not_blamed_on_the_operation(client, protect, serve, caplog):
    """The record of the first is stored and stays; what the hook started is another operation."""

    @once("announcements.hook", key=str)
    def commits(event):
        run_sql("COMMIT")

    def handler(request):
        transaction.on_commit(lambda: commits("e1"))
        return make_payment(request)

    serve(protect(handler))
    assert post(client).status_code == 500

    unsettled = IdempotencyRecord.objects.unsettled().get()
    assert unsettled.operation == "announcements.hook"
    messages = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Unsettled")]
    assert messages == [f"Unsettled {unsettled} (announcements.hook): its handler ended the transaction by itself"]
    assert is_replay(post(client))


def test_commit_errors_name_the_remedy():
    """Whoever reads the log finds what to take out."""
    assert "settle this identity" in str(CommittedEarly())


# --- the handle, and the lifetime ---


def test_the_handle_is_there_for_replays_and_refusals(client, protect, serve, settings):
    """A middleware may ask for it whatever came of the request."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.note_handle"]
    handles.clear()
    serve(protect(make_payment))

    post(client)
    post(client)
    post(client, {"amount": 99})

    assert [handle is None for handle in handles] == [False, True, True]


handles = []


def note_handle(get_response):
    def middleware(request):
        response = get_response(request)
        handles.append(request.idempotency)
        return response

    return middleware


def test_a_record_lives_from_its_completion_on(client, protect, serve):
    """A handler that takes longer than the lifetime still leaves a record that answers."""
    ttl, took = timedelta(hours=24), timedelta(hours=30)

    def handler(request):
        IdempotencyRecord.objects.update(executed_at=F("executed_at") - took, expires_at=F("expires_at") - took)
        return make_payment(request)

    serve(protect(handler, ttl=ttl))
    post(client)
    record = IdempotencyRecord.objects.get()

    assert abs(record.expires_at - record.executed_at - took - ttl) < timedelta(minutes=1)
    assert is_replay(post(client))


def test_a_short_handler_leaves_the_lifetime_alone(client, protect, serve):
    """The column in the index is not written anew where it makes less than one percent."""
    serve(protect(make_payment))
    post(client)
    record = IdempotencyRecord.objects.get()

    assert record.expires_at - record.executed_at == timedelta(hours=24)


# --- what outlives the handler, and what it leaves behind ---


def test_an_execution_that_is_over_is_not_joined(client, protect, serve):
    """A context that was copied in the handler goes on after it: what it calls is a redelivery, not a part of it."""

    @once("announcements.copied", key=str)
    def pay(event):
        Payment.objects.create(amount=10)
        context = copy_context()
        transaction.on_commit(lambda: context.run(pay, event))
        return Payment.objects.count()

    assert pay("e1") == 1
    assert pay("e1") == 1
    assert Payment.objects.count() == 1


@pytest.mark.parametrize("name", ["replayed", "refused"])
def test_no_receiver_undoes_the_work_around_an_operation(name):
    """A receiver's database error is its own, whatever it is told of, in whatever transaction that happens."""
    Unique.objects.create(name="taken")
    inner({"id": "e1", "amount": 1})

    def receive(**kwargs):
        Unique.objects.create(name="taken")

    getattr(signals, f"operation_{name}").connect(receive)
    try:
        with transaction.atomic():
            Payment.objects.create(amount=5)
            if name == "replayed":
                inner({"id": "e1", "amount": 1})
            else:
                with pytest.raises(KeyReused):
                    inner({"id": "e1", "amount": 2})
    finally:
        getattr(signals, f"operation_{name}").disconnect(receive)

    assert Payment.objects.count() == 1


def test_a_receiver_in_a_transaction_without_autocommit(heard):
    """`set_autocommit(False)` knows no hooks: the signal is sent at once, and the work stands when it is committed."""
    transaction.set_autocommit(False)
    try:
        assert inner({"id": "e1", "amount": 1}) == 1
        transaction.commit()
    finally:
        transaction.set_autocommit(True)

    assert [name for name, _ in heard] == ["executed"]
    assert IdempotencyRecord.objects.count() == 1


def test_an_atomic_block_that_is_left_open_is_an_error(client, protect, serve, atomic_requests):
    """A generator that was not read to its end holds a block: 201 is not sent for what cannot commit."""
    held = []

    def rows():
        with transaction.atomic():
            yield from Payment.objects.all()
            yield None

    def handler(request):
        response = make_payment(request)
        held.append(rows())
        next(held[0])
        return response

    serve(protect(handler))

    assert post(client).status_code == 500
    assert not Payment.objects.exists()
    assert not IdempotencyRecord.objects.exists()
    held[0].close()
    serve(protect(make_payment))
    assert post(client).status_code == 201
    assert is_replay(post(client))
    assert Payment.objects.count() == 1


def test_a_refusal_from_a_callable_of_the_policy_is_not_about_the_key(client, protect, serve):
    """`scope` may ask an operation of its own; that one's refusal says nothing of this request."""
    inner({"id": "e1", "amount": 1})

    def scope(request):
        return str(inner({"id": "e1", "amount": 2}))

    serve(protect(make_payment, scope=scope))

    assert post(client).status_code == 500


def test_an_inner_commit_elsewhere_does_not_unsettle_the_outer_operation(client, protect, serve, heard):
    """The error passes through; whose claim it is stays what it was."""

    def handler(request):
        make_payment(request)
        raise_early_commit()

    def raise_early_commit():
        error = CommittedEarly()
        error.identity = object()  # as an inner operation on another database leaves it
        raise error

    serve(protect(handler))

    assert post(client).status_code == 500
    assert [name for name, _ in heard] == ["forgotten"]
    assert not Payment.objects.exists()


def test_a_hook_that_raises_does_not_hide_the_execution(client, protect, serve, heard):
    """The work is committed and will be replayed: it counts."""

    def handler(request):
        transaction.on_commit(lambda: 1 / 0)
        return make_payment(request)

    serve(protect(handler))

    assert post(client).status_code == 500
    assert [name for name, _ in heard] == ["executed"]
    assert is_replay(post(client))
