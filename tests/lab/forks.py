"""The test's side of the processes that it asks, halts and kills. Their own side is `origin.py`."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tests.lab.lines import TIMEOUT, Lines

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as a client sees it; *error* is what the server would have logged."""

    status: int
    headers: dict[str, str]
    body: str
    error: str = ""

    @property
    def replayed(self) -> bool:
        return self.headers.get("idempotency-replayed") == "true"

    @property
    def code(self) -> str | None:
        """The refusal's code, or None if it is not a refusal."""
        return json.loads(self.body)["code"] if self.headers.get("content-type") == "application/problem+json" else None


class Process:
    """One forked process, which has called back on *lines* and gets its *config*."""

    def __init__(self, lines: Lines, config: dict[str, Any]) -> None:
        self.lines = lines
        self.pid: int = lines.receive()["pid"]
        lines.send(config)

    def result(self) -> Any:
        """The next message of the process."""
        message = self.lines.receive()
        assert message is not None, f"process {self.pid} is gone"
        return message

    def stop(self) -> None:
        """SIGSTOP: all its threads stand still."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        with suppress(ProcessLookupError):  # a crash was faster, and the test fails for it
            os.kill(self.pid, signal.SIGKILL)
        with suppress(OSError):  # after a timeout its lines cannot be read any more
            while self.lines.receive() is not None:
                pass  # what it had sent before
        self.close()

    def close(self) -> None:
        """End the connection; the process ends by itself then."""
        self.lines.close()


Kind = TypeVar("Kind", bound=Process)


class Forks(Generic[Kind]):
    """Makes processes of *kind*, each a fork of the script *module*, which is given the *arguments*."""

    def __init__(self, kind: type[Kind], module: str, *arguments: str) -> None:
        self._kind = kind
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(TIMEOUT)
        self._origin = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=ROOT, stdin=subprocess.PIPE, text=True
        )
        self._children: list[Kind] = []

    @property
    def port(self) -> int:
        return self._listener.getsockname()[1]

    def fork(self, **config: Any) -> Kind:
        """A new fork of the origin."""
        self._origin.stdin.write(f"{self.port}\n")
        self._origin.stdin.flush()
        return self.accept(**config)

    def accept(self, **config: Any) -> Kind:
        """The next process that calls back."""
        child = self._kind(Lines(self._listener.accept()[0]), config)
        self._children.append(child)
        return child

    def end_children(self) -> None:
        """Kill those that a test has left, so that none holds a lock when the tables are emptied."""
        for child in self._children:
            if not child.lines.is_closed:
                child.kill()
        self._children.clear()

    def close(self) -> None:
        self.end_children()
        self._origin.stdin.close()
        self._origin.wait()
        self._listener.close()
