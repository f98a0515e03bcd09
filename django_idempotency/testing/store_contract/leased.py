"""The contract of a store beside all databases, whole."""

from django_idempotency.testing.store_contract.leased_runs import LeasedRunTests
from django_idempotency.testing.store_contract.tokens import TokenTests


class LeasedStoreTests(TokenTests, LeasedRunTests):
    """
    What a `LeasedStore` passes. A subclass gives the store, by `make_store`.

    Where the store's server can be away, `make_store_that_is_away` makes a store that has none. `between_processes` is
    False for a store that other processes cannot see.
    """
