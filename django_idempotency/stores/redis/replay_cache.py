"""
The replay cache in front of a DatabaseStore: committed records behind a django-redis alias, to answer replays without a
statement. One that is away or has forgotten everything costs speed. One that comes back with an older state, from a
snapshot or a replica that lagged, answers with what was freed since: an action that was to run again does not, until
that answer expires.

A record is put there after COMMIT, for less time than it lives in the database, and signed: what comes from there
without our signature, or for another identity, is ignored.
"""

import hmac
import json
import logging
import time
from functools import cached_property
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.db import connections

from django_idempotency.core.decision import Completed
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import PolicyError, StoreUnavailable
from django_idempotency.stores.redis.client import RedisAlias

logger = logging.getLogger("django_idempotency")

COOL_DOWN = 30.0  # seconds after a call that failed, in which this process does without the cache
# A database counts a lifetime from the claim where the handler took less than 1 % of it: ours ends before.
SHARE = 0.99
FREED = b"freed"
# A process that was frozen between COMMIT and its call here must not bring back what was freed meanwhile.
FREED_FOR = 3600  # seconds
FOREIGN = "WRONGTYPE"  # how the server's words begin for a value that is no text
MAC = 32  # bytes
FORMAT = b"idempotency 1 "

# value, milliseconds
PUT = f"""
if redis.call('GET', KEYS[1]) == '{FREED.decode()}' then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


Table = tuple[str, ...]


def table_of(using: str) -> Table:
    """The alias, and the schema that its connection works in where django-tenants or its like have named one there."""
    schema = getattr(connections[using], "schema_name", None)
    return (using, schema) if schema else (using,)


class ReplayCache:
    """
    Records by table and identity. A call is bounded by the alias's SOCKET_TIMEOUT; the first that fails lets the
    process do without the cache for `COOL_DOWN` seconds.
    """

    def __init__(self, alias: str, owner: str) -> None:
        self.redis = RedisAlias(alias, owner)
        self.back_at = 0.0  # monotonic

    @cached_property
    def _put(self) -> Any:
        return self.redis.script(PUT)

    @cached_property
    def _secrets(self) -> list[bytes]:
        """What records are signed with, the present one first."""
        keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
        return [sha256(b"django_idempotency.replay_cache" + str(key).encode()).digest() for key in keys]

    def _key(self, table: Table, digest: bytes) -> str:
        return self.redis.make_key(f"idempotency:replay:{':'.join(table)}:{digest.hex()}")

    def get(self, using: str, digest: bytes) -> Completed | None:
        """The record of the identity *digest* in the database *using*, if it is here. Raises nothing."""
        if time.monotonic() < self.back_at:
            return None
        table = table_of(using)
        try:
            value = self.redis.client.get(self._key(table, digest))
        except PolicyError:
            raise
        except Exception as error:  # the driver's, or the socket's
            self._failed(digest, error)
            return None
        if value is None or value == FREED:
            return None
        try:
            return self._read(value, table, digest)
        except (TypeError, ValueError) as error:
            _ignored(digest, error)
            return None

    def put(
        self, table: Table, digest: bytes, fingerprint: bytes, record: CompletionRecord, ttl: float, since: float
    ) -> None:
        """
        Keep *record*, which lives *ttl* seconds from *since* (monotonic) on, or longer. Raises nothing.

        *table* is that of when the record was written: by COMMIT the connection may work in another schema.
        """
        now = time.monotonic()
        seconds = ttl * SHARE - (now - since)
        if now < self.back_at or seconds <= 0:
            return
        value = self._written(table, digest, fingerprint, record, time.time() + seconds)
        try:
            self._put((self._key(table, digest),), (value, max(int(seconds * 1000), 1)))
        except Exception as error:  # the work is committed: a cache that is away is worth no failure
            self._failed(digest, error)

    def remove(self, using: str, digest: bytes) -> None:
        """Forget the record, and keep out who comes late with it. Raises `StoreUnavailable` where that is not sure."""
        table = table_of(using)
        try:
            self.redis.client.set(self._key(table, digest), FREED, ex=FREED_FOR)
        except PolicyError:
            raise
        except Exception as error:
            raise StoreUnavailable(
                "The replay cache does not answer, and may have the stored answer. Nothing was changed."
            ) from error

    def _failed(self, digest: bytes, error: Exception) -> None:
        """A call of an identity has failed: do without the cache for a while, if the server is what it failed for."""
        if str(error).startswith(FOREIGN):
            _ignored(digest, error)
            return
        self.back_at = time.monotonic() + COOL_DOWN
        logger.warning(
            "The replay cache %r does not answer, and is left out for %d seconds: %s",
            self.redis.alias, COOL_DOWN, error,
        )  # fmt: skip

    def _written(
        self, table: Table, digest: bytes, fingerprint: bytes, record: CompletionRecord, expires: float
    ) -> bytes:
        head = json.dumps(
            [expires, fingerprint.hex(), record.status, record.head().decode(), record.request_id], check_circular=False
        )
        content = b"".join((FORMAT, head.encode(), b"\n", record.body))
        return self._signature(self._secrets[0], table, digest, content) + content

    def _read(self, value: bytes, table: Table, digest: bytes) -> Completed | None:
        """Raises `ValueError` for what we have not written, or not for this identity."""
        signature, content = value[:MAC], value[MAC:]
        if not any(
            hmac.compare_digest(signature, self._signature(secret, table, digest, content)) for secret in self._secrets
        ):
            raise ValueError("it is not signed by this project, for this identity")
        head, _, body = content.partition(b"\n")
        expires, fingerprint, status, stored, request_id = json.loads(head.removeprefix(FORMAT))
        if time.time() >= expires:  # it came late to the server, and stays longer there than it may
            return None
        record = CompletionRecord.from_stored(status, stored.encode(), body, request_id)
        return Completed(record, bytes.fromhex(fingerprint))

    @staticmethod
    def _signature(secret: bytes, table: Table, digest: bytes, content: bytes) -> bytes:
        return hmac.digest(secret, digest + "\0".join(table).encode() + b"\0" + content, "sha256")


def _ignored(digest: bytes, error: Exception) -> None:
    logger.warning("Ignored what the replay cache has for %s: %s", digest.hex(), error)
