"""A PostgreSQL primary with a streaming standby, the faults of the primary, and the failover to the standby."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.faults.catalogue import Fault
from benchmarks.faults.checker import MORE_EFFECTS, NO_EFFECT, NO_RECORD, cursor_of
from benchmarks.faults.clients import Address
from benchmarks.faults.clusters.cluster import Cluster
from benchmarks.faults.keeper import PostgreSQL, program
from benchmarks.faults.network import Wire
from benchmarks.faults.on_the_way import LeftOut
from benchmarks.faults.stage import WAIT, Stage
from tests import servers

KIND = "postgresql-standby"

# --- the nodes ---

STREAMS = 20.0  # seconds in which a new standby must stream


class Node(PostgreSQL):
    """Clients and the other node reach it over a wire that can be cut. It is a standby if there is a *primary*."""

    def __init__(self, folder: Path, primary: "Node | None") -> None:
        self.primary = primary
        super().__init__(folder)
        self.wire = Wire("127.0.0.1", self.port)

    def initialize(self) -> None:
        """A standby's files are copied when it starts."""
        if self.primary is None:
            super().initialize()
        else:
            self.find_programs()
        if not (self.programs / "pg_basebackup").exists():
            raise servers.Missing(f"there is no pg_basebackup in {self.programs}")

    def command(self) -> list[str | Path]:
        return [*super().command(), "--wal_keep_size=64MB", *([self.follows] if self.primary else [])]

    @property
    def follows(self) -> str:
        assert self.primary is not None
        port = self.primary.wire.port
        return f"--primary_conninfo=host=127.0.0.1 port={port} user=postgres application_name={KIND}"

    def start(self) -> None:
        if self.primary is not None and not any(self.data.iterdir()):
            servers.call(
                self.programs / "pg_basebackup", f"--pgdata={self.data}", "--host=127.0.0.1", "--username=postgres",
                f"--port={self.primary.port}", "--checkpoint=fast", "--no-sync", folder=self.folder, **self.account,
            )  # fmt: skip
            (self.data / "standby.signal").touch()
        super().start()
        if (self.data / "standby.signal").exists():
            self.primary.wait_until("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")

    def follow(self, primary: "Node") -> None:
        """Start anew, as a standby with a copy of the *primary*."""
        self.primary = primary
        shutil.rmtree(self.data)
        self.run_directory()
        self.start()

    @property
    def url(self) -> str:
        return f"postgres://postgres@127.0.0.1:{self.wire.port}/postgres"

    def execute(self, *statements: str) -> list[Any]:
        """Directly, not over the wire. Returns what the last one has selected."""
        import psycopg

        with psycopg.connect(super().url, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall()

    def wait_until(self, question: str) -> None:
        deadline = time.monotonic() + STREAMS
        while not self.execute(question)[0][0]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"in {STREAMS} s not true: {question}")
            time.sleep(0.05)


class PrimaryAndStandby(Cluster):
    title = "PostgreSQL, primary and standby"
    note = """both are reached over lines that the suite can cut. When the primary is harmed the standby is promoted,
        and the primary becomes a standby of it. Before each fault the primary's sender may be frozen, so that the
        standby lags. *does not wait*: `synchronous_commit = local` in the project's sessions. *not fenced*: the frozen
        primary comes back beside the new one, and clients go on with both. *restarted before*: the killed primary is
        started again, and shows what its clients were still waiting for; then the standby is promoted after all."""
    size = 2
    nodes: list[Node]  # type: ignore[assignment]

    def make(self, number: int, folder: Path) -> Node:
        return Node(folder, primary=self.nodes[0] if number else None)

    def synchronous(self, number: int) -> None:
        """Node *number* waits for its standby from now on."""
        node = self.nodes[number]
        node.execute("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        node.wait_until("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")

    def asynchronous(self, number: int) -> None:
        self.nodes[number].execute("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")

    def lag(self, number: int) -> None:
        """What node *number* writes does not leave it any more."""
        for (pid,) in self.nodes[number].execute("SELECT pid FROM pg_stat_replication"):
            os.kill(pid, signal.SIGSTOP)

    def cut(self, number: int) -> None:
        self.nodes[number].wire.cut()

    def mend(self, number: int) -> None:
        self.nodes[number].wire.mend()

    def promote(self, number: int) -> None:
        """As an operator does: the new primary has no standby yet that it could wait for."""
        self.asynchronous(number)
        self.nodes[number].execute("SELECT pg_promote()")

    def follow(self, number: int, primary: int) -> None:
        self.nodes[number].follow(self.nodes[primary])


CLUSTERS: dict[str, type[Cluster]] = {KIND: PrimaryAndStandby}

# --- how clients get to the new primary ---

Way = Callable[[Stage, dict[str, Any], int], AbstractContextManager[tuple[list[Address], Callable[[int], None]]]]
GUNICORN = 4  # seconds, after which a worker that waits for a primary that is away is killed
CONNECT = 2  # seconds; libpq's least


def stay(primary: int) -> None:
    """The clients find the new *primary* without us."""


@contextmanager
def both(stage: Stage, options: dict[str, Any], primary: int) -> Iterator[tuple[list[Address], Callable[[int], None]]]:
    """
    An application on each node, and clients that ask any of them: half of their requests come to a standby.

    One of the two works with plain statements.
    """
    one, other = stage.database.urls
    with (
        stage.application(one, options=options, timeout=GUNICORN) as first,
        stage.application(other, options=options, timeout=GUNICORN, plain=True) as second,
    ):
        yield [first.address, second.address], stay


@contextmanager
def multi_host(
    stage: Stage, options: dict[str, Any], primary: int
) -> Iterator[tuple[list[Address], Callable[[int], None]]]:
    """One application, which libpq leads to the node that is a primary."""
    ports = ",".join(str(urlsplit(url).port) for url in stage.database.urls)
    options = {**options, "target_session_attrs": "read-write", "connect_timeout": CONNECT}
    database = {"HOST": "127.0.0.1,127.0.0.1", "PORT": ports}
    with stage.application(database=database, options=options, timeout=GUNICORN) as app:
        yield [app.address], stay


@contextmanager
def pooled(
    stage: Stage, options: dict[str, Any], primary: int
) -> Iterator[tuple[list[Address], Callable[[int], None]]]:
    """One application behind pgbouncer, and that before an address which moves to the new primary."""
    urls = [urlsplit(url) for url in stage.database.urls]
    address = Wire("127.0.0.1", urls[primary].port or 0)
    url = urls[0]._replace(netloc=f"postgres@127.0.0.1:{address.port}").geturl()
    try:
        pgbouncer = program("pgbouncer")
    except servers.Missing as missing:
        raise LeftOut(str(missing)) from missing
    with (
        servers.keeper("pgbouncer", PROGRAM=str(pgbouncer), POSTGRES_URL=url) as pooler,
        stage.application(pooler, workers=servers.POOL_SIZE + 3, environment={"POOLED": "1"}) as app,
    ):
        yield [app.address], lambda primary: address.lead(urls[primary].port or 0)


# --- the faults ---

LAG = (0.2, 0.7)  # seconds
BACK = 1.5  # seconds for a primary that comes back beside the new one
ANSWERS = 15  # between two faults
WAY_BACK = {"freeze": "thaw", "cut": "mend"}

DOES_NOT_WAIT = "does not wait"
NOT_FENCED = "not fenced"
RESTARTED = "restarted before"
LOCAL = "local"  # of the values of synchronous_commit: the standby is not waited for


def is_primary(url: str) -> bool:
    with cursor_of(url) as cursor:
        cursor.execute("SELECT NOT pg_is_in_recovery()")
        return bool(cursor.fetchone()[0])


def fail_over(harm: str, commit: str, way: Way, stage: Stage) -> None:
    """
    *harm* the primary under load, promote the standby, and let clients retry there: again and again.

    *commit* is `synchronous_commit`. A primary that was not killed is fenced before the promotion if nobody waits for
    the standby; else it comes back when the new primary works, and is fenced a while later.
    """
    do, draw, urls = stage.database.do, stage.draw, stage.database.urls
    primary = 0 if is_primary(urls[0]) else 1
    is_synchronous = commit != LOCAL
    is_fenced = not is_synchronous and stage.bug != NOT_FENCED

    def fault() -> None:
        nonlocal primary
        old, new = primary, 1 - primary
        if not is_synchronous or stage.bug or draw.random() < 0.5:
            do(f"lag {old}")
            time.sleep(draw.uniform(*LAG))  # COMMIT waits, or what it has said is not true of the standby
        do(f"{harm} {old}")
        time.sleep(draw.uniform(0, 0.2))  # clients find it away
        if is_fenced:
            do(f"kill {old}")
        if stage.bug == RESTARTED:
            do(f"start {old}")
            time.sleep(BACK)
        do(f"promote {new}")
        if not is_synchronous:
            load.journal.failed_over()
        moved(new)
        if harm in WAY_BACK and not is_fenced:
            if not stage.bug and draw.random() < 0.5:
                load.wait_for_answers(1, WAIT)  # till its clients have left it; else they go on with it
            do(f"{WAY_BACK[harm]} {old}")
            time.sleep(BACK)
        do(f"kill {old}")
        do(f"mend {old}")
        do(f"follow {old} {new}")
        if is_synchronous:
            do(f"synchronous {new}")
        primary = new

    do(f"{'synchronous' if is_synchronous else 'asynchronous'} {primary}")
    options = {"options": f"-c synchronous_commit={LOCAL if stage.bug == DOES_NOT_WAIT else commit}"}
    with way(stage, options, primary) as (addresses, moved), stage.load(*addresses) as load:
        stage.repeat(load, fault, answers=ANSWERS)
        load.wait_for_answers(ANSWERS, WAIT)
    stage.nodes = [urls[primary], urls[1 - primary]]


def fault(name: str, promise: str, way: Way, *, harm: str, commit: str, bug: str, caught: tuple[str, ...]) -> Fault:
    return Fault(
        name=name, promise=promise, make=partial(fail_over, harm, commit, way), bug=bug, caught=caught, kinds=(KIND,),
        rounds=5 if harm == "kill" else 3,
    )  # fmt: skip


REPLAYED = "what has an answer is on the standby: the retry there gets it"
WAITS = "as killed; when it comes back, its COMMITs wait for a standby that is gone, and nobody gets an answer from it"
LOST = "what the standby has not got is lost whole, effect and record; the retry executes"

FAULTS: tuple[Fault, ...] = (
    fault(
        "synchronous, the primary is killed with -9, an application on each node",
        f"{REPLAYED}; 503 from a standby",
        both, harm="kill", commit="on", bug=DOES_NOT_WAIT, caught=(NO_EFFECT,),
    ),
    fault(
        "synchronous (`remote_apply`), the primary is killed with -9, `target_session_attrs=read-write`",
        REPLAYED,
        multi_host, harm="kill", commit="remote_apply", bug=RESTARTED, caught=(NO_EFFECT,),
    ),
    fault(
        "synchronous, the primary is killed with -9 behind pgbouncer",
        REPLAYED,
        pooled, harm="kill", commit="on", bug="answers anyway", caught=(NO_EFFECT,),
    ),
    fault(
        "synchronous, the primary is frozen and comes back, `target_session_attrs=read-write`",
        WAITS,
        multi_host, harm="freeze", commit="on", bug=DOES_NOT_WAIT, caught=(NO_EFFECT,),
    ),
    fault(
        "synchronous, the primary is cut off and comes back, `target_session_attrs=read-write`",
        WAITS,
        multi_host, harm="cut", commit="on", bug=DOES_NOT_WAIT, caught=(NO_EFFECT,),
    ),
    fault(
        "asynchronous, the primary is killed with -9, an application on each node",
        LOST,
        both, harm="kill", commit=LOCAL, bug="record outside the transaction", caught=(MORE_EFFECTS, NO_RECORD),
    ),
    fault(
        "asynchronous, the primary is frozen, and fenced before the promotion, `target_session_attrs=read-write`",
        LOST,
        multi_host, harm="freeze", commit=LOCAL, bug=NOT_FENCED, caught=(NO_EFFECT,),
    ),
    fault(
        "asynchronous, the primary is cut off, and fenced before the promotion, `target_session_attrs=read-write`",
        LOST,
        multi_host, harm="cut", commit=LOCAL, bug=NOT_FENCED, caught=(NO_EFFECT,),
    ),
)  # fmt: skip
