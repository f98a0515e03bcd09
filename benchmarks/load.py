"""
Over HTTP, against gunicorn on the database `DATABASE_URL`: ratios of one client that sends one request of each case
after the other; and requests per second and waiting times of many clients at once.

Each cell of the many is measured in slices, interleaved with those of the other cases, so that none has the machine to
itself.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.calls import database, make_token
from benchmarks.clients import Client
from benchmarks.measure import ratios, timed

CASES = ("atomic", "first", "replay")
CLIENTS = (1, 8, 32)
SLICES = 2
CONFIGURATION = Path(__file__).with_name("gunicorn_conf.py")


def main(seconds: float, rounds: int) -> dict[str, Any]:
    """
    `one_by_one`, the ratios of each case; `many`, a dict for each number of clients: by case, requests per second and
    the percentiles in milliseconds.
    """
    with database():
        from django.db import connection

        token = make_token()
        settings = connection.settings_dict
        environment = {
            **os.environ,
            "TOKEN": token,
            "DATABASE_URL": os.environ["DATABASE_URL"].rpartition("/")[0] + "/" + str(settings["NAME"]),
        }
        connection.close()
        os.environ["TOKEN"] = token
        with gunicorn(environment) as address:
            client = Client(address)
            times = timed({case: partial(client.send, case) for case in CASES}, rounds)
            many = [{"clients": number} | cells(address, number, seconds, environment) for number in CLIENTS]
            return {"one_by_one": ratios(times), "many": many}


def cells(address: str, clients: int, seconds: float, environment: dict[str, str]) -> dict[str, Any]:
    spent: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(SLICES):
        for case in CASES:
            command = [sys.executable, "-m", "benchmarks.clients", address, case, str(clients), str(seconds / SLICES)]
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
            spent[case] += json.loads(done.stdout)
    return {
        case: {
            "rate": len(times) / seconds,
            "p50": statistics.median(times) * 1000,
            "p99": statistics.quantiles(times, n=100)[98] * 1000,
        }
        for case, times in spent.items()
    }


@contextmanager
def gunicorn(environment: dict[str, str]) -> Iterator[str]:
    """The address of the project, served inside the block."""
    command = [sys.executable, "-m", "gunicorn", "--config", str(CONFIGURATION), "benchmarks.wsgi"]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,  # whose end closes its input, at which it ends
    ):
        assert process.stdout is not None  # noqa: S101 for the type checker: it is a pipe
        address = process.stdout.readline().strip()
        if not address:
            log.seek(0)
            raise RuntimeError(f"gunicorn did not start:\n{log.read()}")
        yield address


if __name__ == "__main__":
    print(json.dumps(main(float(os.environ["SECONDS"]), int(os.environ["ROUNDS"]))))
