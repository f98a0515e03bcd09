"""Where a fault is made: a database server of our own, the project in front of it, the clients, and their logs."""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.faults.application import Application
from benchmarks.faults.checker import Verdict, check
from benchmarks.faults.clients import PATIENCE, Address, Load
from tests import servers

ROOT = Path(__file__).resolve().parents[2]
IMPATIENCE = 3.0  # seconds for the last keys of a run with a planted bug, which leaves some without an answer
WAIT = 20.0  # seconds in which answers must come again after a fault


class Database:
    """
    A server that `keeper.py` keeps for us, with the project's tables and a caller with a *token*.

    Of a cluster, `urls` are those of its nodes, and `url` is the first.
    """

    def __init__(self, process: "subprocess.Popen[str]", urls: list[str], version: str, token: str) -> None:
        self._process = process
        self.url = urls[0]
        self.urls = urls
        self.version = version
        self.token = token

    def do(self, word: str) -> None:
        """
        Send the keeper a *word*: `stop`, `start`, `kill`, `fill` or another; to a cluster's `kill 1`.

        Raises `RuntimeError` if it fails.
        """
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline().strip()
        if said != "done":
            raise RuntimeError(f"{word}: {said or 'the keeper is gone'}")

    @property
    def address(self) -> Address:
        parts = urlsplit(self.url)
        return parts.hostname, parts.port


@contextmanager
def database(kind: str, megabytes: int = 0) -> Iterator[Database]:
    """A new server of *kind*, on a disk of so many *megabytes* if they are named. Raises `Missing`."""
    with servers.keeper_of("benchmarks.faults.keeper", kind, str(megabytes)) as process:
        nodes, _, version = servers.first_line(process).partition(" ")
        urls = nodes.split(",")
        made = subprocess.run(
            [sys.executable, "-m", "benchmarks.faults.project"],
            cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "DATABASE_URL": urls[0]},
        )  # fmt: skip
        yield Database(process, urls, version, made.stdout.strip())


@dataclass(slots=True, kw_only=True)
class Stage:
    """
    One run of one fault: *rounds* says how often the fault is made, *bug* what is planted.

    The checker reads the first of *nodes*, URLs of the database, and wants the same rows in the others.
    """

    kind: str
    database: Database
    folder: Path
    name: str
    rounds: int = 10
    bug: str = ""
    faults: int = 0
    nodes: list[str] = field(default_factory=list)  # the database's `url`, if a fault names none
    draw: random.Random = field(default_factory=lambda: random.Random(1))

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def gateway(self) -> Path:
        """The folder in which a view in phases charges."""
        folder = self.folder / f"{self.name}.gateway"
        folder.mkdir(exist_ok=True)
        return folder

    def application(self, url: str | None = None, **wanted: Any) -> Application:
        """The project with the planted bug, if there is one."""
        return Application(url or self.database.url, **{"bug": self.bug, "gateway": str(self.gateway), **wanted})

    @contextmanager
    def applications(self, **wanted: Any) -> Iterator[list[Application]]:
        """One on each node of a cluster. Clients of all of them send the duplicates of a key to any of them."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.application(url, **wanted)) for url in self.database.urls]

    @contextmanager
    def load(self, *addresses: Address | Callable[[], Address], **options: Any) -> Iterator[Load]:
        """Clients of all *addresses*, until the end of the block."""

        def now() -> list[Address]:
            return [each() if callable(each) else each for each in addresses]

        patience = IMPATIENCE if self.bug else PATIENCE
        load = Load(now, log=self.log, prefix=self.name, **{"patience": patience, **options})
        with load.running():
            load.wait_for_answers(3, WAIT)
            yield load

    def repeat(self, load: Load, fault: Callable[[], Any], answers: int = 0) -> None:
        """Make the fault *rounds* times, each when so many *answers* have come since the last one, else a few."""
        for _ in range(self.rounds):
            load.wait_for_answers(answers or self.draw.randint(1, 6), WAIT)
            if fault() is not False:
                self.faults += 1

    def verdict(self) -> Verdict:
        url, *others = self.nodes or [self.database.url]
        return check(url, self.log, gateway=self.gateway, others=others)
