"""
One database's figures: whole DRF views with token authentication, called through Django's WSGI handler in one process.

Each round calls every case once, in a shuffled order, and gives one ratio per case against the same round's view in
`atomic`. The median of the ratios is the figure: the machine's speed drops out of it.
"""

import gc
import io
import itertools
import json
import os
import random
import re
import statistics
import sys
import time
from collections.abc import Callable

from benchmarks.project import PATHS, configure

WARM_UP = 50  # rounds
# Not counted. One that travels with a statement of ours is that statement.
OF_A_TRANSACTION = re.compile(r"(BEGIN( IMMEDIATE)?|COMMIT|ROLLBACK|(RELEASE )?SAVEPOINT [^;]*)")


def main(rounds: int) -> dict[str, object]:
    """Measure on `DATABASE_URL` for that many *rounds*; the result is JSON."""
    configure()
    from django.db import connection

    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        return _measure(rounds)
    finally:
        connection.creation.destroy_test_db(connection.settings_dict["NAME"], verbosity=0)


def _measure(rounds: int) -> dict[str, object]:
    from django.contrib.auth.models import User
    from django.core.wsgi import WSGIHandler
    from django.db import connection
    from django.test.utils import CaptureQueriesContext
    from rest_framework.authtoken.models import Token

    token = Token.objects.create(user=User.objects.create(username="payer")).key
    application = WSGIHandler()
    numbers = itertools.count()

    def post(kind: str, key: str | None, name: str, *, replayed: bool) -> float:
        body = json.dumps({"amount": 1200, "reference": name}).encode()
        environ = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": PATHS[kind],
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_AUTHORIZATION": f"Token {token}",
            "wsgi.input": io.BytesIO(body),
            "wsgi.url_scheme": "http",
            "wsgi.errors": sys.stderr,
        }
        if key is not None:
            environ["HTTP_IDEMPOTENCY_KEY"] = key
        seen: list[object] = []
        begun = time.perf_counter()
        response = application(environ, lambda status, headers: seen.append((status, dict(headers))))
        b"".join(response)
        response.close()
        spent = time.perf_counter() - begun
        status, headers = seen[0]  # type: ignore[misc]
        if not status.startswith("201") or (headers.get("Idempotency-Replayed") == "true") is not replayed:
            raise RuntimeError(f"{kind} answered {status} {headers}")  # a figure of something else
        return spent

    post("protected", "replayed", "the first", replayed=False)

    def fresh(kind: str, keyed: bool = False) -> Callable[[], float]:
        def run() -> float:
            number = next(numbers)
            return post(kind, f"key-{number}" if keyed else None, f"invoice {number}", replayed=False)

        return run

    def replay() -> float:
        return post("protected", "replayed", "the first", replayed=True)

    cases: dict[str, Callable[[], float]] = {
        "autocommit": fresh("autocommit"),
        "atomic": fresh("atomic"),
        "no key": fresh("protected"),
        "first": fresh("protected", keyed=True),
        "replay": replay,
    }
    statements = {}
    for case, run in cases.items():
        with CaptureQueriesContext(connection) as captured:
            run()
        statements[case] = sum(not OF_A_TRANSACTION.fullmatch(query["sql"].strip()) for query in captured)
    times: dict[str, list[float]] = {case: [] for case in cases}
    order = list(cases)
    gc.disable()
    for number in range(WARM_UP + rounds):
        random.shuffle(order)
        for case in order:
            spent = cases[case]()
            if number >= WARM_UP:
                times[case].append(spent)
        if number % 50 == 0:
            gc.collect()
    gc.enable()

    def ratio(case: str, base: str) -> float:
        return statistics.median(ours / bare for ours, bare in zip(times[case], times[base], strict=True))

    return {
        "database": _server() + (", `FOLD` off" if os.environ.get("FOLD") == "0" else ""),
        "milliseconds": {case: statistics.median(spent) * 1000 for case, spent in times.items()},
        "ratios": {
            "first": ratio("first", "atomic"),
            "replay": ratio("replay", "atomic"),
            "no key": ratio("no key", "autocommit"),
        },
        "statements": statements,
    }


def _server() -> str:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT sqlite_version()" if connection.vendor == "sqlite" else "SELECT version()")
        version = cursor.fetchone()[0]
    match connection.vendor:
        case "postgresql":
            return " ".join(version.split()[:2])
        case "mysql":
            return f"MariaDB {version.split('-')[0]}" if "MariaDB" in version else f"MySQL {version}"
        case _:
            return f"SQLite {version}"


if __name__ == "__main__":
    print(json.dumps(main(int(os.environ.get("ROUNDS", "600")))))
