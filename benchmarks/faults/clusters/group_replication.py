"""MySQL Group Replication: three nodes with one primary or with three, and the faults of its nodes."""

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.faults.catalogue import Fault
from benchmarks.faults.checker import MORE_EFFECTS, NO_EFFECT, NO_RECORD, cursor_of, lines_of
from benchmarks.faults.clients import Load
from benchmarks.faults.clusters.cluster import Cluster
from benchmarks.faults.keeper import NAME, MySQL, Server
from benchmarks.faults.stage import WAIT, Stage
from tests import servers

SINGLE, MULTI = "group-replication", "group-replication-multi-primary"

# --- the nodes ---

GROUP = "6f2f2c50-9d1c-4d8e-a0c1-5a0d6f2a7f11"
OWN = "SELECT MEMBER_STATE FROM performance_schema.replication_group_members WHERE MEMBER_ID = @@server_uuid"
ONLINE = "SELECT COUNT(*) FROM performance_schema.replication_group_members WHERE MEMBER_STATE = 'ONLINE'"
PRIMARY = (
    "SELECT MEMBER_PORT FROM performance_schema.replication_group_members"
    " WHERE MEMBER_ROLE = 'PRIMARY' AND MEMBER_STATE = 'ONLINE'"
)
JOINS = 60.0  # seconds in which a node must have joined the group and have what the others have
MAJORITY = 2  # seconds without one after which a node gives up the group; it notices after 5


class Node(MySQL):
    """It is read-only until it has joined the group, of which the *seeds* are members."""

    def __init__(self, folder: Path, number: int, seeds: "list[Node]", *, multi_primary: bool) -> None:
        self.number = number
        self.group_port = servers.free_port()
        self.seeds = seeds
        self.multi_primary = multi_primary
        super().__init__(folder)

    def command(self) -> list[str | Path]:
        settings: dict[str, Any] = {
            "server-id": self.number + 1, "log-bin": "binlog", "sync-binlog": 0, "gtid-mode": "ON",
            "enforce-gtid-consistency": "ON", "super-read-only": "ON", "report-host": "127.0.0.1",
            "innodb-buffer-pool-size": "32M", "plugin-load-add": "group_replication.so",
            "loose-group-replication-group-name": GROUP, "loose-group-replication-start-on-boot": "OFF",
            "loose-group-replication-local-address": f"127.0.0.1:{self.group_port}",
            "loose-group-replication-group-seeds": ",".join(f"127.0.0.1:{node.group_port}" for node in self.seeds),
            "loose-group-replication-single-primary-mode": "OFF" if self.multi_primary else "ON",
            "loose-group-replication-enforce-update-everywhere-checks": "ON" if self.multi_primary else "OFF",
            "loose-group-replication-message-cache-size": "128M",
            "loose-group-replication-member-expel-timeout": 0,
            "loose-group-replication-unreachable-majority-timeout": MAJORITY,
            "loose-group-replication-autorejoin-tries": 0,  # an attempt may take a minute; `join` comes sooner
        }  # fmt: skip
        return [*super().command(), *(f"--{name}={value}" for name, value in settings.items())]

    def start(self) -> None:
        Server.start(self)

    def execute(self, *statements: str) -> list[Any]:
        with servers.mariadb_cursor(self.url.removesuffix(f"/{NAME}")) as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def prepare(self) -> None:
        """Make the database, and the account by which nodes copy from each other; before there is a group."""
        self.start()
        self.execute(
            "SET GLOBAL super_read_only = OFF",
            f"CREATE DATABASE {NAME}",
            "CREATE USER copier@'%'",
            "GRANT REPLICATION SLAVE, CONNECTION_ADMIN, BACKUP_ADMIN, GROUP_REPLICATION_STREAM ON *.* TO copier@'%'",
            "CHANGE REPLICATION SOURCE TO SOURCE_USER = 'copier' FOR CHANNEL 'group_replication_recovery'",
        )

    def copy(self, node: "Node") -> None:
        """Begin with the files of *node*, which is stopped: faster than new ones."""
        shutil.copytree(node.data, self.data)
        (self.data / "auto.cnf").unlink()  # has the server's UUID

    def bootstrap(self) -> None:
        switch = "SET GLOBAL group_replication_bootstrap_group"
        self.execute(f"{switch} = ON", "START GROUP_REPLICATION", f"{switch} = OFF")
        self.wait_until_online()

    def join(self) -> None:
        """Be a member that has what the others have. They may still have to notice that it was away."""
        deadline = time.monotonic() + JOINS
        while self.execute(OWN) not in ([("ONLINE",)], [("RECOVERING",)]):
            try:
                self.execute("STOP GROUP_REPLICATION", "START GROUP_REPLICATION")
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        self.wait_until_online()

    def wait_until_online(self) -> None:
        deadline = time.monotonic() + JOINS
        while (state := self.execute(OWN)) != [("ONLINE",)]:
            if time.monotonic() > deadline or state == [("ERROR",)]:
                raise RuntimeError(f"the node at port {self.port} is {state}")
            time.sleep(0.05)


class Group(Cluster):
    title = "MySQL Group Replication, single-primary"
    note = "three nodes, each with an application; two of them send a new key away with 503."
    multi_primary = False
    nodes: list[Node]  # type: ignore[assignment]

    def make(self, number: int, folder: Path) -> Node:
        return Node(folder, number, self.nodes, multi_primary=self.multi_primary)

    def start(self, *numbers: int) -> None:
        """All nodes, as a new group; or those of *numbers*, which join it."""
        first, *others = self.nodes
        if not numbers:
            first.prepare()
            first.stop()
            for node in others:
                node.copy(first)
            first.start()
            first.bootstrap()
        for node in self.chosen(numbers) if numbers else others:
            node.start()
            node.join()
        self.join()

    def join(self, *numbers: int) -> None:
        """
        Those that have left the group, or were left by it, come back.

        A node that was frozen takes itself for a member until it hears of the others, so that each is asked.
        """
        deadline = time.monotonic() + JOINS
        while any(node.execute(ONLINE) != [(self.size,)] for node in self.nodes):
            if time.monotonic() > deadline:
                raise RuntimeError(f"in {JOINS} s the group was not whole")
            for node in self.chosen(numbers):
                if node.execute(OWN) in ([("ERROR",)], [("OFFLINE",)]):
                    node.join()
            time.sleep(0.1)

    def hand_over(self, number: int) -> None:
        """Node *number* is the primary from now on, as an operator wishes."""
        self.nodes[number].execute("SELECT group_replication_set_as_primary(@@server_uuid)")


class MultiPrimary(Group):
    title = "MySQL Group Replication, multi-primary"
    note = "three nodes, each with an application that writes to it."
    multi_primary = True


CLUSTERS: dict[str, type[Cluster]] = {SINGLE: Group, MULTI: MultiPrimary}

# --- the faults ---

ANSWERS = 10  # between two faults
FROZEN = (0.5, 9.0)  # seconds; after 5 the others go on without the node
NO_MAJORITY = (4.0, 10.0)  # seconds; after 7 the node that is left gives up
TIMEOUT = 20.0  # seconds that a client waits where nobody can answer
LONG = 0.05  # seconds of a handler


def on_each_node(faults: Callable[[Stage, Load], None], stage: Stage, **options: Any) -> None:
    """Make *faults* while clients ask an application on each node. The last one claims by plain statements."""
    urls = stage.database.urls
    with ExitStack() as stack:
        applications = [stack.enter_context(stage.application(url, plain=url == urls[-1])) for url in urls]
        load = stack.enter_context(stage.load(*(each.address for each in applications), **options))
        faults(stage, load)
        load.wait_for_answers(ANSWERS, WAIT)
    stage.database.do("join")  # one that was frozen may have left only now, and the checker looks at all
    stage.nodes = urls


def primary(stage: Stage) -> int:
    """
    The number of a node that is a primary; of three, any of them.

    There may be none for a moment; a node that was frozen may leave the group late, and knows of none then.
    """
    urls = stage.database.urls
    while True:
        for url in urls:
            with cursor_of(url) as cursor:
                cursor.execute(PRIMARY)
                ports = [port for (port,) in cursor.fetchall()]
            if ports:
                return [urlsplit(each).port for each in urls].index(stage.draw.choice(ports))
        stage.database.do("join")


def killed(stage: Stage, load: Load) -> None:
    def kill() -> None:
        number = primary(stage)
        stage.database.do(f"kill {number}")
        load.wait_for_answers(ANSWERS, WAIT)
        stage.database.do(f"start {number}")

    stage.repeat(load, kill, answers=ANSWERS)


def frozen(stage: Stage, load: Load) -> None:
    def freeze() -> None:
        number = primary(stage)
        stage.database.do(f"freeze {number}")
        time.sleep(stage.draw.uniform(*FROZEN))
        stage.database.do(f"thaw {number}")
        stage.database.do("join")

    stage.repeat(load, freeze, answers=ANSWERS)


def without_majority(stage: Stage, load: Load) -> None:
    """All but one are frozen. If the one gives up, the others are the group when they come back."""

    def freeze() -> None:
        number = primary(stage)
        others = " ".join(str(each) for each in range(Group.size) if each != number)
        stage.database.do(f"freeze {others}")
        time.sleep(stage.draw.uniform(*NO_MAJORITY))
        stage.database.do(f"thaw {others}")
        stage.database.do("join")

    stage.repeat(load, freeze, answers=ANSWERS)


def handed_over(stage: Stage, load: Load) -> None:
    def hand_over() -> None:
        stage.database.do("join")
        stage.database.do(f"hand_over {(primary(stage) + 1) % Group.size}")

    stage.repeat(load, hand_over, answers=ANSWERS)


def raced(stage: Stage, load: Load) -> None:
    """No fault but each other. A fault is a 503: a transaction that lost."""
    for _ in range(stage.rounds):
        load.wait_for_answers(ANSWERS, WAIT)
    stage.faults = sum(line.get("code") == "try-again" for line in lines_of(stage.log))


def fault(
    name: str, promise: str, kind: str, faults: Callable[[Stage, Load], None],
    *, bug: str, caught: tuple[str, ...], rounds: int, **options: Any,
) -> Fault:  # fmt: skip
    make = partial(on_each_node, faults, **options)
    return Fault(name=name, promise=promise, make=make, bug=bug, caught=caught, kinds=(kind,), rounds=rounds)


NEW_PRIMARY = "what has an answer is on the others: the retry at the new primary gets it"
LEFT_OUT = "a COMMIT that the group has not confirmed is a 500, of which the retry finds out; then 503 from this node"
FAULTS: tuple[Fault, ...] = (
    fault(
        "the primary is killed with -9, and joins the group again",
        NEW_PRIMARY,
        SINGLE, killed, bug="answers anyway", caught=(NO_EFFECT,), rounds=4, seconds=LONG,
    ),
    fault(
        "the primary is frozen and comes back, in the group or out of it",
        f"{NEW_PRIMARY}; {LEFT_OUT}",
        SINGLE, frozen, bug="no claim", caught=(MORE_EFFECTS,), rounds=4, seconds=LONG, duplicates=0.8,
    ),
    fault(
        "an operator makes another node the primary",
        NEW_PRIMARY,
        SINGLE, handed_over, bug="no claim", caught=(MORE_EFFECTS,), rounds=8, seconds=LONG, duplicates=0.8,
    ),
    fault(
        "duplicates are sent to all nodes at once",
        "one COMMIT gets through; the others are rolled back, 503, and their retry gets its answer",
        MULTI, raced, bug="answers anyway", caught=(NO_EFFECT,), rounds=20, seconds=LONG, duplicates=0.9,
    ),
    fault(
        "a node is killed with -9, and joins the group again",
        "what has an answer is on the others: the retry there gets it",
        MULTI, killed, bug="record outside the transaction", caught=(MORE_EFFECTS, NO_RECORD), rounds=4,
    ),
    fault(
        "a node is frozen and comes back, in the group or out of it",
        LEFT_OUT,
        MULTI, frozen, bug="no claim", caught=(MORE_EFFECTS,), rounds=4,
    ),
    fault(
        "a node loses sight of the others, and comes back, in the group or out of it",
        f"nobody gets an answer meanwhile; {LEFT_OUT}",
        MULTI, without_majority, bug="record outside the transaction", caught=(MORE_EFFECTS, NO_RECORD), rounds=4,
        timeout=TIMEOUT,
    ),
)  # fmt: skip
