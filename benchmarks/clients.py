"""
Many clients at once: `python -m benchmarks.clients HOST:PORT VIEW CLIENTS SECONDS`, with the token in `TOKEN`.

Each is a thread with a connection of its own, that sends its next request when it has the answer to the last. Prints
the seconds that each request took, as JSON.
"""

import http.client
import json
import os
import sys
import threading
import time
import uuid

from benchmarks.calls import payload

WARM_UP = 0.5  # seconds, which are not counted


class Client:
    """One client over one kept connection. A case is `atomic`, `first` or `replay`."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=60)
        self._key = f"key-{uuid.uuid4()}"
        self._number = 0
        self._ask("first", self._key, replayed=False)  # what the replays replay

    def _ask(self, case: str, key: str, *, replayed: bool) -> float:
        headers = {"Authorization": f"Token {os.environ['TOKEN']}", "Content-Type": "application/json"}
        if case != "atomic":
            headers["Idempotency-Key"] = key
        body = payload(key)
        begun = time.perf_counter()
        self._connection.request("POST", "/atomic/" if case == "atomic" else "/protected/", body, headers)
        response = self._connection.getresponse()
        content = response.read()
        spent = time.perf_counter() - begun
        if response.status != 201 or (response.headers.get("Idempotency-Replayed") == "true") is not replayed:
            raise RuntimeError(f"{case} answered {response.status}: {content[:500]!r}")
        return spent

    def send(self, case: str) -> float:
        """The seconds that one request of the *case* takes."""
        self._number += 1
        if case == "replay":
            return self._ask(case, self._key, replayed=True)
        return self._ask(case, f"{self._key}-{self._number}", replayed=False)


def main(address: str, case: str, clients: int, seconds: float) -> list[float]:
    spent: list[float] = []
    errors: list[BaseException] = []
    ready = threading.Barrier(clients)

    def serve() -> None:
        try:
            client = Client(address)
            ready.wait()
            begun = time.monotonic()
            while (now := time.monotonic()) < begun + WARM_UP + seconds:
                one = client.send(case)
                if now >= begun + WARM_UP and now + one <= begun + WARM_UP + seconds:
                    spent.append(one)
        except BaseException as error:  # raised again below
            errors.append(error)
            ready.abort()

    threads = [threading.Thread(target=serve) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return spent


if __name__ == "__main__":
    _, address, case, clients, seconds = sys.argv
    print(json.dumps(main(address, case, int(clients), float(seconds))))
