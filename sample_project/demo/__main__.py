"""Start the API, run the steps against it, report in one line whether every promise held, and exit accordingly."""

import json
import os
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path
from types import FrameType

import django

from sample_project import services

from .client import Request, send
from .report import Report
from .server import Server

BALANCE = 50_000  # cents, of each customer
GATEWAY_LOG = "gateway.jsonl"  # its requests, one a line
PASSWORD = "sample-password"  # noqa: S105 - of customers that are made up here


def main() -> int:
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, leave)
    started = time.monotonic()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="idempotency-demo-") as name:
        directory = Path(name)
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sample_project.settings")
        if not os.environ.get("DATABASE_URL"):
            os.environ["DATABASE_URL"] = f"sqlite:///{directory / 'demo.sqlite3'}"
        os.environ.pop("GATEWAY_URL", None)  # no other gateway may be asked to charge cards
        try:
            with (
                (directory / GATEWAY_LOG).open("w") as log,
                services.running(dict(os.environ), log=log) as environment,
            ):
                os.environ.update(environment)
                django.setup()
                database = run(directory, report)
        except Exception as error:  # the verdict is given whatever happens
            report.broke(error)
            database = "a database that could not be used"
    seconds = time.monotonic() - started
    if not report.steps:
        print(f"\nCOULD NOT RUN. ({seconds:.1f} s)")
        return 1
    if report.failures:
        print(f"\nNOT AS PROMISED on {database}: {'; '.join(report.failures)}. ({seconds:.1f} s)")
        return 1
    counted = f"{report.checks} of {report.checks} checks in {report.steps} steps"
    print(f"\nAs promised on {database}: every POST took effect once, {counted}. ({seconds:.1f} s)")
    return 0


def leave(signum: int, frame: FrameType | None) -> None:
    """Turn a signal into an exception, so that the server is stopped on the way out."""
    sys.exit(128 + signum)


def run(directory: Path, report: Report) -> str:
    """Run every step; returns the name of the database."""
    # The steps use the project's models, which can be imported only after `django.setup()`.
    from django.db import connection

    from sample_project.payments.models import Account

    from .steps import Customer, Demo

    server = Server(directory, {**os.environ, "DEBUG": "0", "LOG_LEVEL": "WARNING"})
    run_id = uuid.uuid4().hex[:8]  # a database from an earlier demo still has its customers

    def customer(name: str) -> Customer:
        username = f"{name}-{run_id}"
        server.manage("seed", "--username", username, "--password", PASSWORD, "--balance", str(BALANCE))
        login = Request(path="/api/token/", payload={"username": username, "password": PASSWORD})
        return Customer(
            username=username,
            token=json.loads(send(server.address, login).body)["token"],
            account=Account.objects.get(owner__username=username, name="Current"),
        )

    server.manage("migrate", "--verbosity", "0")
    database = f"{connection.display_name} {'.'.join(map(str, connection.get_database_version()))}"
    try:
        with server:
            report.note(f"The payment API runs under gunicorn on port {server.address[1]}, with {database}.")
            report.note(f"The keys of card payments are in {key_server()}.")
            Demo(
                server=server,
                report=report,
                ann=customer("ann"),
                bob=customer("bob"),
                gateway_url=os.environ["GATEWAY_URL"],
                password=PASSWORD,
            ).run()
    finally:
        connection.close()
        if report.failures:
            print(f"\nThe server's log:\n{server.log.read_text()}")
            print(f"\nThe gateway's log:\n{(directory / GATEWAY_LOG).read_text()}")
    return database


def key_server() -> str:
    """The name and the version of the server at `REDIS_URL`."""
    from django_redis import get_redis_connection

    info = get_redis_connection("default").info("server")
    return f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"


if __name__ == "__main__":
    sys.exit(main())
