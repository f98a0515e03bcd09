"""
The sample project is a project of its own, so its tests have a run of their own, with its settings:

    pytest tests/sample --ds=sample_project.settings --confcutdir=tests/sample

A run with other settings passes them by.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test.utils import override_settings

from tests.lab.caches import need_redis

if os.environ.get("DJANGO_SETTINGS_MODULE") == "sample_project.settings":
    from django.contrib.auth.models import User
    from django.core.cache import caches
    from django.db import connection
    from rest_framework.authtoken.models import Token
    from rest_framework.test import APIClient

    from sample_project import gateway as fake
    from sample_project.payments.models import Account
else:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """SQLite in a file, which other processes can open."""
    if connection.vendor == "sqlite":
        connection.settings_dict["TEST"]["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")


@pytest.fixture(scope="session", autouse=True)
def _cheap_passwords() -> Iterator[None]:
    """The project's own way to hash a password takes longer than most tests."""
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"]):
        yield


@pytest.fixture
def ann(db: None) -> "User":
    return User.objects.create_user("ann", password="sample-password")


@pytest.fixture
def bob(db: None) -> "User":
    return User.objects.create_user("bob", password="sample-password")


@pytest.fixture
def support(db: None) -> "User":
    return User.objects.create_user("support", password="sample-password", is_staff=True)


@pytest.fixture
def account(ann: "User") -> "Account":
    """Ann's account, with 100 euros on it."""
    return Account.objects.create(owner=ann, name="Current", currency="EUR", balance=10_000)


@pytest.fixture
def savings(ann: "User") -> "Account":
    return Account.objects.create(owner=ann, name="Savings", currency="EUR", balance=0)


@pytest.fixture
def client_of(db: None) -> "Callable[[User], APIClient]":
    """A client that sends a user's token."""

    def client_of(user: "User") -> "APIClient":
        token, _ = Token.objects.get_or_create(user=user)
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Token {token.key}")
        return client

    return client_of


@pytest.fixture
def post(ann: "User", client_of: "Callable[[User], APIClient]") -> Callable[..., Any]:
    """POST JSON as Ann, with a key where one is given."""
    anns = client_of(ann)

    def post(path: str, payload: dict[str, Any], *, key: str | None = None, client: Any = None) -> Any:
        headers = {} if key is None else {"Idempotency-Key": key}
        return (client or anns).post(path, payload, format="json", headers=headers)

    return post


@pytest.fixture
def redis(settings: Any) -> Iterator[None]:
    """The Redis of `REDIS_URL` keeps this test's keys, apart from all others, and forgets them."""
    need_redis()
    settings.CACHES = {"default": {**settings.CACHES["default"], "KEY_PREFIX": f"test-{uuid.uuid4()}"}}
    yield
    caches["default"].delete_pattern("*")


@pytest.fixture
def gateway(settings: Any) -> "Iterator[fake.Gateway]":
    """The card gateway, which is here, and so shows its books."""
    with fake.running() as gateway:
        settings.GATEWAY_URL = gateway.url
        yield gateway
