"""How an attempt ends, what is kept of it, and what the next one gets."""

import json
from base64 import b64decode
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone

from django_idempotency import current_operation, once
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import OutcomeUnknown, PhaseError, RequestInProgress
from django_idempotency.models import GIVEN_UP, AnswerEnd, DatabaseNow, IdempotencyRecord, PhasedRun
from django_idempotency.operations.probing import Outcome, Probes
from django_idempotency.probes import NOT_DONE
from django_idempotency.stores import stores
from django_idempotency.stores.database.interrupted import due
from tests.app.models import Payment
from tests.app.serving import expire, hearing, is_replay, post
from tests.app.views import make_payment
from tests.phased.conftest import ALL, effects

pytestmark = pytest.mark.django_db(transaction=True)


def end_lease():
    """As if the lease of a process that died had run out."""
    PhasedRun.objects.update(ends_at=DatabaseNow())


def code(response):
    return response.status_code, response.json()["code"]


# --- what is kept ---


@pytest.mark.parametrize("status", [400, 403, 503])
def test_an_answer_that_is_not_stored_goes_to_the_client(pay, client, status):
    """What is finished stays, the next retry goes on at once, and the client sees what the handler said."""
    script = pay()
    script.status = status
    first = post(client)
    script.status = 201
    second = post(client)

    assert (first.status_code, second.status_code) == (status, 201)
    assert effects() == ALL
    assert second.json() == first.json()


def test_an_answer_that_cannot_be_stored_is_an_error_that_can_be_resumed(pay, client):
    """With a remedied option the retry gets its answer, and nothing runs again."""
    pay(max_body=10)
    assert post(client).status_code == 500
    pay()
    assert post(client).status_code == 201
    assert effects() == ALL


def test_a_refusal_before_the_first_phase_leaves_nothing(pay, client):
    """The client mends its payload, and keeps its key."""
    script = pay()
    script.names = ()
    script.status = 400
    with hearing("forgotten") as heard:
        assert post(client).status_code == 400
    script.names, script.status = ("order",), 201

    assert len(heard) == 1
    assert not PhasedRun.objects.exists()
    assert post(client, {"amount": 11}).status_code == 201


def test_attempts_are_counted_and_end(pay, client):
    """After `max_attempts` the outcome is listed, with the phase and the error, and nothing runs any more."""
    script = pay(max_attempts=2)
    with hearing("unsettled") as heard:
        for _ in range(2):
            script.fails["charge"] = TimeoutError("the gateway is away")
            assert post(client).status_code == 500
        refused = post(client)

    assert code(refused) == (409, "outcome-unknown")
    assert script.calls == ["order", "charge", "charge"]
    run = PhasedRun.objects.get()
    assert (run.attempts, run.phase, run.error) == (2, "charge", "TimeoutError: the gateway is away")
    assert IdempotencyRecord.objects.unsettled().count() == 1
    assert len(heard) == 1


def test_a_run_that_was_given_up_is_not_probed_as_a_whole(pay, client):
    """`uncertain` is for atomic operations: what is done of this one stays."""
    asked = []
    script = pay(max_attempts=1, uncertain=lambda operation: asked.append(operation) or NOT_DONE)
    script.fails["charge"] = TimeoutError()
    post(client)
    (record,) = stores["default"].unsettled("default", 10)

    (found,) = Probes().ask_each([record])

    assert (found.outcome, asked) == (Outcome.NO_PROBE, [])
    assert code(post(client)) == (409, "outcome-unknown")


def test_attempts_that_die_are_counted_too(pay, client):
    """A phase that kills its process is not tried for ever."""
    script = pay(max_attempts=1)
    script.fails["charge"] = TimeoutError()
    assert post(client).status_code == 500
    PhasedRun.objects.update(doubt=0)  # as if the process had died before it could say so
    with hearing("unsettled") as heard:
        assert [code(post(client)) for _ in range(2)] == [(409, "outcome-unknown")] * 2

    assert PhasedRun.objects.get().doubt == GIVEN_UP
    assert len(heard) == 1


def test_a_worker_that_is_ended_gives_its_lease_back(pay, client):
    """SystemExit, as a server's signal handler raises it: the retry does not wait for the lease."""
    script = pay()
    script.fails["charge"] = SystemExit()
    with pytest.raises(SystemExit):
        post(client)

    assert post(client).status_code == 201
    assert effects() == ALL


def test_an_interrupted_run_is_no_unsettled_outcome(pay, client):
    """It is not listed, and can be resumed."""
    script = pay()
    script.fails["charge"] = TimeoutError()
    post(client)

    assert not IdempotencyRecord.objects.unsettled().exists()
    (run,) = due("default")
    assert bytes(run.digest) == bytes(IdempotencyRecord.objects.get().digest)


# --- the next request ---


def test_a_run_between_two_phases_is_in_flight_in_no_transaction(pay, client):
    """Operators do not find it, as they find no claim in flight."""
    script = pay()
    seen = []

    def look():
        digest = bytes(IdempotencyRecord.objects.get().digest)
        seen.append((connection.in_atomic_block, stores["default"].find(None, digest)))

    script.before["ship"] = look

    assert post(client).status_code == 201
    assert seen == [(False, None)]


def test_a_duplicate_waits_for_the_answer(pay, client, gate, background, user):
    """With `in_flight="wait"`; otherwise it is 409."""
    script = pay(in_flight="wait")
    script.before["ship"] = gate.wait
    first = background(post, client)
    gate.reached()
    pay()
    assert code(post(client)) == (409, "request-in-progress")
    assert code(post(client, {"amount": 11})) == (422, "key-reused")
    pay(in_flight="wait")
    second = background(post, client)
    gate.open()

    assert first.result().status_code == 201
    assert is_replay(second.result())
    assert effects() == ALL


def test_a_lease_that_has_run_out_is_taken_over(pay, client, gate, background):
    """And whoever had it commits nothing any more, not even its answer."""
    script = pay()
    script.before["ship"] = gate.wait
    first = background(post, client)
    gate.reached()
    script.before.clear()
    end_lease()
    second = post(client)
    gate.open()

    assert second.status_code == 201
    assert code(first.result()) == (409, "request-in-progress")
    assert effects() == ALL
    assert is_replay(post(client))


@pytest.mark.parametrize("place", ["in a phase", "at the end"])
def test_an_owner_that_was_frozen_commits_nothing(pay, client, gate, background, place):
    """Wherever it was: what it does there is rolled back."""
    script = pay()
    work = script.work

    def frozen(name, key):
        if name == "ship" and script.calls.count("charge") == 1 and "frozen" not in script.calls:
            script.calls.append("frozen")
            gate.wait()
        return work(name, key)

    if place == "in a phase":
        if connection.vendor == "sqlite":
            pytest.skip("a phase is the only writer there, so nobody takes its run over")
        script.work = frozen
    else:
        script.before[""] = gate.wait
    first = background(post, client)
    gate.reached()
    script.before.clear()
    end_lease()
    second = post(client)
    gate.open()

    assert second.status_code == 201
    assert code(first.result()) == (409, "request-in-progress")
    assert effects() == ALL
    assert second.content == post(client).content


def fail():
    raise TimeoutError("away")


@pytest.mark.parametrize("place", ["before a phase", "in a phase", "at the end"])
def test_a_frozen_owner_commits_nothing_although_the_run_is_not_finished(pay, client, gate, background, place):
    """The other one that took it over has not finished it either: only the token tells the two apart."""
    script = pay()
    work = script.work

    def frozen(name, key):
        if name == "ship":
            script.work = work
            gate.wait()
        return work(name, key)

    if place == "in a phase":
        if connection.vendor == "sqlite":
            pytest.skip("a phase is the only writer there, so nobody takes its run over")
        script.work = frozen
    else:
        script.before["ship" if place == "before a phase" else ""] = gate.wait
    first = background(post, client)
    gate.reached()
    script.before.clear()
    end_lease()
    script.before["ship" if place == "before a phase" else ""] = fail
    if place == "in a phase":
        script.before = {"ship": fail}
    assert post(client).status_code == 500
    script.before.clear()
    gate.open()

    assert code(first.result()) == (409, "request-in-progress")
    assert IdempotencyRecord.objects.get().status == 0
    assert effects() == (ALL if place == "at the end" else ["order", "charge"])
    assert post(client).status_code == 201
    assert effects() == ALL
    assert PhasedRun.objects.count() == 0


def test_another_payload_is_refused_at_every_state(pay, client):
    """Interrupted, unsettled and finished."""
    script = pay(max_attempts=2)
    for _ in range(2):
        script.fails["charge"] = TimeoutError()
        post(client)
        assert code(post(client, {"amount": 11})) == (422, "key-reused")
    IdempotencyRecord.objects.all().delete()
    assert post(client, key="other").status_code == 201
    assert code(post(client, {"amount": 11}, key="other")) == (422, "key-reused")


def test_the_mode_can_change_while_records_are_there(protect, serve, script, client):
    """A finished run is an ordinary record, and one that is not finished is never run by the other mode."""
    serve(protect(script, mode="phased"))
    first = post(client)
    script.fails["charge"] = TimeoutError()
    post(client, key="unfinished")
    asked = []
    serve(protect(make_payment, uncertain=lambda operation: asked.append(operation) or NOT_DONE))

    assert post(client).content == first.content
    assert code(post(client, key="unfinished")) == (409, "outcome-unknown")
    assert asked == []  # a probe of the whole operation knows nothing of the phases that are done


def test_an_atomic_record_answers_in_phased_mode(protect, serve, script, client):
    """The other way round."""
    serve(protect(make_payment))
    first = post(client)
    serve(protect(script, mode="phased"))

    assert is_replay(post(client))
    assert post(client).content == first.content
    assert script.calls == []


def test_an_expired_record_is_replaced(pay, client):
    """The key is new again."""
    pay()
    post(client)
    expire()
    again = post(client)

    assert again.status_code == 201
    assert not is_replay(again)
    assert effects() == ALL * 2


def test_a_run_does_not_expire(pay, client):
    """However long it is interrupted; the record's lifetime runs from its completion."""
    script = pay(ttl=timedelta(hours=1))
    script.fails["charge"] = TimeoutError()
    post(client)
    past = timezone.now() - timedelta(days=2)
    IdempotencyRecord.objects.update(executed_at=past, expires_at=past + timedelta(hours=1))
    PhasedRun.objects.update(executed_at=past)

    assert post(client).status_code == 201
    left = IdempotencyRecord.objects.get().expires_at - timezone.now()
    assert timedelta(minutes=59) < left <= timedelta(hours=1)


def test_tombstones_and_phases_go_together(pay, client):
    """The answer ends before the key is new again."""
    pay(tombstone_ttl=timedelta(days=1))
    post(client)
    assert AnswerEnd.objects.count() == 1
    AnswerEnd.objects.update(ends_at=DatabaseNow())
    assert code(post(client)) == (400, "key-expired")


# --- operators ---


def test_an_operator_does_not_free_what_runs(pay, client, gate, background):
    """Freeing is refused while the lease lasts."""
    script = pay()
    script.before["ship"] = gate.wait
    first = background(post, client)
    gate.reached()
    record = IdempotencyRecord.objects.get()
    with pytest.raises(RequestInProgress), transaction.atomic():
        stores["default"].free(None, bytes(record.digest), record.executed_at)
    gate.open()

    assert first.result().status_code == 201


def test_an_operator_frees_or_answers_what_was_interrupted(pay, client):
    """Nothing of the run is left then."""
    script = pay()
    store = stores["default"]
    answer = CompletionRecord(status=201, headers=(("Content-Type", "text/plain"),), body=b"done by hand")
    for key, decide in (
        ("freed", lambda row: store.free(None, bytes(row.digest), row.executed_at)),
        ("settled", lambda row: store.settle(None, bytes(row.digest), row.executed_at, answer)),
    ):
        script.fails["charge"] = TimeoutError()
        post(client, key=key)
        with transaction.atomic():
            assert decide(IdempotencyRecord.objects.get(key=key))
        assert not PhasedRun.objects.exists()

    assert post(client, key="settled").content == b"done by hand"
    assert not is_replay(post(client, key="freed"))


# --- what is kept for the resumer ---


def test_the_request_is_stored_until_the_run_ends(pay, client, user):
    """Method, path, the headers that matter, body and user, but no credential."""
    script = pay(resume_for=timedelta(hours=2))
    script.fails["charge"] = TimeoutError()
    post(client, headers={"X-Request-Id": "r-1"})
    run = PhasedRun.objects.get()
    sent = json.loads(bytes(run.sent))

    assert (sent["method"], sent["path"], sent["user"]) == ("POST", "/act/", str(user.pk))
    assert sent["user_model"] == "auth.User"
    assert json.loads(b64decode(sent["body"])) == {"amount": 10}
    assert sent["headers"]["HTTP_IDEMPOTENCY_KEY"] == "key-1"
    assert sent["headers"]["HTTP_X_REQUEST_ID"] == "r-1"
    assert "HTTP_AUTHORIZATION" not in sent["headers"]
    assert "HTTP_COOKIE" not in sent["headers"]
    left = run.resume_until - timezone.now()
    assert timedelta(hours=1, minutes=59) < left <= timedelta(hours=2)


def test_without_the_option_no_request_is_stored(pay, client):
    """Then only its client can resume it."""
    script = pay(store_request=False)
    script.fails["charge"] = TimeoutError()
    post(client)

    assert bytes(PhasedRun.objects.get().sent) == b""
    assert not due("default").exists()


# --- @once ---


def consumer(**options):
    fails = []

    @once("paid", key=lambda event: event["id"], mode="phased", **options)
    def on_paid(event):
        phase = current_operation().phase
        order = phase("order", lambda: Payment.objects.create(amount=1, reference="order").pk)
        phase("charge", lambda key: charge())
        return {"order": order}

    def charge():
        if fails:
            raise fails.pop()
        Payment.objects.create(amount=1, reference="charge")

    on_paid.fails = fails
    return on_paid


def test_an_event_is_resumed():
    """As a request."""
    on_paid = consumer()
    on_paid.fails.append(TimeoutError())
    with pytest.raises(TimeoutError):
        on_paid({"id": "e1"})
    first, second = on_paid.run({"id": "e1"}), on_paid.run({"id": "e1"})

    assert (first.replayed, second.replayed) == (False, True)
    assert first.value == second.value
    assert effects() == ["order", "charge"]


def test_a_redelivery_while_the_first_runs_is_delivered_later():
    """`RequestInProgress`, which the broker takes for a failure."""
    on_paid = consumer()
    on_paid.fails.append(TimeoutError())
    with pytest.raises(TimeoutError):
        on_paid({"id": "e1"})
    PhasedRun.objects.update(ends_at=timezone.now() + timedelta(minutes=1))

    with pytest.raises(RequestInProgress):
        on_paid({"id": "e1"})


def test_an_event_that_was_attempted_too_often_is_unknown():
    """And raises so."""
    on_paid = consumer(max_attempts=1)
    on_paid.fails.append(TimeoutError())
    with pytest.raises(TimeoutError):
        on_paid({"id": "e1"})
    with pytest.raises(OutcomeUnknown):
        on_paid({"id": "e1"})


def test_phases_after_the_handler_are_an_error():
    """A handle that is kept is of no use."""
    kept = []

    @once("kept", key=lambda event: event["id"], mode="phased")
    def keep(event):
        kept.append(current_operation())

    keep({"id": "e1"})
    with pytest.raises(PhaseError, match="'late' begins after its handler"):
        kept[0].phase("late", lambda: None)
