"""Whole requests, through Django's WSGI handler in this process, against a test database of their own."""

import io
import itertools
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.project import MIDDLEWARE, PATHS, configure

GETS = 20
PROBED_EVERY = 10  # one request in so many by the middleware is sent again


@dataclass(frozen=True, slots=True)
class Answer:
    status: str
    headers: dict[str, str]
    body: bytes
    seconds: float


@contextmanager
def database() -> Iterator[None]:
    """Inside, the database that `DATABASE_URL` names has all tables, and with `ROUTINES=0` no routines."""
    configure()
    from django.core.cache import caches
    from django.db import connection

    from django_idempotency.operations import counts

    connection.creation.create_test_db(verbosity=0, autoclobber=True)
    if os.environ.get("ROUTINES") == "0":
        from tests.lab.routines import change_routines

        change_routines(create=False)
    try:
        yield
    finally:
        counts.flush()  # what is counted in memory, while there is a table for it
        if "redis" in caches:
            caches["redis"].delete_pattern("*")
        connection.close()
        connection.creation.destroy_test_db(connection.settings_dict["NAME"], verbosity=0)


class Caller:
    """One user's requests."""

    def __init__(self) -> None:
        from django.core.wsgi import WSGIHandler
        from django.test.utils import override_settings

        self.token = make_token()
        self._application = WSGIHandler()
        with override_settings(MIDDLEWARE=[*MIDDLEWARE, "django_idempotency.middleware.IdempotencyMiddleware"]):
            self._with_middleware = WSGIHandler()
        self._numbers = itertools.count()
        self._held = ""  # the key of what is held
        self.expect("201", "protected", "replayed", "the first")

    def send(self, method: str, view: str, key: str | None, body: bytes, *, by_middleware: bool = False) -> Answer:
        """Send one request. The time is that of all that a server does with it."""
        application = self._with_middleware if by_middleware else self._application
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": PATHS[view],
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_AUTHORIZATION": f"Token {self.token}",
            "wsgi.input": io.BytesIO(body),
            "wsgi.url_scheme": "http",
            "wsgi.errors": sys.stderr,
        }
        if key is not None:
            environ["HTTP_IDEMPOTENCY_KEY"] = key
        seen: list[Any] = []
        begun = time.perf_counter()
        response = application(environ, lambda *head: seen.append(head))
        content = b"".join(response)
        response.close()
        spent = time.perf_counter() - begun
        status, headers = seen[0]
        return Answer(status, dict(headers), content, spent)

    def expect(
        self,
        status: str,
        view: str,
        key: str | None,
        reference: str,
        *,
        replayed: bool = False,
        by_middleware: bool = False,
    ) -> float:
        """The seconds that a POST took, which must be answered like that: no figure of something else."""
        answer = self.send("POST", view, key, payload(reference), by_middleware=by_middleware)
        is_replay = answer.headers.get("Idempotency-Replayed") == "true"
        if not answer.status.startswith(status) or is_replay is not replayed:
            raise RuntimeError(f"{view} answered {answer.status} {answer.headers} {answer.body[:500]!r}")
        return answer.seconds

    def bare(self) -> float:
        return self.expect("201", "autocommit", None, f"invoice {next(self._numbers)}")

    def atomic(self) -> float:
        return self.expect("201", "atomic", None, f"invoice {next(self._numbers)}")

    def without_key(self) -> float:
        return self.expect("201", "protected", None, f"invoice {next(self._numbers)}")

    def first(self) -> float:
        number = next(self._numbers)
        return self.expect("201", "protected", f"key-{number}", f"invoice {number}")

    def replay(self) -> float:
        return self.expect("201", "protected", "replayed", "the first", replayed=True)

    def refused(self) -> float:
        """A duplicate of what is `held`."""
        return self.expect("409", "protected", self._held, "the held one")

    def floor(self) -> float:
        return self.expect("201", "floor", None, f"invoice {next(self._numbers)}")

    def canned(self) -> float:
        return self.expect("201", "canned", None, "the first")

    def twice(self) -> float:
        """Two payments in two `atomic` blocks."""
        return self.expect("201", "twice", None, f"invoice {next(self._numbers)}")

    def phased(self) -> float:
        """The same work in two phases, a new key."""
        number = next(self._numbers)
        return self.expect("201", "phased", f"key-{number}", f"invoice {number}")

    def phased_replay(self) -> float:
        return self.expect("201", "phased", "replayed", "the first", replayed=True)

    def insert(self) -> float:
        """The view without a serializer, in `atomic`."""
        return self.expect("201", "insert", None, f"invoice {next(self._numbers)}")

    def first_insert(self) -> float:
        number = next(self._numbers)
        return self.expect("201", "protected insert", f"key-{number}", f"invoice {number}")

    def by_middleware(self) -> float:
        """The bare view, a new key: a retry shows that it was protected."""
        number = next(self._numbers)
        asked = f"key-{number}", f"invoice {number}"
        spent = self.expect("201", "autocommit", *asked, by_middleware=True)
        if number % PROBED_EVERY == 0:
            self.expect("201", "autocommit", *asked, by_middleware=True, replayed=True)
        return spent

    def get(self, *, by_middleware: bool = False) -> float:
        """The median of several, because what the middleware adds is less than what one differs from the next."""
        return statistics.median(
            self.send("GET", "get", None, b"", by_middleware=by_middleware).seconds for _ in range(GETS)
        )

    def get_by_middleware(self) -> float:
        return self.get(by_middleware=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, what `refused` asks for is in its handler: another thread's, so on another connection."""
        from django.db import connection

        self._held = f"held-{next(self._numbers)}"
        inside, leave = threading.Event(), threading.Event()
        errors: list[BaseException] = []

        def stand_still(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
            if "payments_payment" in sql:
                inside.set()
                leave.wait()
            return execute(sql, params, many, context)

        def hold() -> None:
            try:
                with connection.execute_wrapper(stand_still):
                    self.expect("201", "protected", self._held, "the held one")
            except BaseException as error:  # raised again below, in the thread that waits for us
                errors.append(error)
            finally:
                inside.set()
                connection.close()

        thread = threading.Thread(target=hold)
        thread.start()
        inside.wait()
        try:
            yield
        finally:
            leave.set()
            thread.join()
            if errors:
                raise errors[0]


def payload(reference: str) -> bytes:
    return json.dumps({"amount": 1200, "reference": reference}).encode()


def make_token() -> str:
    from django.contrib.auth.models import User
    from rest_framework.authtoken.models import Token

    return str(Token.objects.create(user=User.objects.create(username="payer")).key)
