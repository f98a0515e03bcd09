"""A handler that loses to a rival: how often it runs, what is answered, and when it must not run again."""

import pytest
from django.db import DatabaseError, OperationalError, connection, transaction
from rest_framework.exceptions import ValidationError

from django_idempotency.exceptions import TransactionBroken
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import VENDOR, drf, end_own_connection, hearing, is_replay, plain, post
from tests.app.views import answer
from tests.proof.urls import lost
from tests.retries.conftest import Handler, lose

pytestmark = pytest.mark.django_db(transaction=True)


def assert_nothing_was_done() -> None:
    assert not Payment.objects.exists()
    assert not IdempotencyRecord.objects.exists()


def test_without_retries_it_is_refused(protect, client, serve, pauses):
    """503 `try-again` with `Retry-After`; nothing is left, and the client's own retry executes."""
    handler = Handler(1)
    serve(protect(handler))

    response = post(client)

    assert (response.status_code, response.json()["code"], response.headers["Retry-After"]) == (503, "try-again", "1")
    assert (handler.runs, pauses) == (1, [])
    assert_nothing_was_done()
    assert post(client).status_code == 201
    assert is_replay(post(client))


def test_it_runs_again_by_itself(protect, client, serve, pauses):
    """The client gets the answer of the run that committed, and that one's effect and hooks are the only ones."""
    hooks = []
    handler = Handler(2, look=lambda request: transaction.on_commit(lambda: hooks.append(handler.runs)))
    serve(protect(handler, retries=2))

    response = post(client)

    assert (response.status_code, response.json()) == (201, {"run": 3})
    assert not is_replay(response)
    assert list(Payment.objects.values_list("amount", flat=True)) == [3]
    assert hooks == [3]
    assert pauses == [0.1, 0.2]
    assert is_replay(post(client))


def test_when_no_retry_is_left_it_is_refused(protect, client, serve):
    """At most so often."""
    handler = Handler(3)
    serve(protect(handler, retries=2))

    assert (post(client).status_code, handler.runs) == (503, 3)
    assert_nothing_was_done()


def test_the_pauses_grow_to_half_a_second(client, protect, serve, pauses):
    """A random time up to that, so that those that have met do not meet again."""
    serve(protect(Handler(6), retries=6))

    assert post(client).status_code == 201
    assert pauses == [0.1, 0.2, 0.4, 0.5, 0.5, 0.5]


def test_each_try_is_announced(protect, client, serve, caplog):
    """An execution that was rolled back is forgotten, and a warning says why it runs again."""
    serve(protect(Handler(1), retries=3))

    with hearing() as heard:
        post(client)

    assert [name for name, _ in heard] == ["forgotten", "executed"]
    assert "lost to a rival, and runs again: retry 1 of 3" in caplog.text


def test_a_refusal_is_announced(protect, client, serve):
    """As what it was, and as what was answered."""
    serve(protect(Handler(1)))

    with hearing() as heard:
        post(client)

    assert [name for name, _ in heard] == ["forgotten", "refused"]
    assert heard[1][1]["refusal"].code == "try-again"
    assert isinstance(heard[1][1]["refusal"].__cause__, OperationalError)


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
def test_an_error_of_commit_is_a_loss_too(protect, client, serve, losing_at_commit, sqlstate):
    """The server has said that it has rolled back."""
    losing_at_commit(1, sqlstate)
    handler = Handler(0)
    serve(protect(handler, retries=1))

    assert (post(client).status_code, handler.runs) == (201, 2)
    assert Payment.objects.count() == 1


def test_without_retries_an_error_of_commit_is_refused(protect, client, serve, losing_at_commit):
    """503, not 500."""
    losing_at_commit(1, "40001")
    serve(protect(Handler(0)))

    assert post(client).json()["code"] == "try-again"
    assert_nothing_was_done()


def test_another_error_of_commit_is_none(protect, client, serve, losing_at_commit):
    """A deferred constraint fails again at each try."""
    losing_at_commit(1, "23505")
    handler = Handler(0)
    serve(protect(handler, retries=3))

    assert (post(client).status_code, handler.runs) == (500, 1)


# --- what the handler makes of it ---


class Wrapped(Exception):
    pass


def test_an_error_in_the_place_of_the_databases_counts(protect, client, serve):
    """The database's own word counts, not the class that reaches us; when no retry is left, that is what is raised."""
    handler = Handler(1)

    def wrap() -> None:
        try:
            lose()
        except DatabaseError as error:
            raise Wrapped from error

    handler.lose = wrap
    serve(protect(handler, retries=1))
    assert (post(client).status_code, handler.runs) == (201, 2)

    handler.times = 9
    assert post(client, key="other").status_code == 500
    assert handler.runs == 4


def test_a_refusal_of_the_handlers_own_counts(protect, client, serve):
    """It runs again; when no retry is left, the refusal is the answer."""
    handler = Handler(0)

    def view(request):
        try:
            with transaction.atomic():
                handler.work(request)
                if handler.runs in (1, 3, 4):
                    lose()
        except DatabaseError:
            return answer(request, {"error": "busy"}, 409)
        return answer(request, {})

    serve(protect(view, retries=1))

    assert [post(client, key=key).status_code for key in "ab"] == [201, 409]
    assert handler.runs == 4


def test_an_error_that_was_swallowed_counts(protect, client, serve):
    """What is broken is rolled back, so nothing was done; when no retry is left, it is the handler's mistake."""
    handler = Handler(1)

    def swallow() -> None:
        try:
            lose()
        except DatabaseError:
            pass
        connection.needs_rollback = True  # as after a deadlock, which has taken the savepoint away

    handler.lose = swallow
    serve(protect(handler, retries=1))
    assert (post(client).status_code, handler.runs) == (201, 2)

    handler.times = 9
    client.raise_request_exception = True
    with pytest.raises(TransactionBroken):
        post(client, key="other")
    assert handler.runs == 4


def test_a_handler_that_recovers_runs_once(protect, client, serve):
    """PostgreSQL takes back a savepoint; the handler goes on, and its work commits."""
    if VENDOR != "postgresql":
        pytest.skip("elsewhere a deadlock ends the whole transaction")
    handler = Handler(1)

    def recover() -> None:
        with pytest.raises(OperationalError), transaction.atomic():
            lose()

    handler.lose = recover
    serve(protect(handler, retries=1))

    assert (post(client).status_code, handler.runs) == (201, 1)


def test_another_exception_runs_once(protect, client, serve):
    """Also one of the database."""
    handler = Handler(1)

    def fail() -> None:
        raise ValidationError("no")

    handler.lose = fail
    serve(protect(handler, retries=3))
    post(client)
    handler.times, handler.lose = 9, lambda: connection.cursor().execute("SELECT * FROM nowhere")
    post(client, key="other")

    assert handler.runs == 2


# --- when it must not run again ---


def test_a_hook_that_loses_is_not_the_handler(protect, client, serve):
    """It runs after COMMIT: one effect, its error for the first caller, and a replay for the second."""
    handler = Handler(0, look=lambda request: transaction.on_commit(lose))
    serve(protect(handler, retries=3))

    assert (post(client).status_code, handler.runs) == (500, 1)
    assert is_replay(post(client))
    assert Payment.objects.count() == 1


def test_an_unknown_outcome_of_commit_is_left_to_the_retry(protect, client, serve, losing_at_commit):
    """The connection breaks in COMMIT, and a statement had lost before, from which the handler has recovered."""
    losing_at_commit(0, "40001")
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE OR REPLACE FUNCTION test_lose() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
        )
    handler = Handler(1)

    def recover() -> None:
        with pytest.raises(OperationalError), transaction.atomic():
            lose()

    handler.lose = recover
    serve(protect(handler, retries=3))

    assert (post(client).status_code, handler.runs) == (500, 1)


def test_a_lost_connection_is_no_race(protect, client, serve):
    """It propagates, as before."""
    handler = Handler(1)
    handler.lose = end_own_connection
    serve(protect(handler, retries=3))

    assert post(client).status_code == 500
    assert handler.runs == 1
    connection.close()


def test_what_the_handler_has_committed_is_not_done_again(protect, client, serve):
    """It ended its transaction, and lost afterwards: the outcome is unknown."""
    handler = Handler(1)

    def commit_and_lose() -> None:
        with connection.cursor() as cursor:
            cursor.execute("COMMIT" if VENDOR == "postgresql" else "ALTER TABLE app_unique COMMENT = 'altered'")
        lose()

    handler.lose = commit_and_lose
    serve(protect(handler, retries=3))

    with hearing("unsettled") as heard:
        assert post(client).status_code == 500
    assert (len(heard), handler.runs) == (1, 1)
    assert post(client).json()["code"] == "outcome-unknown"


def test_inside_a_transaction_of_the_projects_it_is_refused(protect, client, serve, monkeypatch):
    """The package cannot start that one again: 503, and the whole of it is rolled back."""
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    handler = Handler(1)
    serve(protect(handler, retries=3))

    response = post(client)

    assert (response.status_code, response.json()["code"], handler.runs) == (503, "try-again", 1)
    assert_nothing_was_done()
    assert post(client).status_code == 201


def test_an_operation_inside_is_part_of_it(browser, serve):
    """A call of `@once` in the handler's transaction cannot run again alone; the whole handler does."""
    from django_idempotency import once

    handler = Handler(1)
    inner = once("retries.inner", key=lambda event: event, retries=3)(lambda event: handler.work(None))

    def view(request):
        Payment.objects.create(amount=100)
        inner("event")
        return answer(request, {})

    serve(plain(view, retries=1))

    assert (post(browser).status_code, handler.runs) == (201, 2)
    assert sorted(Payment.objects.values_list("amount", flat=True)) == [2, 100]


def test_a_key_is_derived_alike_in_each_run(api, serve):
    """What has reached another system in the first run is found there."""
    handler = Handler(1, look=lambda request: request.idempotency.derive_key("gateway"))
    serve(drf(handler, retries=1))
    post(api)

    assert len(handler.seen) == 2
    assert len({*handler.seen}) == 1


def test_killed_between_two_runs(lab, token, vendor):
    """What a killed process has lost is forgotten, wherever it was, and the client's retry executes."""
    from tests.proof.lab import Killing, Path

    path = Path("lost-once", script="lose")
    killing = Killing(lab, token, path, "again", url="/pay/again/")
    points, violations = killing.each()

    assert violations == []
    assert sum("ROLLBACK" in point for point in points) >= 1
    assert not lost  # in this process
