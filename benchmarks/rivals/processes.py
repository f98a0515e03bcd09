"""A contender's environment and its workers, seen from the run's side."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, Self

from benchmarks.rivals.contenders import COMMON, Contender, Services

ROOT = Path(__file__).parents[2]
PATIENCE = 60  # seconds for one answer, before a worker counts as hung


class Failed(Exception):
    """An environment cannot be made, or a worker does not work; the message is its last words."""


def environment(contender: Contender, folder: Path) -> Path:
    """The Python of the *contender*'s own environment below *folder*, made if it is not there. Raises `Failed`."""
    place = folder / contender.package
    python = place / "bin" / "python"
    requirements = [*contender.requirements, *COMMON]
    stamp = place / "requirements.txt"
    if stamp.exists() and stamp.read_text().split("\n") == requirements:
        return python
    print(f"installing {contender.package} into {place}", flush=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(place)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements],
    ):
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise Failed(last_line(done.stderr) or f"{command[0]} ended with {done.returncode}")
    stamp.write_text("\n".join(requirements))
    return python


class WorkerProcess:
    """A running worker. The block's end ends it. Raises `Failed` where it gives no answer."""

    def __init__(self, python: Path, name: str, services: Services, log: Path) -> None:
        self.log = log
        self._errors: IO[bytes] = log.open("ab")
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.rivals.worker", name],
            cwd=ROOT,
            env={
                **os.environ,
                "DATABASE_URL": services.database_url,
                "REDIS_URL": services.redis_url,
                "NAMESPACE": services.namespace,
                "FOLDER": services.folder,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._errors.close()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it is gone, with a command that it has not read
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def ask(self, do: str, **arguments: Any) -> Any:
        self.send(do, **arguments)
        return self.answer()

    def send(self, do: str, **arguments: Any) -> None:
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise Failed(self.last_words()) from error

    def answers_within(self, seconds: float) -> bool:
        """Whether there is something to read by then. There is never more than one line on its way."""
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def answer(self) -> Any:
        line = self.process.stdout.readline() if self.answers_within(PATIENCE) else b""
        if not line:
            self.process.kill()
            self.process.wait()
            raise Failed(self.last_words())
        return json.loads(line)

    def wait_for_kill(self) -> None:
        """Return when the worker was ended by SIGKILL. Raises `Failed` where it ended or answered otherwise."""
        line = self.process.stdout.readline()
        if line or self.process.wait(PATIENCE) != -signal.SIGKILL:
            raise Failed(f"a worker was not killed: {self.last_words()}")

    def last_words(self) -> str:
        return last_line(self.log.read_text(errors="replace")) or "a worker gave no answer"


def last_line(text: str) -> str:
    lines = text.strip().split("\n")
    return lines[-1].strip()
