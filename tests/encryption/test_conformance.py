"""Encrypted stores keep the contract of a store, as the others do."""

import pytest

from django_idempotency.stores.database import DatabaseStore
from django_idempotency.stores.redis import RedisStore
from django_idempotency.testing.store_contract import LeasedStoreTests, TransactionalStoreTests
from tests.encryption.conftest import OLD


@pytest.fixture
def sealed(encrypt):
    encrypt({"a": OLD}, REQUIRE=True)


@pytest.mark.usefixtures("sealed")
@pytest.mark.django_db(transaction=True, available_apps=["django_idempotency"])
class TestDatabaseStore(TransactionalStoreTests):
    """On the database of this run."""

    def make_store(self):
        return DatabaseStore("conformance", {})


@pytest.mark.usefixtures("stores", "sealed")
class TestRedisStore(LeasedStoreTests):
    """On the server of this run, Redis or Valkey."""

    def make_store(self):
        return RedisStore("conformance", {"CACHE": "keys"})
