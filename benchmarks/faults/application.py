"""The project under gunicorn, as the fault suite harms it."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]


class Application:
    """
    A context in which the project answers at `address`, on the database at *url*.

    *wanted* is what `FAULTS` tells the project. *timeout*, in seconds, is gunicorn's. *environment* is for gunicorn
    alone.
    """

    def __init__(
        self, url: str, *, workers: int = 3, timeout: int = 30, environment: dict[str, str] | None = None, **wanted: Any
    ) -> None:
        self.environment = {
            **os.environ,
            "DATABASE_URL": url,
            "FAULTS": json.dumps(wanted),
            "WORKERS": str(workers),
            "TIMEOUT": str(timeout),
            **(environment or {}),
        }
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        configuration = "python:benchmarks.faults.gunicorn_conf"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--config", configuration, "benchmarks.faults.wsgi"],
            cwd=ROOT, env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        address = self.process.stdout.readline().strip()
        if not address:
            self.stop()
            raise RuntimeError("gunicorn did not start: `python -m gunicorn benchmarks.faults.wsgi` says why")
        host, port = address.split(":")
        self.address = (host, int(port))

    def workers(self) -> list[int]:
        """The processes that serve."""
        assert self.process is not None
        pid = self.process.pid
        with suppress(OSError):
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def send(self, worker: int, number: signal.Signals) -> bool:
        """Send a signal to one of our own workers. Says whether it was still there."""
        if worker not in self.workers():
            return False
        with suppress(ProcessLookupError):
            os.kill(worker, number)
            return True
        return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        for worker in self.workers():
            self.send(worker, signal.SIGCONT)  # a frozen one cannot end
        self.process.send_signal(number)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            for worker in self.workers():
                self.send(worker, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def restart(self) -> None:
        """As a deploy does: SIGTERM, then the same anew, at another port."""
        self.stop()
        self.start()
