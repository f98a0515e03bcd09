"""
Async views under uvicorn, on the database `DATABASE_URL`, through psycopg's pool: one client over one kept connection.

Each round asks for every case once, in a shuffled order, and gives one ratio per case against the same round's bare
view, whose work is one `sync_to_async` of an `atomic` block. The protected view's work is the same without `atomic`.
"""

import http.client
import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.calls import database, payload
from benchmarks.measure import WARM_UP, ratios
from tests.servers import free_port

PATIENCE = 20  # seconds, for uvicorn's start
CASES = ("atomic", "first", "replay")


def main(rounds: int) -> dict[str, Any]:
    """The ratios of `first` and `replay`, and the milliseconds of each case."""
    with database():
        from django.db import connection

        name = str(connection.settings_dict["NAME"])
        connection.close()
        url = os.environ["DATABASE_URL"].rpartition("/")[0] + "/" + name
        with uvicorn({**os.environ, "DATABASE_URL": url, "POOL": "1"}) as client:
            client.ask("protected", client.replayed, replayed=False)
            times: dict[str, list[float]] = {case: [] for case in CASES}
            order = list(CASES)
            for number in range(WARM_UP + rounds):
                random.shuffle(order)
                for case in order:
                    spent = client.send(case)
                    if number >= WARM_UP:
                        times[case].append(spent)
    return {
        "ratios": ratios(times),
        "milliseconds": {case: sorted(spent)[len(spent) // 2] * 1000 for case, spent in times.items()},
    }


class Client:
    """One client of the async views."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self.replayed = f"key-{uuid.uuid4()}"

    def send(self, case: str) -> float:
        if case == "replay":
            return self.ask("protected", self.replayed, replayed=True)
        return self.ask("protected" if case == "first" else case, f"key-{uuid.uuid4()}", replayed=False)

    def ask(self, view: str, key: str, *, replayed: bool) -> float:
        """The seconds that a request took, which must be answered like that."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        body = payload(key)
        begun = time.perf_counter()
        self._connection.request("POST", f"/async/{view}/", body, headers)
        response = self._connection.getresponse()
        content = response.read()
        spent = time.perf_counter() - begun
        if response.status != 201 or (response.headers.get("Idempotency-Replayed") == "true") is not replayed:
            raise RuntimeError(f"{view} answered {response.status}: {content[:500]!r}")
        return spent


@contextmanager
def uvicorn(environment: dict[str, str]) -> Iterator[Client]:
    """A client of the project, served inside the block."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.asgi", str(port)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as process:  # its end closes its input
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                connection.connect()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield Client(connection)
        connection.close()


if __name__ == "__main__":
    print(json.dumps(main(int(os.environ["ROUNDS"]))))
