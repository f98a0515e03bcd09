"""The states in which a database cannot claim, as its failover, its limits and its operators bring about: 503."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection

from django_idempotency import once
from django_idempotency.exceptions import RequestInProgress, StoreUnavailable
from django_idempotency.models import IdempotencyRecord
from tests.app.models import Payment
from tests.app.serving import POOLED

pytestmark = pytest.mark.django_db(transaction=True)

TABLE = IdempotencyRecord._meta.db_table
INNODB = {
    "disk full": 1021, "a file's disk full": 3, "writing a file": 1026, "out of memory": 1037, "sort memory": 1038,
    "too many connections": 1040, "no memory": 1041, "no quorum": 1047, "shutting down": 1053, "forced close": 1080,
    "table full": 1114, "the user's connections": 1203, "locks": 1206, "the user's limit": 1226,
    "server read-only": 1290, "statement killed": 1317, "transaction read-only": 1792, "read-only mode": 1836,
    "connection killed": 1927, "statement's time": 1969, "InnoDB read-only": 3019, "execution time": 3024,
    "offline mode": 3032, "no quorum of the group": 3100, "not available": 3168, "session killed": 3169,
    "out of the group": 3796, "behind the group": 3797, "others behind": 3798,
}  # fmt: skip
STATES: dict[str, dict[str, Any]] = {
    "postgresql": {
        "a standby": "25006", "idle for too long": "25P03", "transaction's time": "25P04", "disk full": "53100",
        "out of memory": "53200", "too many connections": "53300", "a limit of its own": "53400",
        "lock timeout": "55P03", "canceled": "57014", "shutting down": "57P01", "crashed": "57P02",
        "starting up": "57P03", "database dropped": "57P04", "input or output": "58030", "protocol": "08P01",
    },
    "mysql": INNODB,
    "sqlite": {},
}  # fmt: skip
RACES: dict[str, dict[str, Any]] = {
    "postgresql": {"recovery conflict or serialization": "40001", "deadlock": "40P01"},
    "mysql": {
        "changed since last read": 1020,
        "deadlock": 1213,
        "certification": 3101,
        "a group's applier": (1180, "Got error 149 - 'Lock deadlock; Retry transaction' during COMMIT"),
        "in a statement": (1030, "Got error 149 - 'Lock deadlock; Retry transaction' from storage engine"),
        "at a savepoint": (1030, "Got error 153 - 'No savepoint with that name' from storage engine"),
        "back to a savepoint": (1181, "Got error 153 - 'No savepoint with that name' during ROLLBACK"),
    },
    "sqlite": {},
}
VENDOR = connection.vendor


@once("unavailable.pay", key=lambda event: event)
def pay(event: str) -> int:
    Payment.objects.create(amount=5)
    return 5


def assert_nothing_was_done() -> None:
    with pytest.raises(StoreUnavailable):
        pay("one")
    connection.close()  # whatever its settings were
    assert not Payment.objects.exists()
    assert not IdempotencyRecord.objects.exists()


@contextmanager
def claims_answered_with(state: Any) -> Iterator[None]:
    """The server itself answers the INSERT of a claim with the error *state*, a number, or a number and a text."""
    if VENDOR == "postgresql":
        create = (
            "CREATE FUNCTION test_refuse() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{state}'; END $$;"
            f" CREATE TRIGGER test_refuse BEFORE INSERT ON {TABLE} EXECUTE FUNCTION test_refuse()"
        )
        drop = "DROP FUNCTION test_refuse CASCADE"
    else:
        number, text = state if isinstance(state, tuple) else (state, "refused")
        create = (
            f"CREATE TRIGGER test_refuse BEFORE INSERT ON {TABLE} FOR EACH ROW"
            f' SIGNAL SQLSTATE "HY000" SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = "{text}"'
        )
        drop = "DROP TRIGGER test_refuse"
    with connection.cursor() as cursor:
        cursor.execute(create)
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(drop)


@pytest.mark.parametrize("state", STATES[VENDOR].values(), ids=STATES[VENDOR])
def test_a_server_that_cannot_claim_is_unavailable(state):
    """Each number is the server's own; before the handler it means that nothing was done."""
    with claims_answered_with(state):
        assert_nothing_was_done()

    assert pay("one") == 5


@pytest.mark.parametrize("state", RACES[VENDOR].values(), ids=RACES[VENDOR])
def test_a_transaction_that_the_server_cancelled_is_a_lost_race(state):
    """It starts again, and if it never gets through, a rival is in flight."""
    with claims_answered_with(state), pytest.raises(RequestInProgress):
        pay("one")

    assert pay("one") == 5


@contextmanager
def option(name: str, value: Any) -> Iterator[None]:
    options = connection.settings_dict["OPTIONS"]
    before = dict(options)
    connection.close()
    options[name] = value
    try:
        yield
    finally:
        connection.close()
        options.clear()
        options.update(before)


def test_a_read_only_server_is_unavailable(tmp_path):
    """As after a failover to a standby or a replica that is not promoted yet."""
    if VENDOR == "sqlite":
        path = connection.settings_dict["NAME"]
        with option("init_command", "PRAGMA query_only = ON"):
            assert_nothing_was_done()
        assert os.path.exists(path)
    elif POOLED:
        pytest.skip("a pooler takes no options when a client connects")
    elif VENDOR == "postgresql":
        with option("options", "-c default_transaction_read_only=on"):
            assert_nothing_was_done()
    else:
        with option("init_command", "SET SESSION TRANSACTION READ ONLY"):
            assert_nothing_was_done()

    assert pay("one") == 5


@pytest.fixture
def limited() -> Iterator[Any]:
    """Lets Django connect as a user who may have one connection, which is taken."""
    name = "idempotency_limited"
    settings = connection.settings_dict
    before = settings["USER"], settings["PASSWORD"]
    grant = {
        "postgresql": [f"DROP ROLE IF EXISTS {name}", f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1"],
        "mysql": [
            f"CREATE OR REPLACE USER {name}@'%%' WITH MAX_USER_CONNECTIONS 1",
            f"GRANT ALL ON *.* TO {name}@'%%'",
        ],
    }[VENDOR]
    if VENDOR == "mysql" and not connection.mysql_is_mariadb:
        grant[:1] = [f"DROP USER IF EXISTS {name}@'%%'", f"CREATE USER {name}@'%%' WITH MAX_USER_CONNECTIONS 1"]
    with connection.cursor() as cursor:
        for statement in grant:
            cursor.execute(statement, ())
    connection.close()
    settings["USER"], settings["PASSWORD"] = name, ""
    taken = connection.copy()
    taken.connect()
    yield
    taken.close()
    connection.close()
    settings["USER"], settings["PASSWORD"] = before
    with connection.cursor() as cursor:
        cursor.execute(f"DROP {'ROLE' if VENDOR == 'postgresql' else 'USER'} {name}")


@pytest.mark.skipif(VENDOR == "sqlite" or POOLED, reason="no connections are counted, or the pooler's are")
def test_too_many_connections_are_unavailable(limited):
    """The server refuses the connection that a first request needs."""
    with pytest.raises(StoreUnavailable):
        pay("one")


@pytest.mark.skipif(VENDOR == "sqlite" or POOLED, reason="no server, or the claim may be on another connection")
@pytest.mark.parametrize("what", ["statement", "connection"])
def test_a_claim_that_an_operator_kills_is_unavailable(what):
    """Killed while it waits for a table that somebody has locked."""
    blocker, killer = connection.copy(), connection.copy()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()" if VENDOR == "postgresql" else "SELECT CONNECTION_ID()")
        (number,) = cursor.fetchone()
    kill, waits = {
        "postgresql": (
            f"SELECT pg_{'cancel' if what == 'statement' else 'terminate'}_backend(%s)",
            "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'",
        ),
        "mysql": (
            f"KILL {'QUERY' if what == 'statement' else 'CONNECTION'} %s",
            "SELECT 1 FROM information_schema.processlist WHERE id = %s AND state LIKE '%%metadata lock'",
        ),
    }[VENDOR]

    def operate() -> None:
        deadline = time.monotonic() + 30
        with killer.cursor() as cursor:
            while time.monotonic() < deadline:
                cursor.execute(waits, (number,))
                if cursor.fetchone():
                    cursor.execute(kill, (number,))
                    return
                time.sleep(0.01)

    for each in (blocker, killer):
        each.inc_thread_sharing()
    with blocker.cursor() as cursor:
        cursor.execute(
            f"BEGIN; LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE"
            if VENDOR == "postgresql"
            else f"LOCK TABLES {TABLE} WRITE"
        )
        operator = threading.Thread(target=operate)
        operator.start()
        with pytest.raises(StoreUnavailable):
            pay("one")
        operator.join()
        cursor.execute("ROLLBACK" if VENDOR == "postgresql" else "UNLOCK TABLES")
    for each in (blocker, killer):
        each.dec_thread_sharing()
        each.close()
    connection.close()

    assert pay("one") == 5
