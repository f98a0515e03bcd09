"""The sample project under gunicorn, seen from outside: started, held still, killed in part, stopped."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from .waiting import wait_for

CONFIGURATION = Path(__file__).with_name("gunicorn_conf.py")
REPOSITORY = Path(__file__).parents[2]
WORKERS = 4  # as many as the configuration starts


class Server:
    """
    A context in which the API answers at `address`.

    *directory* is where the processes leave each other word, and *environment* is theirs.
    """

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory = directory
        self.environment = {**environment, "DEMO_DIRECTORY": str(directory)}
        self.log = directory / "server.log"

    def manage(self, *arguments: str) -> str:
        """Run one of the project's management commands, and return what it printed."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"manage.py {' '.join(arguments)} failed:\n{done.stdout}")
        return done.stdout

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "gunicorn", "--config", str(CONFIGURATION), "sample_project.wsgi"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=self.environment,
                stdin=subprocess.PIPE,  # its end tells the server that the demo is gone
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for("gunicorn's workers", self.is_ready, timeout=40)
        except BaseException:
            self.stop()
            raise
        host, port = (self.directory / "address").read_text().split(":")
        self.address = (host, int(port))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"gunicorn did not start:\n{self.log.read_text()}")
        return (self.directory / "address").exists() and len(self.workers()) == WORKERS

    def workers(self) -> set[int]:
        """The processes that are ready to serve."""
        return {int(path.name.removeprefix("worker-")) for path in self.directory.glob("worker-*")}

    @contextmanager
    def next_charge_held(self) -> Iterator[None]:
        """Inside the block, the next worker that inserts a charge stops after that statement."""
        (self.directory / "armed").touch()
        try:
            yield
        finally:
            self.release()

    def held_worker(self) -> int:
        """Wait until a worker has stopped in the middle of a charge, and return its process id."""
        held = wait_for("a worker in the middle of a charge", lambda: [*self.directory.glob("held-*")])
        return int(held[0].name.removeprefix("held-"))

    def paying_worker(self) -> int:
        """The process id of the only worker that is busy with a card payment."""

        def look() -> list[Path]:
            paying = [*self.directory.glob("paying-*")]
            return paying if len(paying) == 1 else []

        (paying,) = wait_for("one worker at a card payment", look)
        return int(paying.name.removeprefix("paying-"))

    def release(self) -> None:
        """Let a stopped worker continue."""
        for path in (self.directory / "armed", *self.directory.glob("held-*")):
            path.unlink(missing_ok=True)

    def kill(self, worker: int) -> None:
        """End one of our own workers at once, as the kernel does when memory runs out."""
        if worker not in self.workers():
            raise RuntimeError(f"process {worker} is not a worker of this server")
        os.kill(worker, signal.SIGKILL)

    def stop(self) -> None:
        self.release()
        self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            # Its workers notice that their parent has changed, and exit.
            self.process.kill()
            self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
