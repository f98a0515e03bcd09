"""
The contract of a store (`stores/base.py`) as tests that any store passes by subclassing.

    class TestMyStore(LeasedStoreTests, SimpleTestCase):
        def make_store(self):
            return MyStore("mine", {"OPTION": "value"})

`LeasedStoreTests` and `TransactionalStoreTests` run under Django's test runner, and under pytest also without a test
case. A failure quotes the sentence of the contract that does not hold. Each test has new identities, so the store may
be on a server that others use.
"""

from django_idempotency.testing.store_contract.leased import LeasedStoreTests
from django_idempotency.testing.store_contract.transactional import TransactionalStoreTests

__all__ = ["LeasedStoreTests", "TransactionalStoreTests"]
