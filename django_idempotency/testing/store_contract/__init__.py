"""
The contract of a store (`stores/base.py`) as tests that any store passes by subclassing.

    class TestMyStore(LeasedStoreTests, SimpleTestCase):
        def make_store(self):
            return MyStore("mine", {"OPTION": "value"})

`LeasedStoreTests` and `TransactionalStoreTests` run under Django's test runner and under pytest, where the test case
may be left out. A failure quotes the sentence that the store does not keep. Each test has identities of its own, so a
server that others use will do: no test needs a store to be empty.
"""

from django_idempotency.testing.store_contract.leased import LeasedStoreTests
from django_idempotency.testing.store_contract.transactional import TransactionalStoreTests

__all__ = ["LeasedStoreTests", "TransactionalStoreTests"]
