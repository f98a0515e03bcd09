"""
Database servers of our own that are there to be killed: `python -m benchmarks.faults.keeper KIND [MEGABYTES]`.

Started as a process that holds the server and its data, as in `tests/servers.py`: when its standard input ends, the
server is gone and so are the data, however the suite ended. It prints the URL and the version, and then obeys a word
per line, each answered by `done`, or by `refused` and the reason: `stop` (as an operator does, without waiting for
clients), `kill` (SIGKILL, all of its processes), `start`, `allow`, with a number of connections, from the next start
on, `freeze` and `thaw`, `fill` and `empty` (its disk, which is one of so many MEGABYTES).

A cluster is kept likewise: it prints its nodes' URLs with commas between them, and its words name nodes. See
`clusters/cluster.py`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests import servers

ROOT = Path(__file__).resolve().parents[2]
NAME = "faults"  # of the database
CHUNK = b"\0" * 65536

# Of PostgreSQL where it is installed and not on the PATH.
PLACES = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]


class Refused(Exception):
    """A disk of a size of its own cannot be mounted here; the message says why."""


def program(*names: str) -> Path:
    """The first of the programs *names* that is installed. Raises `Missing`."""
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), *PLACES, "/usr/sbin"])
    for name in names:
        if found := shutil.which(name, path=places):
            return Path(found).resolve()
    raise servers.Missing(f"the program {names[0]} is not installed")


class Server:
    """What both kinds share. *folder* is theirs alone."""

    max_connections = 60

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = servers.free_port()
        self.account = servers.nobody() if os.geteuid() == 0 else {}  # PostgreSQL refuses to run as root
        self.process: subprocess.Popen[bytes] | None = None
        self.run_directory()
        self.initialize()

    def run_directory(self) -> None:
        self.data.mkdir(mode=0o700)
        for path in (self.folder, self.data):
            if self.account:
                os.chown(path, self.account["user"], self.account["group"])

    def initialize(self) -> None:
        """Make the files of a new server."""

    def command(self) -> list[str | Path]:
        """What starts it."""
        return []

    def version(self) -> str:
        """What it says of itself; raises while it does not answer."""
        return ""

    def start(self) -> None:
        self.process = servers.start_process(self.command(), self.folder, start_new_session=True, **self.account)
        servers.wait_for(self.version, self.process, self.folder / "log")

    def family(self) -> list[int]:
        """The server's process and those that it has forked."""
        assert self.process is not None
        pids = [self.process.pid]
        for pid in pids:
            with suppress(OSError):
                pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return pids

    def signal_all(self, number: int) -> None:
        for pid in self.family():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def allow(self, connections: int) -> None:
        self.max_connections = connections

    def kill(self) -> None:
        """SIGKILL. PostgreSQL's other processes end when they notice; most are faster dead than asked."""
        if self.process is not None:
            self.signal_all(signal.SIGKILL)
            self.wait()

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(self.stopping)
        self.wait()

    stopping = signal.SIGTERM

    def wait(self) -> None:
        assert self.process is not None
        servers.end(self.process, lambda: self.signal_all(signal.SIGKILL))

    def freeze(self) -> None:
        self.signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal_all(signal.SIGCONT)

    def fill(self) -> None:
        """Leave nothing of the disk."""
        with (self.folder / "filler").open("wb", buffering=0) as filler:
            size = len(CHUNK)
            while size:
                try:
                    if filler.write(CHUNK[:size]) == size:
                        continue
                except OSError:
                    pass
                size //= 2

    def empty(self) -> None:
        """Give the disk back; a server that has given up over it is started anew."""
        (self.folder / "filler").unlink()
        if self.process is not None and self.process.poll() is not None:
            self.start()


class PostgreSQL(Server):
    """The one that is installed, or that of the wheel, which `POSTGRES_URL=embedded` requests in any case."""

    stopping = signal.SIGINT  # a fast shutdown

    def find_programs(self) -> None:
        try:
            if os.environ.get("POSTGRES_URL") == servers.EMBEDDED:
                raise servers.Missing
            self.programs = program("initdb").parent
        except servers.Missing:
            self.programs = servers.embedded_programs(self.folder)

    def initialize(self) -> None:
        self.find_programs()
        servers.initialize_postgresql(self.programs, self.data, "--wal-segsize=1", **self.account)

    def command(self) -> list[str | Path]:
        # fsync is for machines that lose power. A killed process loses nothing that it has written.
        settings = {
            "port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off",
            "max_connections": self.max_connections, "deadlock_timeout": "50ms", "shared_buffers": "16MB",
            "min_wal_size": "2MB", "max_wal_size": "8MB",
        }  # fmt: skip
        return [self.programs / "postgres", "-D", self.data, *(f"--{name}={value}" for name, value in settings.items())]

    @property
    def url(self) -> str:
        return f"postgres://postgres@127.0.0.1:{self.port}/postgres"

    def version(self) -> str:
        return servers.postgresql_version(self.url)


class MariaDB(Server):
    def initialize(self) -> None:
        servers.call(
            program("mariadb-install-db", "mysql_install_db"), "--no-defaults", f"--datadir={self.data}",
            "--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=4M",
            folder=self.folder, **self.account,
        )  # fmt: skip

    def command(self) -> list[str | Path]:
        settings = {
            "datadir": self.data, "port": self.port, "bind-address": "127.0.0.1", "socket": self.folder / "socket",
            "pid-file": self.folder / "pid", "max-connections": self.max_connections,
            "innodb-log-file-size": "4M", "innodb-buffer-pool-size": "32M", "character-set-server": "utf8mb4",
            "tmpdir": self.folder, "innodb-flush-log-at-trx-commit": 2,
        }  # fmt: skip
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [program("mariadbd", "mysqld"), "--no-defaults", *options]

    @property
    def url(self) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/{NAME}"

    def version(self) -> str:
        return servers.mariadb_version(self.url)

    def start(self) -> None:
        super().start()
        with servers.mariadb_cursor(self.url) as cursor:
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS {NAME}")


class MySQL(MariaDB):
    """The MySQL that `make mysql` has unpacked."""

    script = ROOT / ".ci" / "newer"

    def run_directory(self) -> None:
        """Nothing: the script makes its own, and runs the server as its caller."""
        self.account = {}

    def initialize(self) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        if not (cache / "django-idempotency" / "mysql" / ".ready").exists():
            raise servers.Missing("no MySQL is unpacked: `make mysql` does it")

    def command(self) -> list[str | Path]:
        # What is committed must outlive the process: the script's own choice for the log is faster than that.
        settings = {"max-connections": self.max_connections, "innodb-flush-log-at-trx-commit": 2}
        return [self.script, "mysql", str(self.port), self.data, *(f"--{n}={value}" for n, value in settings.items())]

    def version(self) -> str:
        return servers.mysql_version(self.url.removesuffix(f"/{NAME}"))


class SQLite(Server):
    """A file, and no process."""

    def start(self) -> None:
        pass

    kill = stop = start

    @property
    def url(self) -> str:
        return f"sqlite:///{self.data}/{NAME}.sqlite3"

    def version(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"


KINDS = {"postgresql": PostgreSQL, "mariadb": MariaDB, "mysql": MySQL, "sqlite": SQLite}


# --- the keeper's process ---


def kinds() -> dict[str, Any]:
    from benchmarks.faults.clusters.catalogue import CLUSTERS  # whose nodes are servers of this module

    return {**KINDS, **CLUSTERS}


@contextmanager
def disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A file system of so many megabytes at *folder*. Raises `Refused` where we may not mount one."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        raise Refused(done.stderr.strip())
    try:
        yield
    finally:
        for _ in range(50):
            if subprocess.run(["umount", folder], capture_output=True).returncode == 0:
                break
            time.sleep(0.1)  # a process of the server's still ends


def keep(kind: str, megabytes: int) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{kind}-", ignore_cleanup_errors=True)))
        folder.chmod(0o755)
        if megabytes:
            stack.enter_context(disk(folder, megabytes))
        server = kinds()[kind](folder)
        stack.callback(server.kill)
        server.start()
        say(f"{server.url} {server.version()}")
        for line in sys.stdin:
            word, *arguments = line.split()
            deed: Callable[..., Any] = getattr(server, word)
            try:
                deed(*map(int, arguments))
            except Exception as error:
                say(f"refused: {type(error).__name__}: {str(error)[:500]!r}")
            else:
                say("done")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *args: sys.exit(1))
    try:
        keep(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    except Exception as error:  # one line instead of a traceback: it becomes the reason of a Missing
        sys.exit(f"{type(error).__name__}: {error}")
