"""`idempotency_purge` and `idempotency_show`."""
