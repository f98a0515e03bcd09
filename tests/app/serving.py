"""What the tests of outcomes and edges share: a view served where a test asks for it, a second thread to rival it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection, connections
from django.test import Client
from django.urls import path
from rest_framework.decorators import api_view
from rest_framework.views import APIView

from django_idempotency import idempotent, signals
from django_idempotency.models import DatabaseNow, IdempotencyRecord
from django_idempotency.stores.later import flush
from tests.app.urls import urlpatterns
from tests.app.views import make_payment

KEY = {"Idempotency-Key": "key-1"}
PATH = "/act/"
TIMEOUT = 30  # seconds, for what happens at once unless a test fails

ENGINE = django_settings.DATABASES["default"]["ENGINE"].rpartition(".")[2]
VENDOR = {"sqlite3": "sqlite", "mysql": "mariadb"}.get(ENGINE, ENGINE)  # known when tests are collected
# psycopg2 does not hear of a ROLLBACK that it did not send, and begins no other transaction: what follows is committed.
POOLED = django_settings.DATABASES["default"].get("DISABLE_SERVER_SIDE_CURSORS", False)  # in transaction mode


@pytest.fixture
def serve(settings) -> Callable[..., None]:
    """Serve a view at `/act/`, or at another route, beside the test project's own views."""

    def serve(*views: Any, route: str = PATH.lstrip("/")) -> None:
        patterns = [view if hasattr(view, "pattern") else path(route, view) for view in views]
        settings.ROOT_URLCONF = (*patterns, *urlpatterns)

    return serve


@pytest.fixture
def browser(user) -> Client:
    """A Django client with the session of `user`; exceptions of views become 500, as on a server."""
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


def drf(handler: Callable[..., Any], **options: Any) -> Any:
    """*handler*, protected, as a DRF function view for POST and PATCH."""
    return api_view(["POST", "PATCH"])(idempotent(**options)(handler))


def plain(handler: Callable[..., Any], **options: Any) -> Any:
    """*handler*, protected, as a plain Django view."""
    return idempotent(**options)(handler)


def drf_class(handler: Callable[..., Any], options: dict[str, Any] | None = None, **attributes: Any) -> Any:
    """*handler*, protected, as the `post` of a DRF class with these *attributes*, as a view."""
    post = idempotent(**(options or {}))(lambda self, request: handler(request))
    return type("View", (APIView,), {"post": post, **attributes}).as_view()


def authenticated_by(authenticate: Callable[[], Any], handler: Callable[..., Any], **options: Any) -> Any:
    """*handler*, protected, as a DRF view of whose requests *authenticate* gives the user and the credential."""

    class Authentication:
        def authenticate(self, request: Any) -> Any:
            return authenticate()

        def authenticate_header(self, request: Any) -> str:
            return "Bearer"

    return drf_class(handler, options, authentication_classes=(Authentication,))


EDGES = {"drf": drf, "plain": plain}


@pytest.fixture(params=EDGES)
def edge(request: pytest.FixtureRequest) -> str:
    """Run the test for a DRF view and for a plain Django view."""
    return request.param


@pytest.fixture
def protect(edge) -> Callable[..., Any]:
    """`drf` or `plain`, as the parameter `edge` says."""
    return EDGES[edge]


@pytest.fixture
def client(edge, request) -> Client:
    """A client of `user` that the view of this `edge` authenticates."""
    return request.getfixturevalue("api" if edge == "drf" else "browser")


@pytest.fixture
def background() -> Iterator[Callable[..., Future]]:
    """Run a function in another thread, on connections of its own, which are closed at its end."""
    with ThreadPoolExecutor() as pool:

        def start(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Future:
            def run() -> Any:
                try:
                    return work(*args, **kwargs)
                finally:
                    connections.close_all()

            return pool.submit(run)

        yield start


class Gate:
    """A handler stops there until the test opens it."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def wait(self) -> None:
        """In the handler: tell that we are here, and stop."""
        self._reached.set()
        assert self._opened.wait(TIMEOUT), "the gate was never opened"

    def reached(self) -> None:
        """In the test: wait for the handler."""
        assert self._reached.wait(TIMEOUT), "no handler reached the gate"

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that is open at the end, so that a failed test leaves no thread behind."""
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def slow_payment(gate) -> Callable[..., Any]:
    """A handler that stops at the gate, and then pays."""

    def slow_payment(request: Any) -> Any:
        gate.wait()
        return make_payment(request)

    return slow_payment


def post(client: Client, data: Any = None, url: str = PATH, *, key: str | None = "key-1", **extra: Any) -> Any:
    """POST *data* as JSON with the idempotency *key*, or without one where it is None, and let `later` be over."""
    headers = {**({} if key is None else {"Idempotency-Key": key}), **extra.pop("headers", {})}
    response = client.post(
        url,
        {"amount": 10} if data is None else data,
        content_type="application/json",
        headers=headers,
        **extra,
    )
    flush()
    return response


def is_replay(response: Any) -> bool:
    return response.headers.get("Idempotency-Replayed") == "true"


def expire() -> None:
    """Let every record expire, by the database's clock."""
    IdempotencyRecord.objects.update(expires_at=DatabaseNow())


@contextmanager
def without_table(table: str = "django_idempotency_record", using: str = "default") -> Iterator[None]:
    """Inside the block a table is not there: what a project sees that has not migrated."""

    def rename(old: str, new: str) -> None:
        with connections[using].cursor() as cursor:
            cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")

    rename(table, "away")
    try:
        yield
    finally:
        rename("away", table)


@contextmanager
def hearing(*names: str) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """
    The signals of operations that are sent inside the block, of these *names* or all: name and arguments of each, and
    whether it was sent `in_atomic_block`.
    """
    heard: list[tuple[str, dict[str, Any]]] = []
    receivers = {}
    for name in names or ("executed", "replayed", "refused", "forgotten", "unsettled"):

        def receive(name: str = name, **about: Any) -> None:
            heard.append((name, {**about, "in_atomic_block": connection.in_atomic_block}))

        receivers[name] = receive
        getattr(signals, f"operation_{name}").connect(receivers[name])
    try:
        yield heard
    finally:
        for name, receiver in receivers.items():
            getattr(signals, f"operation_{name}").disconnect(receiver)


def end_own_connection() -> None:
    """Let the server end this thread's connection, as a restart would."""
    with connection.cursor() as cursor:
        if VENDOR == "postgresql":
            cursor.execute("SELECT pg_backend_pid()")
            kill = "SELECT pg_terminate_backend(%s)"
        else:
            cursor.execute("SELECT CONNECTION_ID()")
            kill = "KILL %s"
        number = cursor.fetchone()[0]
    rival = connection.copy()
    with rival.cursor() as cursor:
        cursor.execute(kill, [number])
    rival.close()
