"""The test's side of the processes: they are asked, halted in their handlers, stopped and killed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab import caches, forks
from tests.redis.servers import PATIENCE, POLL, wait_until
from tests.redis.topologies import NAME, Cluster, SentinelPair

IN_PROGRESS = (409, "request-in-progress")
UNKNOWN = (409, "outcome-unknown")
UNAVAILABLE = (503, "store-unavailable")

LASTING = 30.0  # seconds: a lease that no test sees the end of
SHORT = 0.4  # seconds: one that a test waits for
IMPATIENT = {"SOCKET_TIMEOUT": 0.3, "SOCKET_CONNECT_TIMEOUT": 0.3}  # seconds, with a server that is stopped


def cache(url: str, **options: Any) -> dict[str, Any]:
    """The entry of `CACHES` for the server at *url*."""
    return caches.cache(url, options={**IMPATIENT, **options}, KEY_PREFIX="tests")


def sentinel_cache(pair: SentinelPair) -> dict[str, Any]:
    return cache(
        f"redis://{NAME}/0",
        CLIENT_CLASS="django_redis.client.SentinelClient",
        CONNECTION_FACTORY="django_redis.pool.SentinelConnectionFactory",
        SENTINELS=pair.addresses,
    )


def cluster_cache(cluster: Cluster) -> dict[str, Any]:
    return cache(
        "redis://cluster",
        CONNECTION_FACTORY="tests.redis.factories.ClusterConnectionFactory",
        NODES=cluster.addresses,
    )


@dataclass(frozen=True, slots=True)
class Reply(forks.Reply):
    """An answer, and what the process has logged and signalled meanwhile."""

    log: list[str] = field(default_factory=list)
    signals: list[str] = field(default_factory=list)

    @property
    def by(self) -> int:
        """The process whose handler has given this answer, now or at first."""
        return json.loads(self.body)["by"]

    @property
    def said(self) -> tuple[int, str | None]:
        return self.status, self.code

    def told(self, level: str, word: str) -> bool:
        return any(line.startswith(level) and word in line for line in self.log)


class Gate:
    """Handlers that halt, seen from outside: the files that `urls.halt` writes and waits for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def is_halted(self, pid: int) -> bool:
        return (self.folder / f"halted-{pid}").exists()

    def halted(self, pid: int) -> None:
        """Wait until the handler in process *pid* stands still."""
        wait_until(f"process {pid} halts in its handler", lambda: self.is_halted(pid))

    def halted_pid(self) -> int:
        """Wait until any process stands still in its handler, and return its id."""
        return int(wait_until("a process halts", lambda: [*self.folder.glob("halted-*")])[0].name.partition("-")[2])

    def open(self, pid: int) -> None:
        (self.folder / f"go-{pid}").touch()

    def close(self, pid: int) -> None:
        """Let the next handler in process *pid* halt again."""
        for name in ("halted", "go"):
            (self.folder / f"{name}-{pid}").unlink()

    def tell(self, name: str, steps: str) -> None:
        """Write the *steps* that "probe" takes, or, as "answer", those before an answer is stored."""
        (self.folder / name).write_text(steps)

    def asked(self, key: str) -> list[int]:
        """Which processes have asked the probe about *key*, in this order."""
        return self.effects(key, "asked")

    def effects(self, key: str, name: str = "effects") -> list[int]:
        """Which processes have done the work under *key*, in this order."""
        try:
            lines = (self.folder / name).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [int(pid) for named, pid in (line.split() for line in lines) if named == key]


class Child(forks.Process):
    """One Django process. Its requests are POSTs to `/act/`."""

    gate: Gate

    def send(self, key: str, steps: str = "effect", amount: int = 10) -> None:
        headers = {"Idempotency-Key": key, "X-Steps": steps}
        self.lines.send({"path": "/act/", "headers": headers, "body": {"amount": amount}})

    def reply(self) -> Reply:
        return Reply(**self.result())

    def ask(self, key: str, steps: str = "effect", amount: int = 10) -> Reply:
        self.send(key, steps, amount)
        return self.reply()

    def ask_while(self, *said: tuple[int, str | None], key: str) -> Reply:
        """As a client that comes again: the first answer that is none of *said*."""
        deadline = time.monotonic() + PATIENCE
        while (reply := self.ask(key)).said in said:
            assert time.monotonic() < deadline, f"still {reply.said}"
            time.sleep(POLL)
        return reply

    def halt(self, key: str, steps: str = "effect halt") -> None:
        """Send a request, and wait until its handler stands still."""
        self.send(key, steps)
        self.gate.halted(self.pid)

    def halt_after(self, *said: tuple[int, str | None], key: str, steps: str = "effect halt") -> None:
        """Send a request again while it gets one of the answers *said*, until its handler stands still."""
        deadline = time.monotonic() + PATIENCE
        self.send(key, steps)
        while not self.gate.is_halted(self.pid):
            if self.lines.is_waiting(POLL):
                reply = self.reply()
                assert reply.said in said, reply
                assert time.monotonic() < deadline, f"still {reply.said}"
                self.send(key, steps)

    def finish(self) -> Reply:
        """Let the handler that stands still go on to the request's end."""
        self.gate.open(self.pid)
        return self.reply()


class Lab(forks.Forks[Child]):
    """Makes processes whose handlers halt at the gate of the test that runs."""

    def __init__(self) -> None:
        super().__init__(Child, "tests.redis.child")
        self.gate: Gate | None = None

    def child(self, cache: dict[str, Any], *, lease: float = LASTING, **options: Any) -> Child:
        """A process whose default cache is *cache*; *lease* in seconds, other *options* as in the setting."""
        return self.fork(cache=cache, options={"LEASE": lease, **options})

    def fork_of(self, child: Child) -> Child:
        """A fork of *child*, with all that this has made."""
        child.lines.send({"fork": True})
        forked = self.accept()
        child.lines.receive()
        return forked

    def accept(self, **config: Any) -> Child:
        child = super().accept(**config, folder=str(self.gate.folder), port=self.port)
        child.gate = self.gate
        return child
