"""Fixtures for all tests. `DATABASE_URL` names the database; `python -m tests` runs the suite on each."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, connections
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient

from django_idempotency.adapters import cookies
from django_idempotency.engine import other_threads, transactional
from tests.app.serving import POOLED
from tests.lab import emptying
from tests.lab.routines import BY_STATEMENTS, change_routines
from tests.proof.report import pytest_terminal_summary  # noqa: F401 a hook, which pytest finds here

HEAVY = ("browser", "kill", "race", "slow")  # marks
MANY_PROCESSES = "test_docs.py"  # one for each page, of a second each


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first: one that began last would keep one worker busy and the others waiting."""
    heavy = {item.path for item in items if any(item.get_closest_marker(mark) for mark in HEAVY)}
    items.sort(key=lambda item: item.path not in heavy and item.path.name != MANY_PROCESSES)


@pytest.fixture(autouse=True)
def warn_anew() -> None:
    """What is logged once per operation and process is logged once per test."""
    cookies.warned.clear()
    transactional.warned.clear()
    other_threads.warned.clear()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """
    Prepare the test databases, and drop the routines if the run has none. End a pooler's own connections to the test
    database before its drop.
    """
    emptying.install()
    with django_db_blocker.unblock():
        if connection.vendor == "postgresql":  # as SQLite's in tests/settings.py: nothing waits for the disk
            with connection.cursor() as cursor:
                name = connection.ops.quote_name(connection.settings_dict["NAME"])
                cursor.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
            connection.close()
        if BY_STATEMENTS:
            change_routines(create=False)
    yield
    if POOLED:
        connection.close()
        with django_db_blocker.unblock(), connection._nodb_cursor() as cursor:
            name = connection.settings_dict["NAME"]
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))


@pytest.fixture
def vendor() -> str:
    """The server of the default database: `postgresql`, `mariadb`, `mysql` or `sqlite`."""
    if connection.vendor == "mysql":
        return "mariadb" if connection.mysql_is_mariadb else "mysql"
    return connection.vendor


@pytest.fixture(params=[False, True], ids=["autocommit", "atomic-requests"])
def atomic_requests(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Run the test without and with `ATOMIC_REQUESTS`."""
    settings = connections["default"].settings_dict
    before = settings["ATOMIC_REQUESTS"]
    settings["ATOMIC_REQUESTS"] = request.param
    yield request.param
    settings["ATOMIC_REQUESTS"] = before


@pytest.fixture
def user(django_user_model):
    return django_user_model.objects.create_user("payer", password="secret")


@pytest.fixture
def other_user(django_user_model):
    return django_user_model.objects.create_user("other", password="secret")


@pytest.fixture
def api(user) -> APIClient:
    """A client with the token of `user`. An exception in a view becomes a 500, as on a server."""
    return authenticated(user)


@pytest.fixture
def other_api(other_user) -> APIClient:
    return authenticated(other_user)


def authenticated(user) -> APIClient:
    client = APIClient(raise_request_exception=False)
    client.credentials(HTTP_AUTHORIZATION=f"Token {Token.objects.get_or_create(user=user)[0]}")
    return client
