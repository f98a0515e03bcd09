"""A database that is away, busy or lost, and handlers that break their transaction and go on."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from django.db import connection

from tests.app.models import Payment, Unique
from tests.app.serving import POOLED
from tests.lab.statements import FOLDED_COMMIT
from tests.proof.lab import PATIENCE, Child, Killing, Path, Request, amounts, statuses

pytestmark = pytest.mark.django_db(transaction=True)

TABLE = "django_idempotency_record"
NO_OPTIONS = "a pooler takes no options when a client connects, so none of its clients can set a timeout of its own"


def unauthenticated(key: str, **more: Any) -> Request:
    """A request that asks the database nothing before its claim."""
    return Request(key=key, token="", path="/plain/", **more)


def assert_nothing_was_done(reply: Any, key: str) -> None:
    assert (reply.status, reply.code) == (503, "store-unavailable"), reply
    assert int(reply.headers["retry-after"]) >= 1
    assert amounts(key) == []
    assert statuses(key) == []


# --- at the claim: 503, and nothing was done ---


def test_a_server_that_is_away_is_a_503(lab, vendor):
    """A process whose first request finds no server answers 503 with Retry-After, and so does its second."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        away = {"HOST": "127.0.0.1", "PORT": str(nobody.getsockname()[1])}
        if vendor == "sqlite":
            away = {"NAME": "/nonexistent/database.sqlite3"}
        child = lab.child(database=away)

        assert_nothing_was_done(child.ask(unauthenticated("away")), "away")
        assert_nothing_was_done(child.ask(unauthenticated("away")), "away")


def test_sqlite_busy_past_its_timeout_is_a_503(lab, vendor):
    """A duplicate that finds another writer past the busy timeout is a 503; when the writer is done it is a replay."""
    if vendor != "sqlite":
        pytest.skip("one writer at a time")
    writer, other = lab.child().connect(), lab.child(options={"timeout": 0.1}).connect()
    request = unauthenticated("busy")
    writer.send(request, halts=True)
    writer.halt_when("after claim")

    assert_nothing_was_done(other.ask(request), "busy")
    assert_nothing_was_done(other.ask(unauthenticated("another")), "another")
    assert writer.finish().status == 201
    assert other.ask(request).replayed
    assert other.ask(unauthenticated("another")).status == 201
    assert amounts("busy") == [10]


TIMEOUTS = {
    "postgresql": ["-c statement_timeout=200", "-c lock_timeout=200"],
    "mariadb": ["SET max_statement_time = 0.2"],
}


@pytest.mark.parametrize("number", [0, 1])
def test_a_claim_that_the_projects_own_timeout_ends_is_a_503(lab, vendor, number):
    """A table that somebody has locked, and a timeout that the project has set: 503, and the next request executes."""
    if POOLED:
        pytest.skip(NO_OPTIONS)
    timeouts = TIMEOUTS.get(vendor, [])
    if number >= len(timeouts):
        pytest.skip("no such timeout here")
    option = {"options" if vendor == "postgresql" else "init_command": timeouts[number]}
    child = lab.child(options=option).connect()
    request = unauthenticated("timeout")
    with connection.cursor() as cursor:
        if vendor == "postgresql":
            cursor.execute(f"BEGIN; LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE")
        else:
            cursor.execute(f"LOCK TABLES {TABLE} WRITE")
        reply = child.ask(request)
        cursor.execute("ROLLBACK" if vendor == "postgresql" else "UNLOCK TABLES")

    assert_nothing_was_done(reply, "timeout")
    assert child.ask(request).status == 201
    assert amounts("timeout") == [10]


# --- in the handler: 500, and all of it is rolled back ---


def assert_rolled_back(child: Child, retrier: Child, request: Request, reply: Any, status: int = 500) -> None:
    """Whoever broke the transaction got a 500, or this *status*, and the retry, whose handler does not, executes."""
    assert (reply.status, reply.replayed) == (status, False), reply
    assert amounts(request.key) == []
    assert statuses(request.key) == []
    again = retrier.ask_until_final(request, "")
    assert (again.status, again.replayed) == (201, False), again
    assert child.ask_until_final(request, "").replayed
    assert amounts(request.key) == [10]


LOSING = {
    "postgresql": "SELECT pg_terminate_backend(pg_backend_pid())",
    "mariadb": "KILL CONNECTION_ID()",
    "mysql": "KILL CONNECTION_ID()",
    "sqlite": "INSERT OR ROLLBACK INTO app_unique (id, name) VALUES (1, 'a'), (1, 'a')",
}


@pytest.mark.parametrize("more", [{}, {"more": True}], ids=["answers", "works on"])
@pytest.mark.parametrize("place", ["cursor", "atomic"])
def test_a_handler_that_swallows_the_loss_of_its_transaction(lab, token, vendor, atomic_requests, place, more):
    """
    The connection is lost, or the database itself rolls back, the handler catches the error and answers 201: a 500.

    Also where it caught the error around an atomic block of its own, which cannot be rolled back to any more.
    """
    child, retrier = (lab.child(database={"ATOMIC_REQUESTS": atomic_requests}).connect() for _ in range(2))
    statement = {"statement": LOSING[vendor], **more}
    request = Request(key="lost", token=token, script=f"swallow in {place}", more=statement)

    assert_rolled_back(child, retrier, request, child.ask(request))


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("SELECT 1/0", id="error"),
        pytest.param("SET LOCAL statement_timeout = 50; SELECT pg_sleep(30)", id="statement_timeout"),
    ],
)
@pytest.mark.parametrize("place", ["cursor", "atomic"])
def test_an_error_that_aborts_the_transaction_of_postgresql(lab, token, vendor, atomic_requests, place, statement):
    """Caught around a cursor it is a 500, for COMMIT would be a silent ROLLBACK; around an atomic block, nothing."""
    if vendor != "postgresql":
        pytest.skip("elsewhere an error undoes its statement alone")
    child, retrier = (lab.child(database={"ATOMIC_REQUESTS": atomic_requests}).connect() for _ in range(2))
    request = Request(key="aborted", token=token, script=f"swallow in {place}", more={"statement": statement})
    reply = child.ask(request)

    if place == "cursor":
        assert_rolled_back(child, retrier, request, reply)
    else:
        assert reply.status == 201
        assert retrier.ask(request).replayed
        assert amounts(request.key) == [10]


@pytest.fixture
def rival(vendor: str) -> Iterator[Any]:
    """A transaction that holds a row, and more than a request does, whom InnoDB therefore makes a deadlock's victim."""
    if vendor not in ("mariadb", "mysql"):
        pytest.skip("elsewhere a deadlock's victim can do nothing more in its transaction")
    Unique.objects.bulk_create([Unique(id=1, name="the request's"), Unique(id=2, name="the rival's")])
    other = connection.copy()
    other.inc_thread_sharing()
    with other.cursor() as cursor:
        cursor.execute("BEGIN")
        insert = "INSERT INTO app_payment (amount, reference) VALUES (%s, 'rival')"
        cursor.executemany(insert, [(amount,) for amount in range(99)])
        cursor.execute("UPDATE app_unique SET name = 'held' WHERE id = 2")
    yield other
    other.close()
    other.dec_thread_sharing()


@pytest.mark.parametrize("more", [{}, {"more": True}], ids=["answers", "works on"])
@pytest.mark.parametrize("place", ["cursor", "atomic"])
def test_a_handler_that_swallows_a_deadlock(lab, token, rival, atomic_requests, place, more):
    """
    InnoDB rolls the transaction back, claim included; the handler goes on in a new one, which is undone: a 500.

    In an atomic block Django refuses the handler's next statement. That is an error of the database's: 503.
    """
    child, retrier = (lab.child(database={"ATOMIC_REQUESTS": atomic_requests}).connect() for _ in range(2))
    statements = {
        "first": "UPDATE app_unique SET name = 'a' WHERE id = 1",
        "statement": "UPDATE app_unique SET name = 'b' WHERE id = 2",
    }
    request = Request(key="deadlock", token=token, script=f"swallow in {place}", more=statements | more)
    child.send(request, halts=True)
    child.halt_when("after UPDATE app_unique")
    with rival.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        number = cursor.fetchone()[0]
        thread = threading.Thread(target=cursor.execute, args=["UPDATE app_unique SET name = 'c' WHERE id = 1"])
        thread.start()
        # The server works on the rival's statement: it is blocked there.
        wait_for_row("SELECT 1 FROM information_schema.processlist WHERE id = %s AND LOWER(state) = 'updating'", number)
        reply = child.finish()
        thread.join(PATIENCE)
        cursor.execute("ROLLBACK")

    assert_rolled_back(child, retrier, request, reply, 503 if place == "atomic" and more else 500)


def wait_for_row(query: str, parameter: Any) -> None:
    """Wait until *query* finds something."""
    deadline = time.monotonic() + PATIENCE
    with connection.cursor() as cursor:
        cursor.execute(query, (parameter,))
        while cursor.fetchone() is None:
            assert time.monotonic() < deadline, query
            time.sleep(0.005)
            cursor.execute(query, (parameter,))


# --- what nobody but the server ends ---


# Set by the handler, so that a slow machine does not lose the connection before the claim; of the transaction, or of
# the session if there is no other.
IDLE_TIMEOUTS = {
    "postgresql": "SET LOCAL idle_in_transaction_session_timeout = 2000",
    "mariadb": "SET idle_transaction_timeout = 2",
    "mysql": "SET wait_timeout = 2",
}


@pytest.mark.kill
def test_a_frozen_process_that_comes_back_too_late(lab, token, vendor, atomic_requests):
    """The server ends an idle transaction, the retry executes, and the thawed process's COMMIT fails: one effect."""
    if vendor not in IDLE_TIMEOUTS:
        pytest.skip("no server")
    frozen, retrier = (lab.child(database={"ATOMIC_REQUESTS": atomic_requests}).connect() for _ in range(2))
    more = {"statement": IDLE_TIMEOUTS[vendor]}
    request = Request(key="frozen", token=token, script="swallow in cursor", more=more)
    frozen.send(request, halts=True)
    frozen.halt_when("before COMMIT", f"before {FOLDED_COMMIT}")
    reply = retrier.ask_until_final(request, "")

    assert (reply.status, reply.replayed) == (201, False)
    assert frozen.finish().status == 500
    assert retrier.ask(request, "").body == reply.body
    assert amounts("frozen") == [10]


BLOCKED = {
    "postgresql": "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query = %s",
    "mariadb": "SELECT 1 FROM information_schema.processlist WHERE LOWER(state) = 'updating' AND info = %s",
    "mysql": "SELECT 1 FROM information_schema.processlist WHERE LOWER(state) = 'updating' AND info = %s",
}


@pytest.mark.kill
def test_a_request_killed_while_the_server_works_for_it(lab, token, vendor, atomic_requests):
    """The server works on for a client that is dead: the retry gets 409 until it has noticed, and then executes."""
    if vendor not in BLOCKED:
        pytest.skip("no server")
    Unique.objects.create(id=1, name="held")
    child, retrier = (lab.child(database={"ATOMIC_REQUESTS": atomic_requests}).connect() for _ in range(2))
    statement = f"UPDATE app_unique SET name = 'mine' WHERE id = 1 -- {connection.settings_dict['NAME']}"
    request = Request(key="busy", token=token, script="swallow in cursor", more={"statement": statement})
    with closing(connection.copy()) as holder, holder.cursor() as held:
        held.execute("BEGIN")
        held.execute("SELECT id FROM app_unique WHERE id = 1 FOR UPDATE")
        child.send(request)
        wait_for_row(BLOCKED[vendor], statement)
        child.kill()
        at_once = retrier.ask(request, "")
        held.execute("ROLLBACK")

    assert (at_once.status, at_once.code) == (409, "request-in-progress")
    assert int(at_once.headers["retry-after"]) >= 1
    reply = retrier.ask_until_final(request, "")
    assert (reply.status, reply.replayed) == (201, False)
    assert retrier.ask(request, "").body == reply.body
    assert amounts("busy") == [10]


# --- what a handler commits by itself ---


@pytest.mark.kill
@pytest.mark.parametrize("script", ["commit", "ddl"])
def test_a_request_killed_around_its_handlers_own_commit(lab, token, count, vendor, atomic_requests, script):
    """Killed before it, the retry executes; after it, the outcome is unknown: 409, never a second execution."""
    if script == "ddl" and vendor not in ("mariadb", "mysql"):
        pytest.skip("DDL is a part of the transaction here")
    config = {"database": {"ATOMIC_REQUESTS": atomic_requests}}
    killing = Killing(lab, token, Path(script, script=script), f"own-{script}", **config)
    points = killing.enumerate()
    committed_at = 1 + points.index({"commit": "before COMMIT", "ddl": "before ALTER app_unique"}[script])
    violations = []
    for number, point in enumerate(points):
        request = killing.request(number)
        child = lab.child(**config).connect()
        child.send(request, halts=True)
        assert child.halt_at(number) == point
        child.kill()
        left = amounts(request.key)
        replies = [killing.retrier.ask_until_final(request, "") for _ in range(2)]
        seen = [(reply.status, reply.code) for reply in replies]
        if number < committed_at:
            wanted, effects = [(201, None), (201, None)], [[10]]
        else:
            # Behind a raw COMMIT, SQLite is in autocommit: the second row is there as well, by the handler's own doing.
            wanted, effects = [(409, "outcome-unknown")] * 2, [[10], [10, 11]] if vendor == "sqlite" else [[10]]
            if amounts(request.key) != left or statuses(request.key) != [0]:
                violations.append(f"{number} {point}: {left} became {amounts(request.key)}, {statuses(request.key)}")
        if seen != wanted or amounts(request.key) not in effects:
            violations.append(f"{number} {point}: {seen}, effects {amounts(request.key)}")
    count(f"{vendor}, own commits", points=len(points), kills=len(points), violations=len(violations))

    assert violations == []


# --- what is true after COMMIT ---


def test_a_hook_that_is_refused_by_another_operation(lab, token, atomic_requests):
    """Hooks run when the work is committed: the refusal of an operation that one of them starts is no answer to it."""
    child = lab.child(database={"ATOMIC_REQUESTS": atomic_requests}).connect()
    request = Request(key="hook", token=token, script="hook")

    assert child.ask(request).status == 500
    assert child.ask(request).replayed
    assert amounts("hook") == [10]


# --- what one request must not do to another ---


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_an_unrelated_key_is_not_held_up(lab, token, vendor, atomic_requests, level):
    """A handler that takes its time keeps nobody but its own duplicates from executing, at every isolation level."""
    if vendor == "sqlite":
        pytest.skip("one writer at a time")
    config = {"isolation": level, "database": {"ATOMIC_REQUESTS": atomic_requests}}
    slow, other = lab.child(**config).connect(), lab.child(**config).connect()
    request = Request(key="slow", token=token)
    slow.send(request, halts=True)
    slow.halt_when("after claim")
    replies = [other.ask(Request(key=f"other-{number}", token=token)) for number in range(10)]

    assert [(reply.status, reply.code) for reply in replies] == [(201, None)] * 10
    # PostgreSQL notes by the page what has been read, and in a small table the others' keys are on the same pages.
    suspected = vendor == "postgresql" and level == "serializable"
    assert (slow.finish().code in (None, "try-again")) if suspected else (slow.finish().status == 201)
    assert slow.ask_until_final(request).status == 201


def test_nobody_replays_what_is_not_committed(lab, token, vendor):
    """A duplicate that can see a rival's uncommitted rows must not take them for a record: the rival may still fail."""
    if vendor not in ("mariadb", "mysql"):
        pytest.skip("no other database shows uncommitted rows")
    # Not folded: that record would be committed as soon as it is written.
    first, second = lab.child(fold=False).connect(), lab.child(isolation="read uncommitted").connect()
    request = Request(key="dirty", token=token)
    first.send(request, halts=True)
    first.halt_when("after record")
    reply = second.ask(request)
    first.kill()

    assert (reply.status, reply.code) == (409, "request-in-progress")
    assert not second.ask_until_final(request).replayed
    assert Payment.objects.filter(reference="dirty").count() == 1
