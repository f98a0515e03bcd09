"""
First executions at a steady pace, in a process of its own, until its standard input ends.

Prints "started", and at the end, as JSON, a list for each request: when it began (by the monotonic clock, which all
processes share), the milliseconds that it took, and those of its claim.
"""

import json
import select
import sys
import time
from typing import Any

from benchmarks.project import configure
from benchmarks.scale import requests

WARM_UP = 50  # requests


def main(rate: float) -> list[list[float]]:
    """Send *rate* requests per second."""
    configure()
    from django_idempotency.stores.database import DatabaseStore

    claims: list[float] = []
    claim = DatabaseStore.claim

    def timed(*arguments: Any) -> Any:
        begun = time.perf_counter()
        try:
            return claim(*arguments)
        finally:
            claims.append((time.perf_counter() - begun) * 1000)

    DatabaseStore.claim = timed  # type: ignore[method-assign]
    for _ in range(WARM_UP):
        requests.first()
    print("started", flush=True)
    seen = []
    due = time.monotonic()
    while not select.select([sys.stdin], [], [], max(0, due - time.monotonic()))[0]:
        begun = time.monotonic()
        spent = requests.first() * 1000
        seen.append([begun, spent, claims[-1]])
        due = max(due + 1 / rate, begun)  # one that is late does not make those after it hurry
    return seen


if __name__ == "__main__":
    print(json.dumps(main(float(sys.argv[1]))))
