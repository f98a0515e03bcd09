"""
MySQL Group Replication with three primaries, as only a real group shows it.

A node sees a rival on another node when that has committed: its own transaction is rolled back then, at whatever place
it is. In one thread here, a handler on one node runs the same operation on another.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import DatabaseError, connections

from benchmarks.faults.clusters.group_replication import MULTI
from benchmarks.faults.stage import Database, database
from django_idempotency import once
from django_idempotency.exceptions import RequestInProgress, StoreUnavailable, TryAgain
from django_idempotency.models import IdempotencyRecord
from django_idempotency.stores import stores
from tests import servers
from tests.app.models import Payment, Unique
from tests.app.serving import VENDOR
from tests.settings import DATABASE_URL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(VENDOR != "mariadb", reason="the group is started for MySQL's run"),
]

NODES = "node_0", "node_1", "node_2"
HERE, THERE, THIRD = NODES
HELD = 0.5  # seconds for which a node does not apply what others have committed
PATIENCE = 30  # seconds


@pytest.fixture(scope="module")
def group(django_db_blocker: Any) -> Iterator[Database]:
    try:
        servers.mysql_version(DATABASE_URL)
    except ValueError:
        pytest.skip("the group is started for MySQL's run")
    with django_db_blocker.unblock():
        try:
            with database(MULTI) as group:
                for alias, url in zip(NODES, group.urls, strict=True):
                    add_alias(alias, url)
                yield group
        except servers.Missing as missing:
            if os.environ.get("REQUIRE_SERVERS", "") not in ("", "0"):
                raise
            pytest.skip(f"no group of our own: {missing}")
        finally:
            for alias in [alias for alias in connections if alias.startswith("node_")]:
                connections[alias].close()
                del connections[alias], connections.settings[alias]
                stores["default"]._dialects.pop(alias, None)


def add_alias(alias: str, url: str, *session: str) -> str:
    """A connection to the node at *url*, for which *session* is set."""
    host, _, name = url.rpartition("@")[2].partition("/")
    address, _, port = host.partition(":")
    options = {"init_command": f"SET {', '.join(session)}"} if session else {}
    default = connections.settings["default"]
    connections.settings[alias] = {
        **default, "HOST": address, "PORT": port, "NAME": name, "USER": "root", "PASSWORD": "", "OPTIONS": options,
    }  # fmt: skip
    return alias


@pytest.fixture
def nodes(group: Database) -> Database:
    """The group. Each handler's run is noted in `runs`."""
    runs.clear()
    acts.clear()
    return group


runs: list[str] = []  # the node of each run of a handler
acts: dict[str, Callable[[], None]] = {}  # what a handler does on a node, before it writes a second time


def operation(alias: str, **options: Any) -> Callable[[str], int]:
    @once("group.pay", key=lambda key: key, using=alias, **options)
    def pay(key: str) -> int:
        runs.append(alias)
        payment = Payment.objects.using(alias).create(amount=1, reference=key)
        if act := acts.pop(alias, None):
            act()
        return payment.pk

    return pay


def send(alias: str, *statements: str) -> Any:
    with connections[alias].cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall()


def assert_one_effect(key: str) -> None:
    """And its record, on each node, in a while."""
    deadline = time.monotonic() + PATIENCE
    for alias in NODES:
        while not has(alias, key):
            assert time.monotonic() < deadline, f"{alias} has no record"
            time.sleep(0.02)
        assert Payment.objects.using(alias).filter(reference=key).count() == 1


def has(alias: str, key: str) -> bool:
    return IdempotencyRecord.objects.using(alias).filter(key=key, status=200).exists()


@contextmanager
def other_session(alias: str) -> Iterator[Any]:
    other = connections[alias].copy()
    other.inc_thread_sharing()
    try:
        with other.cursor() as cursor:
            yield cursor
    finally:
        other.close()


@contextmanager
def held(alias: str, by: str) -> Iterator[Callable[[], None]]:
    """
    The node *alias* has not applied the row *by* of the node `THERE`, nor what depends on it, until the end of the
    block, or until what it yields is called.
    """
    with other_session(alias) as cursor:
        cursor.execute("LOCK TABLES app_unique READ")
        Unique.objects.using(THERE).create(name=by)
        yield lambda: cursor.execute("UNLOCK TABLES")
        cursor.execute("UNLOCK TABLES")


def depends_on(name: str) -> None:
    """The transaction on `THERE` is applied after that which made this row."""
    Unique.objects.using(THERE).filter(name=name).update(name=f"{name} changed")


def wait_until_lost(alias: str, key: str) -> None:
    """Until what the rival has committed is on this node, too."""
    deadline = time.monotonic() + PATIENCE
    with other_session(alias) as cursor:
        while True:
            cursor.execute("SELECT COUNT(*) FROM django_idempotency_record WHERE `key` = %s", [key])
            if cursor.fetchone() == (1,):
                return
            assert time.monotonic() < deadline, "nothing has come from the other node"
            time.sleep(0.01)


def cause_of(refusal: BaseException) -> Any:
    """The number of the server's error, and its text."""
    driver = refusal.__cause__.__cause__
    return driver.args


@pytest.mark.parametrize("retries", [0, 3])
@pytest.mark.parametrize("place", ["record", "statement", "commit"])
def test_who_commits_later_is_rolled_back_and_replays(nodes, place, retries):
    """Wherever the rival's COMMIT finds it: 503, or with `retries` the rival's answer."""
    key = f"{place}-{retries}"
    here, there = operation(HERE, retries=retries), operation(THERE)
    answers: list[int] = []

    def lose() -> None:
        answers.append(there(key))
        if place != "commit":
            wait_until_lost(HERE, key)
        if place == "statement":
            Payment.objects.using(HERE).create(amount=2, reference=key)

    def run() -> None:
        if retries:
            assert here(key) == answers[0]
            return
        with pytest.raises(TryAgain) as refusal:
            here(key)
        number, text = cause_of(refusal.value)
        # InnoDB's 149 is a deadlock, 153 a savepoint that is not there: the applier has taken the transaction away.
        assert number in (1213, 3101) or (number in (1030, 1180) and ("error 149" in text or "error 153" in text))
        assert (number == 3101) is (place == "commit")

    acts[HERE] = lose
    if place == "commit":
        acts[THERE] = lambda: depends_on(key)
        with held(HERE, by=key) as release:

            def lose_again() -> None:
                release()
                wait_until_lost(HERE, key)

            def lose_at_commit() -> None:
                lose()
                acts[HERE] = lose_again

            acts[HERE] = lose_at_commit
            run()
        acts.clear()
    else:
        run()

    assert runs[:2] == [HERE, THERE]
    assert runs[2:] == [HERE] * (place == "commit" and retries > 0)  # before the rival's work had come
    assert_one_effect(key)
    assert here(key) == answers[0]


def test_one_of_three_nodes_executes(nodes):
    """Ten keys, each sent to all three at once, with `retries`: one effect, and one answer for all."""
    pay = [operation(alias, retries=20) for alias in NODES]
    start = threading.Barrier(len(NODES))

    def race(number: int) -> list[int]:
        answers = []
        for each in range(10):
            start.wait(PATIENCE)
            try:
                answers.append(until_answered(pay[number], f"race-{each}"))
            except BaseException:
                start.abort()  # or the others wait, and their error hides this one
                raise
        connections[NODES[number]].close()
        return answers

    with ThreadPoolExecutor(len(NODES)) as pool:
        first, *others = pool.map(race, range(len(NODES)))

    assert others == [first, first]
    assert len(set(first)) == 10
    for each in range(10):
        assert_one_effect(f"race-{each}")


def until_answered(pay: Callable[[str], int], key: str) -> int:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return pay(key)
        except (RequestInProgress, TryAgain):
            assert time.monotonic() < deadline
            time.sleep(0.005)


@pytest.mark.parametrize("consistency", ["BEFORE", "AFTER"])
def test_a_retry_on_a_node_that_lags_replays(nodes, consistency):
    """`group_replication_consistency`: the reader waits at BEFORE, the writer at AFTER."""
    setting = f"group_replication_consistency = '{consistency}'"
    careful = add_alias(f"node_{consistency}", nodes.urls[1 if consistency == "AFTER" else 2], setting)
    writer, reader = (careful, THIRD) if consistency == "AFTER" else (THERE, careful)
    acts[writer] = lambda: depends_on(consistency)

    with held(THIRD, by=consistency) as release:
        since = time.monotonic()
        timer = threading.Timer(HELD, release)
        timer.start()
        try:
            answer = operation(writer)(consistency)
            assert operation(reader)(consistency) == answer
        finally:
            timer.join()
    assert time.monotonic() - since > HELD / 2

    assert runs == [writer]
    assert_one_effect(consistency)
    connections[careful].close()


def test_a_node_that_is_read_only_replays_and_claims_nothing(nodes):
    """As a secondary, and as a node that has left the group: 503 before the handler."""
    answer = operation(HERE)("known")
    assert_one_effect("known")
    send(THIRD, "SET GLOBAL super_read_only = ON")
    try:
        assert operation(THIRD)("known") == answer
        with pytest.raises(StoreUnavailable):
            operation(THIRD)("new")
    finally:
        send(THIRD, "SET GLOBAL super_read_only = OFF")

    assert runs == [HERE]
    assert operation(THIRD)("new") > 0


def test_serializable_is_refused_before_the_handler(nodes):
    """By the plugin, wherever there are several primaries: a mistake of the project's, so no 503."""
    level = add_alias("node_serializable", nodes.urls[0])
    connections.settings[level]["OPTIONS"]["isolation_level"] = "serializable"
    with pytest.raises(DatabaseError) as refused:
        operation(level)("serializable")
    connections[level].close()

    assert refused.value.args[0] == 3098
    assert runs == []


def test_a_node_without_a_majority(nodes):
    """A COMMIT that nobody confirms has an unknown outcome: it is never run again, and its retry finds out."""
    pay = operation(HERE, retries=3)
    careful = add_alias("node_waits", nodes.urls[0], "group_replication_consistency = 'BEFORE'", "wait_timeout = 1")
    pay("before")
    others = "1 2"

    def wait_in_vain() -> int:
        """The server's error for a claim whose transaction may not begin."""
        try:
            with pytest.raises(StoreUnavailable) as refused:
                operation(careful)("new")
            return int(cause_of(refused.value)[0])
        finally:
            connections[careful].close()

    nodes.do(f"freeze {others}")
    try:
        with ThreadPoolExecutor(1) as pool:
            waited = pool.submit(wait_in_vain)
            with pytest.raises(DatabaseError) as unknown:
                pay("unknown")
            assert waited.result(PATIENCE) in (3796, 3797)
        assert unknown.value.args[0] == 3100
        with pytest.raises(StoreUnavailable):
            pay("unknown")
        assert wait_in_vain() == 3796
        assert runs == [HERE, HERE]
    finally:
        nodes.do(f"thaw {others}")
        nodes.do("join")

    answer = until_answered(operation(THERE), "unknown")
    assert_one_effect("unknown")
    assert operation(HERE)("unknown") == answer
