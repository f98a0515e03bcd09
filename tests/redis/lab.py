"""The test's side of the processes: they are asked, halted in their handlers, stopped and killed."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.proof.lines import TIMEOUT, Lines
from tests.redis.servers import PATIENCE, POLL, wait_until
from tests.redis.topologies import NAME, Cluster, SentinelPair

ROOT = Path(__file__).resolve().parent.parent.parent

IN_PROGRESS = (409, "request-in-progress")
UNKNOWN = (409, "outcome-unknown")
UNAVAILABLE = (503, "store-unavailable")

LASTING = 30.0  # seconds: a lease that no test sees the end of
SHORT = 0.4  # seconds: one that a test waits for
IMPATIENT = {"SOCKET_TIMEOUT": 0.3, "SOCKET_CONNECT_TIMEOUT": 0.3}  # seconds, with a server that is stopped


def cache(url: str, **options: Any) -> dict[str, Any]:
    """The entry of `CACHES` for the server at *url*."""
    return {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": url,
        "KEY_PREFIX": "tests",
        "OPTIONS": {**IMPATIENT, **options},
    }


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
class Reply:
    """An answer as a client sees it, and what the process has logged and signalled meanwhile."""

    status: int
    headers: dict[str, str]
    body: str
    error: str = ""
    log: list[str] = field(default_factory=list)
    signals: list[str] = field(default_factory=list)

    @property
    def replayed(self) -> bool:
        return self.headers.get("idempotency-replayed") == "true"

    @property
    def code(self) -> str | None:
        """The refusal's code, where it is one."""
        return json.loads(self.body)["code"] if self.headers.get("content-type") == "application/problem+json" else None

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

    def effects(self, key: str) -> list[int]:
        """Which processes have done the work under *key*, in this order."""
        try:
            lines = (self.folder / "effects").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [int(pid) for named, pid in (line.split() for line in lines) if named == key]


class Child:
    """One Django process. Its requests are POSTs to `/act/`."""

    def __init__(self, lines: Lines, gate: Gate, **config: Any) -> None:
        self.lines = lines
        self.gate = gate
        self.pid: int = lines.receive()["pid"]
        lines.send(config)

    def send(self, key: str, steps: str = "effect", amount: int = 10) -> None:
        headers = {"Idempotency-Key": key, "X-Steps": steps}
        self.lines.send({"path": "/act/", "headers": headers, "body": {"amount": amount}})

    def reply(self) -> Reply:
        message = self.lines.receive()
        assert message is not None, f"process {self.pid} is gone"
        return Reply(**message)

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
            if select.select([self.lines._socket], [], [], POLL)[0]:
                reply = self.reply()
                assert reply.said in said, reply
                assert time.monotonic() < deadline, f"still {reply.said}"
                self.send(key, steps)

    def finish(self) -> Reply:
        """Let the handler that stands still go on to the request's end."""
        self.gate.open(self.pid)
        return self.reply()

    def stop(self) -> None:
        """SIGSTOP: all its threads stand still."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        with suppress(ProcessLookupError):  # a crash was faster, and the test says so
            os.kill(self.pid, signal.SIGKILL)
        with suppress(OSError):  # after a timeout its lines cannot be read any more
            while self.lines.receive() is not None:
                pass  # what it had said before
        self.lines.close()

    @property
    def is_closed(self) -> bool:
        return self.lines._socket.fileno() == -1


class Lab:
    """Makes processes: each a fork of one that is prepared already, so that it costs little."""

    def __init__(self) -> None:
        self.gate: Gate | None = None  # of the test that runs
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(TIMEOUT)
        self._origin = subprocess.Popen(
            [sys.executable, "-m", "tests.redis.child"], cwd=ROOT, stdin=subprocess.PIPE, text=True
        )
        self._children: list[Child] = []

    @property
    def port(self) -> int:
        return self._listener.getsockname()[1]

    def child(self, cache: dict[str, Any], *, lease: float = LASTING, **options: Any) -> Child:
        """A process whose default cache is *cache*; *lease* in seconds, other *options* as in the setting."""
        self._origin.stdin.write(f"{self.port}\n")
        self._origin.stdin.flush()
        return self._accept(cache=cache, options={"LEASE": lease, **options})

    def fork(self, child: Child) -> Child:
        """A fork of *child*, with all that this has made."""
        child.lines.send({"fork": True})
        forked = self.forked()
        child.lines.receive()
        return forked

    def forked(self) -> Child:
        """A fork that a handler has made."""
        return self._accept()

    def _accept(self, **config: Any) -> Child:
        config |= {"folder": str(self.gate.folder), "port": self.port}
        child = Child(Lines(self._listener.accept()[0]), self.gate, **config)
        self._children.append(child)
        return child

    def end_children(self) -> None:
        for child in self._children:
            if not child.is_closed:
                child.kill()
        self._children.clear()

    def close(self) -> None:
        self.end_children()
        self._origin.stdin.close()
        self._origin.wait()
        self._listener.close()
