"""Faults of MariaDB Galera, and its nodes, each of which takes writes."""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults.catalogue import Fault
from benchmarks.faults.checker import MORE_EFFECTS, NO_EFFECT, cursor_of
from benchmarks.faults.clients import Load
from benchmarks.faults.clusters.cluster import Cluster
from benchmarks.faults.keeper import MariaDB, Server
from benchmarks.faults.stage import WAIT, Stage
from tests import servers

PROVIDERS = [Path("/usr/lib") / place / "libgalera_smm.so" for place in ("galera", "galera-4", "x86_64-linux-gnu")]
SUSPECT = 2  # seconds after which the others give up a node that is silent; Galera's own choice is 5
# Of these, the first has to be less than a third of the third: otherwise no node starts.
TIMES = {
    "evs.keepalive_period": "PT0.3S", "evs.inactive_check_period": "PT0.3S", "evs.suspect_timeout": f"PT{SUSPECT}S",
    "evs.inactive_timeout": f"PT{2 * SUSPECT}S", "evs.install_timeout": f"PT{2 * SUSPECT}S",
}  # fmt: skip


class Node(MariaDB):
    """A server with all data. The first of *others*, the nodes before it, has made the cluster."""

    def __init__(self, folder: Path, others: list[Server]) -> None:
        self.meeting = f"127.0.0.1:{servers.free_port()}"
        self.others = [other.meeting for other in others if isinstance(other, Node)]
        self.is_founded = bool(others)
        super().__init__(folder)

    def initialize(self) -> None:
        self.provider = next((path for path in PROVIDERS if path.exists()), None)
        if self.provider is None:
            raise servers.Missing("no libgalera_smm.so is installed: it is in Debian's package galera-4")
        super().initialize()

    def command(self) -> list[str | Path]:
        network = {
            "gmcast.listen_addr": f"tcp://{self.meeting}", "ist.recv_addr": f"127.0.0.1:{servers.free_port()}",
            "gcache.size": "32M", **TIMES,
        }  # fmt: skip
        settings = {
            "wsrep-on": "ON", "wsrep-provider": self.provider, "wsrep-node-address": self.meeting,
            "wsrep-cluster-address": f"gcomm://{','.join(self.others) if self.is_founded else ''}",
            "wsrep-sst-method": "rsync", "wsrep-sst-receive-address": f"127.0.0.1:{servers.free_port()}",
            "wsrep-provider-options": ";".join(f"{name}={value}" for name, value in network.items()),
            "wsrep-slave-threads": 2, "binlog-format": "ROW", "innodb-autoinc-lock-mode": 2,
        }  # fmt: skip
        return [*super().command(), *(f"--{name}={value}" for name, value in settings.items())]

    def version(self) -> str:
        """Raises, too, while the node has not joined, or the nodes that it sees are not the majority."""
        with servers.mariadb_cursor(self.url) as cursor:
            cursor.execute("SHOW STATUS LIKE 'wsrep_ready'")
            if cursor.fetchone()[1] != "ON":
                raise RuntimeError("the node is not in the cluster")
        return f"{super().version()} with Galera"

    def start(self) -> None:
        super().start()
        self.is_founded = True

    def isolate(self, isolated: int) -> None:
        with servers.mariadb_cursor(self.url) as cursor:
            cursor.execute(f"SET GLOBAL wsrep_provider_options = 'gmcast.isolate={isolated}'")


class Galera(Cluster):
    """Three nodes. More words: `cut` takes nodes off the others' network, `join` brings them back, and waits for it."""

    title = "MariaDB Galera"
    note = f"""three nodes that all take writes, with `evs.suspect_timeout` at {SUSPECT} seconds. A node that was killed
        loses its data and gets them anew from another (`rsync`)."""

    def make(self, number: int, folder: Path) -> Server:
        return Node(folder, self.nodes)

    def start(self, *numbers: int) -> None:
        first, *others = self.chosen(numbers)
        first.start()
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.start(), others))
        for node in self.nodes:
            assert isinstance(node, Node)
            node.others = [other.meeting for other in self.nodes if isinstance(other, Node)]

    def cut(self, *numbers: int) -> None:
        self._isolate(1, *numbers)

    def join(self, *numbers: int) -> None:
        self._isolate(0, *numbers)
        for node in self.chosen(numbers):
            assert node.process is not None
            servers.wait_for(node.version, node.process, node.folder / "log")

    def _isolate(self, isolated: int, *numbers: int) -> None:
        for node in self.chosen(numbers):
            assert isinstance(node, Node)
            node.isolate(isolated)


CLUSTERS: dict[str, type[Cluster]] = {"galera": Galera}

# --- the faults ---

GUNICORN = 6  # seconds, after which gunicorn gives up a worker whose node is silent
ANSWERS = 10  # between two faults
DUPLICATES = 0.8  # the share of keys that two clients send at once, mostly to two nodes
BACK = 0.5  # seconds for the last rows to be on all nodes


@contextmanager
def clients(stage: Stage) -> Iterator[Load]:
    """An application on each node, and clients that ask any of them."""
    with (
        stage.applications(timeout=GUNICORN) as apps,
        stage.load(*(app.address for app in apps), duplicates=DUPLICATES) as load,
    ):
        yield load
    time.sleep(BACK)
    stage.nodes = stage.database.urls


def raced(stage: Stage) -> None:
    """Nothing is harmed. A fault is a 503: a transaction that had lost at COMMIT."""
    with clients(stage) as load:
        for _ in range(stage.rounds):
            load.wait_for_answers(ANSWERS, WAIT)
    stage.faults = stage.verdict().statuses[503]


def harmed(harm: str, way_back: str, stage: Stage) -> None:
    """*harm* one node after the other under load; each is back before the next one."""
    nodes = itertools.cycle(range(len(stage.database.urls)))

    def fault() -> None:
        node = next(nodes)
        stage.database.do(f"{harm} {node}")
        time.sleep(stage.draw.uniform(0, 2 * SUSPECT))  # before and after the others have given it up
        stage.database.do(f"{way_back} {node}")

    with clients(stage) as load:
        stage.repeat(load, fault, answers=ANSWERS)
        load.wait_for_answers(ANSWERS, WAIT)


def purged(stage: Stage) -> None:
    """Records that have expired, of no client's keys, are purged on all nodes at once under load."""

    def purge() -> None:
        with cursor_of(stage.database.urls[0]) as cursor:
            cursor.execute(OLD)
            cursor.connection.commit()
        purges = [
            subprocess.Popen(
                [sys.executable, "-m", "django", "idempotency_purge", "--batch-size=25", "--verbosity=0"],
                env={**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "tests.settings"},
            )
            for url in stage.database.urls
        ]
        if sum(each.wait() for each in purges):
            raise RuntimeError("a purge has failed")

    with clients(stage) as load:
        stage.repeat(load, purge, answers=ANSWERS)


OLD = """
    INSERT INTO django_idempotency_record
        (digest, fingerprint, scope, operation, `key`, request, request_id, status, head, body, executed_at, expires_at)
    SELECT UNHEX(SHA2(UUID(), 256)), '', '', '', CONCAT('old-', seq), '', '', 201, '', '', UTC_TIMESTAMP(6),
        UTC_TIMESTAMP(6) - INTERVAL 1 SECOND
    FROM seq_1_to_100
"""


def fault(name: str, promise: str, make: Callable[[Stage], None], **more: Any) -> Fault:
    return Fault(name=name, promise=promise, make=make, kinds=("galera",), **more)


FAULTS: tuple[Fault, ...] = (
    fault(
        "duplicates meet on different nodes",
        "409, or 503 from the node that has lost at COMMIT; its retry gets the answer",
        raced, bug="answers anyway", caught=(NO_EFFECT,), rounds=20,
    ),
    fault(
        "a node is killed with -9, and joins anew under load",
        "what has an answer is on the others",
        partial(harmed, "kill", "start"), bug="no claim", caught=(MORE_EFFECTS,), rounds=3,
    ),
    fault(
        "a node is frozen and comes back",
        "the others go on when they have given it up; what it had not committed, it cannot commit",
        partial(harmed, "freeze", "thaw"), bug="answers anyway", caught=(NO_EFFECT,), rounds=6,
    ),
    fault(
        "a node is cut off from the others, and joins again",
        "503 or 500 while it has no quorum; its COMMITs fail, or are on the others",
        partial(harmed, "cut", "join"), bug="answers anyway", caught=(NO_EFFECT,), rounds=6,
    ),
    fault(
        "expired records are purged on all nodes at once",
        "as on one; a batch that loses at COMMIT is tried again",
        purged, bug="no claim", caught=(MORE_EFFECTS,), rounds=3,
    ),
)  # fmt: skip
