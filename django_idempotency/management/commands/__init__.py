"""`idempotency_purge`, `idempotency_show` and `idempotency_unsettled`."""
