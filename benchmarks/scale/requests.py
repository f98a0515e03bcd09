"""Whole requests to the project of `benchmarks.project`, called through Django's WSGI handler in this process."""

import gc
import io
import json
import random
import sys
import time
import uuid
from collections.abc import Callable
from functools import cache
from typing import Any

from benchmarks.project import PATHS
from benchmarks.scale.rows import USERS, any_of, is_replayable, key_of, user_of

BODY = json.dumps({"amount": 1200, "reference": "invoice 7a1c"}).encode()  # one for all: all rows share its fingerprint


def create_users() -> None:
    """Users 1 to `USERS`, each with a token."""
    from django.contrib.auth.models import User
    from rest_framework.authtoken.models import Token

    users = [User(pk=number, username=f"payer-{number}") for number in range(1, USERS + 1)]
    User.objects.bulk_create(users)
    Token.objects.bulk_create([Token(key=_token(user.pk), user=user) for user in users])


def post(kind: str, user: int, key: str | None = None, *, replayed: bool = False) -> float:
    """The seconds that a request of *user* took. Raises `RuntimeError` if its answer was none that it was to get."""
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": PATHS[kind],
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(BODY)),
        "HTTP_AUTHORIZATION": f"Token {_token(user)}",
        "HTTP_X_REQUEST_ID": str(uuid.uuid4()),
        "wsgi.input": io.BytesIO(BODY),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
    }
    if key is not None:
        environ["HTTP_IDEMPOTENCY_KEY"] = key
    seen: list[Any] = []
    application = _application()
    begun = time.perf_counter()
    response = application(environ, lambda status, headers: seen.extend((status, dict(headers))))
    b"".join(response)
    response.close()
    spent = time.perf_counter() - begun
    status, headers = seen
    if not status.startswith("201") or (headers.get("Idempotency-Replayed") == "true") is not replayed:
        raise RuntimeError(f"{kind} with the key {key} answered {status} {headers}")
    return spent


def bare() -> float:
    """A request to the view in `atomic`, without our part in it."""
    return post("atomic", any_of(USERS))


def first() -> float:
    """A first execution, by a key that no row has."""
    return post("protected", any_of(USERS), str(uuid.uuid4()))


def replay(rows: int) -> float:
    """A replay of any of the first *rows* rows."""
    while not is_replayable(number := any_of(rows)):
        pass
    return post("protected", user_of(number), key_of(number), replayed=True)


def in_rounds(cases: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call every case once in each round, in a shuffled order: the results, round by round."""
    results: dict[str, list[float]] = {case: [] for case in cases}
    order = list(cases)
    gc.disable()
    try:
        for number in range(rounds):
            random.shuffle(order)
            for case in order:
                results[case].append(cases[case]())
            if number % 50 == 0:
                gc.collect()
    finally:
        gc.enable()
    return results


@cache
def _application() -> Callable[..., Any]:
    from django.core.wsgi import WSGIHandler

    return WSGIHandler()


@cache
def _token(user: int) -> str:
    return f"{user:040x}"
