"""The DatabaseStore: one module for each family of databases, one class for each claim protocol."""

from django_idempotency.stores.database.store import DatabaseStore

__all__ = ["DatabaseStore"]
