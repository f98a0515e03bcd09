"""Eight processes, one key, at once: at every isolation level, whoever sets it, while some executions roll back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection

from tests.app.serving import POOLED
from tests.proof.lab import SCALE, Child, Request, amounts, expire, race

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.race]

CLIENTS = 8
KEYS = 2 * SCALE
FAILS = 0.4  # the share of executions that roll back

LEVELS = ("read committed", "repeatable read", "serializable")
INNODB = ("mariadb", "mysql")


@pytest.fixture(params=["fresh", "expired"])
def state(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["/pay/", "/pay/wait/"], ids=["reject", "wait"])
def path(request: pytest.FixtureRequest) -> str:
    return request.param


def suspicious(vendor: str, level: str) -> bool:
    return vendor == "postgresql" and level == "serializable"


def race_for_keys(
    children: list[Child],
    token: str,
    path: str,
    state: str,
    count: Callable[..., None],
    what: str,
    suspicious: bool,
) -> None:
    """Race for one key after the other, and hold every one of them to the law."""
    violations, asked, conflicts, suspected = [], 0, 0, 0
    for number in range(KEYS):
        request = Request(key=f"race-{number}", token=token, path=path)
        effects = [10]
        if state == "expired":
            assert children[0].ask(request).status == 201
            expire(request.key)
            effects = [10, 10]
        outcome = race(children, request, fails=FAILS)
        violations += outcome.violations(effects, suspicious)
        suspected += sum(reply.is_suspicion for answers in outcome.answers for reply in answers)
        asked += sum(len(answers) for answers in outcome.answers)
        conflicts += sum(reply.status == 409 for answers in outcome.answers for reply in answers)
    count(what, keys=KEYS, requests=asked, conflicts=conflicts, suspected=suspected, violations=len(violations))

    assert violations == []


@pytest.mark.parametrize("level", ["read uncommitted", *LEVELS])
def test_a_race_executes_once_at_every_level_that_django_sets(
    lab, token, count, vendor, atomic_requests, level, state, path
):
    """
    One effect and one answer at every isolation level: the others wait, replay it or get 409, never an error.

    But for PostgreSQL's SERIALIZABLE, which may end a transaction on suspicion after the handler: 503, rolled back.
    """
    if vendor == "sqlite" and level != LEVELS[-1]:
        pytest.skip("SQLite has one isolation level")
    if vendor == "postgresql" and level == "read uncommitted":
        pytest.skip("PostgreSQL reads nothing that is uncommitted")
    locking = {"mariadb": ["serializable"], "mysql": ["serializable", "read uncommitted"]}.get(vendor, [])
    if level in locking and state == "expired" and "wait" in path and atomic_requests:
        # Each keeps a shared lock on the expired record as long as its own request waits, so that nobody can claim it.
        pytest.skip("duplicates that wait in a transaction of their own hold each other up until their time is over")
    isolation = "" if vendor == "sqlite" else level
    children = [
        lab.child(isolation=isolation, database={"ATOMIC_REQUESTS": atomic_requests}).connect() for _ in range(CLIENTS)
    ]

    race_for_keys(children, token, path, state, count, f"{vendor}, races at {level}", suspicious(vendor, level))


@contextmanager
def set_by_the_server(level: str) -> Iterator[None]:
    """Every new session in this database begins at *level*, and its client is not told."""
    name = connection.ops.quote_name(str(connection.settings_dict["NAME"]))
    user = connection.ops.quote_name(str(connection.settings_dict["USER"]))
    on = {"database": f"DATABASE {name}", "role": f"ROLE {user} IN DATABASE {name}"}
    with connection.cursor() as cursor:
        for target in on.values():
            cursor.execute(f"ALTER {target} SET default_transaction_isolation = '{level}'")
        try:
            yield
        finally:
            for target in on.values():
                cursor.execute(f"ALTER {target} RESET default_transaction_isolation")


@pytest.mark.parametrize("level", LEVELS[1:])
def test_a_race_executes_once_at_every_level_that_the_server_sets(
    lab, token, count, vendor, atomic_requests, level, path
):
    """The level can come from ALTER DATABASE, from ALTER ROLE, or be InnoDB's own: Django does not know it then."""
    if POOLED:
        pytest.skip("the pooler's connections are older than what is set for new ones")
    config: dict[str, Any] = {"database": {"ATOMIC_REQUESTS": atomic_requests}}
    if vendor == "postgresql":
        with set_by_the_server(level):
            children = [lab.child(**config).connect() for _ in range(CLIENTS)]
    elif vendor in INNODB and level == "repeatable read":  # what a server says when Django says nothing
        children = [lab.child(isolation="server", **config).connect() for _ in range(CLIENTS)]
    else:
        pytest.skip("nothing here but Django sets a level")

    what = f"{vendor}, races at the server's {level}"
    race_for_keys(children, token, path, "fresh", count, what, suspicious(vendor, level))


@pytest.mark.parametrize("level", LEVELS[:2])
def test_processes_with_and_without_the_routines_race_for_one_key(lab, token, count, vendor, level, state, path):
    """
    During a deploy some processes have found the server's routines, some have not, and some only those of an earlier
    release: they meet at one lock.
    """
    if vendor == "sqlite":
        pytest.skip("SQLite has no routines")
    kinds: list[dict[str, bool]] = [{}, {"plain": True}, {"fold": False}]
    children = [lab.child(isolation=level, **kinds[number % 3]).connect() for number in range(CLIENTS)]

    race_for_keys(children, token, path, state, count, f"{vendor}, races with and without routines", False)


def test_a_key_raced_for_by_two_payloads_has_one_effect(lab, token, vendor):
    """Of two payloads under one key, one takes effect; the other gets 409 while that is in flight, and 422 for good."""
    mine, other = lab.child().connect(), lab.child().connect()
    for number in range(KEYS):
        request = Request(key=f"two-{number}", token=token)
        rival = Request(key=request.key, token=token, amount=20)
        mine.send(request)
        other.send(rival)
        replies = {mine.reply().status, other.reply().status}
        assert replies <= {201, 409, 422}
        final = [child.ask_until_final(each) for child, each in ((mine, request), (other, rival))]

        assert sorted(reply.status for reply in final) == [201, 422]
        assert amounts(request.key) == [10 if final[0].status == 201 else 20]


@pytest.mark.parametrize("level", LEVELS)
def test_clients_with_keys_of_their_own_do_not_disturb_each_other(lab, token, count, vendor, atomic_requests, level):
    """
    Eight clients, eight keys, at once: each executes, at every isolation level.

    Except at SERIALIZABLE: a transaction that PostgreSQL suspects is a 503, rolled back, and its retry executes. A
    claim that it suspects inside the request's own transaction, which cannot begin anew, is a 409.
    """
    if vendor == "sqlite" and level != LEVELS[-1]:
        pytest.skip("SQLite has one isolation level")
    isolation = "" if vendor == "sqlite" else level
    config = {"isolation": isolation, "database": {"ATOMIC_REQUESTS": atomic_requests}}
    children = [lab.child(**config).connect() for _ in range(CLIENTS)]
    replies, suspected = [], []
    for number in range(KEYS):
        requests = [Request(key=f"own-{number}-{client}", token=token) for client in range(CLIENTS)]
        for child, request in zip(children, requests, strict=True):
            child.send(request)
        for child, request in zip(children, requests, strict=True):
            reply = child.reply()
            is_suspicion = reply.is_suspicion or (atomic_requests and reply.code == "request-in-progress")
            if suspicious(vendor, level) and is_suspicion:
                suspected.append((child, request))
            else:
                replies.append(reply)
    for child, request in suspected:
        assert amounts(request.key) == []
        replies.append(child.ask(request))
    count(f"{vendor}, own keys at {level}", requests=len(replies), suspected=len(suspected))

    assert [f"{reply.status} {reply.code} {reply.error}" for reply in replies if reply.status != 201] == []
    assert all(amounts(f"own-{number}-{client}") == [10] for number in range(KEYS) for client in range(CLIENTS))


def test_with_retries_none_of_them_is_cancelled(lab, token, count, vendor):
    """The same at PostgreSQL's SERIALIZABLE with `retries=3`: each client gets its answer at the first request."""
    if vendor != "postgresql":
        pytest.skip("only PostgreSQL cancels on suspicion")
    children = [lab.child(isolation="serializable").connect() for _ in range(CLIENTS)]
    replies = []
    for number in range(4 * KEYS):
        requests = [
            Request(key=f"again-{number}-{client}", token=token, path="/pay/again/") for client in range(CLIENTS)
        ]
        for child, request in zip(children, requests, strict=True):
            child.send(request)
        replies += [child.reply() for child in children]
    count("postgresql, own keys at serializable, retries=3", requests=len(replies))

    assert [f"{reply.status} {reply.code} {reply.error}" for reply in replies if reply.status != 201] == []
    assert all(amounts(f"again-{number}-{client}") == [10] for number in range(4 * KEYS) for client in range(CLIENTS))
