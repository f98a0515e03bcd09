"""The RedisStore, and the replay cache in front of the DatabaseStore."""

from django_idempotency.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
