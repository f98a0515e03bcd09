"""Runs in phases: what operators see of them, what they decide, and what the next request gets."""

import json
import logging
import threading
from datetime import timedelta

import pytest
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.db import connection
from django.urls import path
from django.utils import timezone

from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.models import GIVEN_UP, NO_DOUBT, REFUSED, UNSURE, DatabaseNow, IdempotencyRecord, PhasedRun
from django_idempotency.operations import locations, records
from django_idempotency.operations.erasing import erase
from django_idempotency.operations.policies import Policies
from django_idempotency.operations.presentation import State, present, state
from django_idempotency.stores.database.interrupted import due
from django_idempotency.stores.database.rows import read_rows
from django_idempotency.testing.processes.forks import Process
from django_idempotency.testing.processes.points import HaltingPoints
from tests.app.serving import is_replay, post
from tests.operations.admin_urls import urlpatterns
from tests.operations.pages import decide, page, text
from tests.operations.test_show import show
from tests.operations.test_unsettled import listed, refusal, run
from tests.phased.conftest import ALL, effects, pay, script
from tests.phased.test_ends import code, end_lease

__all__ = ["pay", "script"]

pytestmark = [pytest.mark.django_db(transaction=True)]

ANSWER = CompletionRecord(status=201, headers=(("Content-Type", "application/json"),), body=b'{"by":"hand"}')
SETTLED = {"choice": "store-answer", "status": "201", "content_type": "application/json", "body": '{"by":"hand"}'}


@pytest.fixture
def edge():
    return "plain"


@pytest.fixture
def serve(settings):
    """Beside the admin's pages."""

    def serve(view):
        settings.ROOT_URLCONF = (path("act/", view), *urlpatterns)

    return serve


@pytest.fixture
def away(pay, client):
    """Let the phase `charge` fail, so often that the run is given up after its last attempt."""

    def away(attempts=2, **options):
        script = pay(max_attempts=2, **options)
        for _ in range(attempts):
            script.fails["charge"] = TimeoutError("the gateway is away")
            assert post(client).status_code == 500
        return script

    return away


def stored():
    """The run as an operator reads it."""
    location = locations.database("default")
    (found,) = read_rows(location, IdempotencyRecord.objects.using("default").filter(status=0))
    return found


def identity():
    return str(IdempotencyRecord.objects.get())


# --- what is seen ---


def test_a_run_is_running_interrupted_or_unsettled(away, client, pay, gate, background, admin_client):
    """The list says which, and its filter finds it."""
    script = pay(max_attempts=2)
    script.before["charge"] = gate.wait
    script.fails["charge"] = TimeoutError()
    first = background(post, client)
    gate.reached()
    seen = [shown_state(admin_client)]
    script.before.clear()
    gate.open()
    first.result()
    seen.append(shown_state(admin_client))
    script.fails["charge"] = TimeoutError()
    post(client)
    seen.append(shown_state(admin_client))
    post_with_answer = records.settle(stored(), ANSWER)
    seen.append(shown_state(admin_client))

    assert post_with_answer
    assert seen == ["running", "interrupted", "unsettled", "completed"]


def shown_state(client):
    """The state on the page of the record, in the list, and the one filter that finds it."""
    record = IdempotencyRecord.objects.get()
    found = [
        each for each in State.values if page("change", record) in text(client.get(page("changelist"), {"state": each}))
    ]
    [name] = found
    for shown in (client.get(page("changelist")), client.get(page("change", record))):
        assert f'<span class="idempotency-state {name}">' in text(shown)
    return name


def test_only_what_is_unsettled_is_offered_for_settling(away, client, admin_client):
    """An interrupted run can be given up, and is on no list of unsettled outcomes."""
    away(attempts=1)
    record = IdempotencyRecord.objects.get()

    shown = text(admin_client.get(page("change", record)))
    assert page("give_up", record) in shown
    assert page("settle", record) not in shown
    assert page("change", record) not in text(admin_client.get(page("unsettled")))
    assert "the record is now interrupted" in text(admin_client.get(page("settle", record), follow=True))
    assert listed() == []
    assert "is interrupted in database 'default' (--give-up makes it unsettled)" in refusal("--resume", str(record))
    assert [each["state"] for each in listed("--interrupted")] == ["interrupted"]
    assert run("--interrupted")[0].startswith("Interrupted 1 of 1, in database 'default'")


def test_what_runs_is_offered_for_nothing(pay, client, gate, background, admin_client):
    script = pay()
    script.before["charge"] = gate.wait
    first = background(post, client)
    gate.reached()
    record = IdempotencyRecord.objects.get()
    shown = text(admin_client.get(page("change", record)))
    try:
        assert page("give_up", record) not in shown
        assert page("settle", record) not in shown
        assert listed() == listed("--interrupted") == []
        assert "  state        running\n" in show("key-1")
        found = stored()
        for decision in DECISIONS.values():
            with pytest.raises(RequestInProgress):
                decision(found)
    finally:
        gate.open()
    assert first.result().status_code == 201


def test_the_pages_show_the_phases(away, admin_client):
    """Those that are finished, where it stopped, how often it was tried, why, and until when it is resumed."""
    away(store_request=True)
    record = IdempotencyRecord.objects.get()

    for name in ("change", "settle", "unsettled"):
        shown = text(admin_client.get(page(name, None if name == "unsettled" else record)))
        for part in ("order", "charge", "2 of 2", "TimeoutError: the gateway is away"):
            assert part in shown, (name, part)
    shown = text(admin_client.get(page("change", record)))
    assert "{&quot;call&quot;: 1, &quot;phase&quot;: &quot;order&quot;}" in shown
    assert "Not until an operator decides so." in shown


@pytest.mark.parametrize("is_stored", [True, False])
def test_an_interrupted_run_says_who_resumes_it(away, admin_client, is_stored):
    """The resumer needs the request, and tries for a time; its client may come back at any."""
    away(attempts=1, store_request=is_stored)

    on_page = "By a retry, or until " if is_stored else "By a retry alone."
    assert on_page in text(admin_client.get(page("change", IdempotencyRecord.objects.get())))
    assert ("by the resumer until" in run("--interrupted")[0]) is is_stored
    assert (listed("--interrupted")[0]["run"]["resume_until"] is not None) is is_stored


def test_results_need_the_permission(away, operator):
    """As stored bodies do; the names of the phases do not."""
    away()

    shown = text(operator("settle_outcome").get(page("change", IdempotencyRecord.objects.get())))

    assert "You have no permission to see results." in shown
    assert "&quot;call&quot;" not in shown
    assert "order" in shown


def test_the_commands_show_the_phases(away):
    """Results only with --body."""
    away()

    text, _ = run()
    for line in (
        "finished     order",
        "stopped in   charge",
        "attempts     2 of 2",
        "resumed      not until an operator decides so",
    ):
        assert f"\n  {line}\n" in text
    assert "\n  last error   TimeoutError: the gateway is away\n" in text
    assert listed()[0]["run"] == {
        "phases": [{"name": "order"}],
        "stopped_in": "charge",
        "has_died": False,
        "attempts": 2,
        "max_attempts": 2,
        "error": "TimeoutError: the gateway is away",
        "resume_until": None,
    }
    assert '  result       order: {"call": 1, "phase": "order"}\n' in show("key-1", "--body")
    (found,) = json.loads(show("key-1", "--json", "--body"))
    assert found["run"]["phases"] == [{"name": "order", "result": {"phase": "order", "call": 1}}]


def test_a_process_that_died_left_no_word(away):
    """What an earlier attempt said is not taken for the last one's."""
    away(attempts=1)
    PhasedRun.objects.update(ends_at=DatabaseNow())  # as if the second attempt had run until its lease was over

    run = present(stored()).run

    assert run.has_died
    assert run.stopped == "after phase order: its process ended, or lost its lease"


def test_a_run_whose_operation_is_gone_has_no_limit(away, settings):
    """The number of attempts is all that is known."""
    away()
    settings.ROOT_URLCONF = ()

    assert present(stored(), policies=Policies()).run.tried == "2"


def test_a_run_that_was_changed_by_hand_is_an_unknown_outcome(away, client):
    """A retry is refused, so a person may settle it as one without a run."""
    away(attempts=1)
    IdempotencyRecord.objects.update(head=b"{}")

    assert code(post(client)) == (409, "outcome-unknown")
    assert (state(stored()), stored().run) == (State.UNSETTLED, None)
    assert records.settle(stored(), ANSWER)
    assert is_replay(post(client))


def test_names_and_errors_are_text(pay, client, admin_client):
    """Whatever an exception says."""
    script = pay(max_attempts=1)
    script.names = ("<b>one</b>", "<b>two</b>")
    script.fails["<b>two</b>"] = TimeoutError("<script>alert(1)</script>\x1b[1m")
    post(client)
    record = IdempotencyRecord.objects.get()

    for name in ("change", "settle", "unsettled"):
        shown = text(admin_client.get(page(name, None if name == "unsettled" else record)))
        assert "<b>one" not in shown
        assert "<b>two" not in shown
        assert "<script>alert" not in shown
        assert "\x1b" not in shown


def test_erasing_leaves_an_interrupted_run(away, user):
    """As an unknown outcome: it may have taken effect."""
    away(attempts=1)
    location, scope = locations.database("default"), IdempotencyRecord.objects.get().scope

    assert (erase(location, scope).count, erase(location, scope).unsettled) == (0, 1)
    assert erase(location, scope, include_unsettled=True).count == 1
    assert not PhasedRun.objects.exists()


# --- what is decided, and what the next request gets ---


def by_page(client):
    def decided(decision):
        name = "give_up" if decision == "give-up" else "settle"
        data = {} if decision == "give-up" else {"choice": decision}
        if decision == "store-answer":
            data = SETTLED
        return text(decide(client, name, IdempotencyRecord.objects.get(), **data))

    return decided


def by_command(client):
    def decided(decision):
        name = {"store-answer": "answer"}.get(decision, decision)
        more = ("--status", "201", "--body", SETTLED["body"]) if name == "answer" else ()
        return run(f"--{name}", identity(), *more, "--reason", "Ticket 17.")[0]

    return decided


@pytest.fixture(params=[by_page, by_command])
def decided(request, admin_client):
    return request.param(admin_client)


def test_a_run_is_resumed(away, client, decided):
    """The retry goes on after the last finished phase, with attempts anew."""
    script = away()
    assert code(post(client)) == (409, "outcome-unknown")

    decided("resume")

    assert state(stored()) is State.INTERRUPTED
    assert stored().run.attempts == 0
    script.fails["charge"] = TimeoutError()
    assert post(client).status_code == 500
    assert post(client).status_code == 201
    assert effects() == ALL
    assert script.calls.count("order") == 1
    assert not PhasedRun.objects.exists()


def test_a_run_is_answered(away, client, decided):
    """Nothing runs, and nothing of the run is left."""
    script = away()

    decided("store-answer")

    assert not PhasedRun.objects.exists()
    answered = post(client)
    assert is_replay(answered)
    assert answered.content == ANSWER.body
    assert script.calls == ["order", "charge", "charge"]


def test_a_run_starts_anew(away, client, decided):
    """Finished phases too, which was said before."""
    away()

    decided("run-again")

    assert not PhasedRun.objects.exists()
    assert post(client).status_code == 201
    assert effects() == ["order", *ALL]


def test_a_run_is_given_up(away, client, decided):
    """It is unsettled, and can be resumed after all."""
    away(attempts=1)

    decided("give-up")

    assert state(stored()) is State.UNSETTLED
    assert code(post(client)) == (409, "outcome-unknown")
    assert effects() == ["order"]
    decided("resume")
    assert post(client).status_code == 201
    assert effects() == ALL


def test_the_page_warns_before_a_second_run(away, admin_client):
    """And so does the command, after it."""
    away()

    shown = text(admin_client.get(page("settle", IdempotencyRecord.objects.get())))
    assert "its finished phases take effect a second time: <strong>order</strong>" in shown
    assert "Its finished phases run again: order." in run("--run-again", identity())[0]


def test_the_resumer_gets_what_is_resumed(away, settings):
    """Its time begins anew, and is not made shorter."""
    settings.IDEMPOTENCY = {"RESUME_FOR": timedelta(hours=1)}
    away(store_request=True)
    later, past = timezone.now() + timedelta(days=3), timezone.now() - timedelta(days=1)
    PhasedRun.objects.update(resume_until=past, resume_at=later)
    IdempotencyRecord.objects.update(uncertain_until=later)

    records.resume(stored())

    assert due("default").count() == 1
    assert IdempotencyRecord.objects.get().uncertain_until is None
    left = PhasedRun.objects.get().resume_until - timezone.now()
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    records.give_up(stored())
    PhasedRun.objects.update(resume_until=later)
    records.resume(stored())
    assert PhasedRun.objects.get().resume_until - later > timedelta(minutes=-1)


def test_a_resumed_run_asks_its_probes(pay, client):
    """Although its attempts count anew: the phase may have begun."""
    asked = []
    script = pay(max_attempts=1)
    script.options["order"] = {"probe": lambda key: asked.append(key) or {"found": True}}
    script.fails["order"] = TimeoutError()
    post(client)
    records.resume(stored())

    assert post(client).json()["results"][0] == {"found": True}
    assert len(asked) == 1


def test_a_first_refusal_after_a_resume_frees_nothing(pay, client):
    """The phase of the earlier attempt may have been done."""
    script = pay(max_attempts=1)
    script.fails["order"] = TimeoutError()
    post(client)
    records.resume(stored())
    script.names, script.status = (), 400

    assert post(client).status_code == 400
    assert IdempotencyRecord.objects.exists()


def test_a_run_that_the_resumer_may_not_send_goes_on_no_more(away, client, admin_client):
    """It is unsettled, although its client may come back: who decides to keep refusing gives it up."""
    away(attempts=1, store_request=True)
    PhasedRun.objects.update(doubt=REFUSED)
    assert state(stored()) is State.UNSETTLED
    assert "By a retry alone." in text(admin_client.get(page("change", IdempotencyRecord.objects.get())))

    decide(admin_client, "settle", IdempotencyRecord.objects.get(), choice="keep-refusing")

    assert code(post(client)) == (409, "outcome-unknown")


def test_an_unsure_run_that_is_to_stay_refused_asks_no_more(pay, client, admin_client):
    """Otherwise its next retry would ask the probe again."""
    script = pay()
    script.options["order"] = {"probe": lambda key: None}
    script.fails["order"] = TimeoutError()
    post(client)
    assert code(post(client)) == (409, "outcome-unknown")
    assert (PhasedRun.objects.get().doubt, state(stored())) == (UNSURE, State.UNSETTLED)

    decide(admin_client, "settle", IdempotencyRecord.objects.get(), choice="keep-refusing")

    assert PhasedRun.objects.get().doubt == GIVEN_UP
    calls = len(script.calls)
    assert code(post(client)) == (409, "outcome-unknown")
    assert len(script.calls) == calls


# --- its trace ---


@pytest.mark.parametrize(("decision", "flag"), [("resume", CHANGE), ("run-again", DELETION), ("store-answer", CHANGE)])
def test_the_reason_is_kept(away, admin_client, admin_user, decision, flag):
    """With the decision, in one transaction."""
    away()
    of = IdempotencyRecord.objects.get()
    data = SETTLED if decision == "store-answer" else {"choice": decision}

    decide(admin_client, "settle", of, **data, reason="Ticket 17.")

    entry = LogEntry.objects.get()
    assert (entry.user, entry.action_flag, entry.object_id) == (admin_user, flag, str(of))
    assert entry.change_message.endswith("Reason: Ticket 17.")


def test_the_reason_of_a_command_is_logged(away, caplog):
    away(attempts=1)

    with caplog.at_level(logging.INFO, "django_idempotency"):
        run("--give-up", identity(), "--reason", "Ticket\x1b 17.")

    assert f"Gave {identity()} up" in caplog.messages
    assert f"The reason of the decision about {identity()}: Ticket\\x1b 17." in caplog.messages
    assert "--reason is for a decision" in refusal("--reason", "x", code=2)


@pytest.mark.parametrize("name", ["settle", "give_up"])
def test_a_failing_log_decides_nothing(away, admin_client, monkeypatch, name):
    """Both are one transaction."""
    away(attempts=2 if name == "settle" else 1)
    before = PhasedRun.objects.values().get()

    def fail(**kwargs):
        raise RuntimeError("no log")

    monkeypatch.setattr(LogEntry.objects, "create", fail)
    with pytest.raises(RuntimeError, match="no log"):
        decide(admin_client, name, IdempotencyRecord.objects.get(), choice="resume")

    assert PhasedRun.objects.values().get() == before


@pytest.mark.parametrize("permission", [None, "view_stored_response", "free_key"])
def test_giving_up_needs_the_permission_to_settle(away, operator, permission):
    away(attempts=1)
    client, record = operator(*filter(None, [permission])), IdempotencyRecord.objects.get()

    assert page("give_up", record) not in text(client.get(page("change", record)))
    assert client.post(page("give_up", record), {"reason": "x"}).status_code == 403
    assert PhasedRun.objects.get().doubt == NO_DOUBT


# --- one of two wins ---

DECISIONS = {
    "resume": records.resume,
    "answer": lambda found: records.settle(found, ANSWER),
    "run again": records.free,
    "give up": records.give_up,
}


@pytest.mark.parametrize("second", DECISIONS)
@pytest.mark.parametrize("first", DECISIONS)
def test_of_two_operators_one_decides(away, first, second):
    """Both have looked at the same run: the second is told."""
    away()
    one, other = stored(), stored()
    assert DECISIONS[first](one)
    rows = [list(model.objects.values()) for model in (IdempotencyRecord, PhasedRun)]

    with pytest.raises(RequestInProgress):
        DECISIONS[second](other)

    assert [list(model.objects.values()) for model in (IdempotencyRecord, PhasedRun)] == rows


@pytest.mark.race
@pytest.mark.parametrize("decision", DECISIONS)
def test_of_a_retry_and_an_operator_at_once_one_wins(pay, client, background, decision):
    """Either the run goes on, or the operator has decided."""
    script = pay()
    wins = []
    for number in range(8):
        key = f"race-{number}"
        IdempotencyRecord.objects.all().delete()
        before = len(effects())
        script.fails["charge"] = TimeoutError()
        post(client, key=key)
        found, start = stored(), threading.Barrier(2)

        def decide(found=found, start=start):
            start.wait()
            try:
                return DECISIONS[decision](found)
            except RequestInProgress:
                return False

        deciding = background(decide)
        start.wait()
        answered = post(client, key=key)
        done = effects()[before:]
        wins.append(deciding.result())
        if not wins[-1]:  # the retry may have met the operator's lock
            assert answered.status_code in (201, 409)
            assert post(client, key=key).status_code == 201
            assert effects()[before:] == ALL
        elif decision == "give up":
            assert (code(answered)[0], done) == (409, ["order"])
        elif decision == "answer":
            assert answered.status_code in (201, 409)
            assert (post(client, key=key).content, done) == (ANSWER.body, ["order"])
        else:
            assert post(client, key=key).status_code in (201, 409)
            assert effects()[before:] == (ALL if decision == "resume" else ["order", *ALL])


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_retry_that_was_faster_wins(away, client, decision):
    """It has gone on, perhaps further than the operator has seen, and failed again."""
    script = away(attempts=1)
    seen = stored()
    script.fails["ship"] = TimeoutError()
    assert post(client).status_code == 500
    now = stored()

    with pytest.raises(RequestInProgress):
        DECISIONS[decision](seen)

    assert stored().run == now.run


def test_a_page_that_was_opened_before_a_retry_decides_nothing(away, client, admin_client):
    """It shows where the run is now."""
    script = away()
    record = IdempotencyRecord.objects.get()
    hidden = admin_client.get(page("settle", record)).context["adminform"].form.initial
    records.resume(stored())
    script.fails["ship"] = TimeoutError()
    post(client)
    records.give_up(stored())

    response = admin_client.post(page("settle", record), {**hidden, "choice": "run-again", "reason": "x"}, follow=True)

    assert "the run has gone on since" in text(response)
    assert stored().run.finished == ("order", "charge")
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("place", ["before a phase", "in a phase", "at the end"])
def test_a_frozen_owner_commits_nothing_after_a_decision(pay, client, gate, background, decision, place):
    """Its lease has run out, an operator has decided, and it goes on."""
    script = pay(max_attempts=1)
    work = script.work
    if place == "in a phase":
        if connection.vendor == "sqlite":
            pytest.skip("a phase is the only writer there, so nobody decides about its run")
        script.work = lambda name, key: gate.wait() or work(name, key) if name == "charge" else work(name, key)
    else:
        script.before["charge" if place == "before a phase" else ""] = gate.wait
    first = background(post, client)
    gate.reached()
    script.before.clear()
    end_lease()
    if decision != "give up":
        records.give_up(stored())
    assert DECISIONS[decision](stored())
    before = IdempotencyRecord.objects.values().first()
    gate.open()

    assert code(first.result()) == (409, "request-in-progress")
    assert IdempotencyRecord.objects.values().first() == before
    assert effects() == (ALL if place == "at the end" else ["order"])


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_phase_that_is_about_to_commit_is_not_waited_for(pay, client, gate, background, decision):
    """Its process is frozen in a transaction: nothing can be decided until the server has ended that."""
    if connection.vendor == "sqlite":
        pytest.skip("its one writer is waited for")
    script = pay(max_attempts=1)
    work = script.work

    def frozen(name, key):
        result = work(name, key)
        if name == "charge":
            IdempotencyRecord.objects.filter(status=0).update(request_id="held")
            gate.wait()
        return result

    script.work = frozen
    first = background(post, client)
    gate.reached()
    end_lease()
    found = stored()
    try:
        with pytest.raises(RequestInProgress):
            DECISIONS[decision](found)
    finally:
        gate.open()
    assert first.result().status_code == 201
    assert effects() == ALL


# Of the record and the run after a decision: their status, the run's doubt and attempts, and the entries in the log.
UNTOUCHED = ([0], [(GIVEN_UP, 2)], 0)
AFTER = {
    "resume": ([0], [(NO_DOUBT, 0)], 1),
    "store-answer": ([201], [], 1),
    "run-again": ([], [], 1),
    "give-up": ([0], [(GIVEN_UP, 1)], 1),
}


@pytest.mark.kill
@pytest.mark.parametrize("decision", AFTER)
def test_a_decision_that_is_killed_is_made_as_a_whole_or_not_at_all(away, client, admin_client, decision):
    """With its entry in the log, wherever the process is killed that makes it."""
    interrupted = decision == "give-up"
    away(attempts=1 if interrupted else 2)
    before = ([0], [(NO_DOUBT, 1)], 0) if interrupted else UNTOUCHED
    of = IdempotencyRecord.objects.get()
    name = "give_up" if interrupted else "settle"
    hidden = admin_client.get(page(name, of)).context["adminform"].form.initial
    data = {**hidden, **(SETTLED if decision == "store-answer" else {"choice": decision}), "reason": "Ticket 17."}
    rows = {model: list(model.objects.all()) for model in (IdempotencyRecord, PhasedRun)}
    seen, number, killed = [], 0, "somewhere"
    while killed:
        killed = killed_at(number, lambda: admin_client.post(page(name, of), data))
        number += 1
        seen.append((killed, found := signature()))
        assert found in (before, AFTER[decision]), killed
        assert found[1] == [] or stored().run is not None
        for model, instances in rows.items():
            model.objects.all().delete()
            model.objects.bulk_create(instances)
        LogEntry.objects.all().delete()

    assert len(seen) > 8
    made = [found == AFTER[decision] for _point, found in seen]
    assert made == sorted(made)
    assert (made[0], made[-1]) == (False, True)


def killed_at(number, work):
    """Do *work* in a process that is killed at its point *number*. Returns its name; "" if there are not as many."""

    def halting(line):
        HaltingPoints(line, number).install()
        work()

    with Process(halting) as process:
        what, name = process.hear()
    return name if what == "halted" else ""


def signature():
    return (
        list(IdempotencyRecord.objects.values_list("status", flat=True)),
        list(PhasedRun.objects.values_list("doubt", "attempts")),
        LogEntry.objects.count(),
    )
