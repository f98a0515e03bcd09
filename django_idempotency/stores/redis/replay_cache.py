"""
The replay cache in front of a DatabaseStore: committed records behind a django-redis alias answer replays without a
statement.

A cache that is away, or has forgotten everything, costs speed. If it comes back with an older state, from a snapshot or
a lagging replica, it answers with records that were freed since, until they expire.

A record is put there a moment after COMMIT, for less time than it lives in the database. It is signed; a value without
our signature, or for another identity, is ignored.
"""

import hmac
import json
import logging
import time
from functools import cached_property
from hashlib import sha256

from django.conf import settings

from django_idempotency.core.decision import Completed
from django_idempotency.core.keys import Identity
from django_idempotency.core.record import CompletionRecord
from django_idempotency.encryption import seal, unseal
from django_idempotency.exceptions import PolicyError, StoreUnavailable
from django_idempotency.stores.redis.client import RedisAlias
from django_idempotency.stores.schemas import schema_of

logger = logging.getLogger("django_idempotency")

COOL_DOWN = 30.0  # seconds after a failed call, for which this process does not use the cache
# If the handler took less than 1 % of the lifetime, a database counts it from the claim; ours must end earlier.
SHARE = 0.99
FREED = b"freed"
# A process that was frozen between COMMIT and `put` must not bring back a record that was freed meanwhile.
FREED_FOR = 3600  # seconds
FOREIGN = "WRONGTYPE"  # the beginning of the server's error for a value that is not a string
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
    """The alias, and the tenant's schema that its connection works in, if there is one."""
    schema = schema_of(using)
    return (using, schema) if schema else (using,)


class ReplayCache:
    """
    Records by table and identity. The alias's SOCKET_TIMEOUT limits a call; after a failed one the process does not use
    the cache for `COOL_DOWN` seconds.
    """

    def __init__(self, alias: str, owner: str) -> None:
        self.redis = RedisAlias(alias, owner, "REPLAY_CACHE")
        self.back_at = 0.0  # monotonic

    @cached_property
    def _secrets(self) -> list[bytes]:
        """The secrets that sign records, the current one first."""
        keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
        return [sha256(b"django_idempotency.replay_cache" + str(key).encode()).digest() for key in keys]

    def _key(self, table: Table, digest: bytes) -> str:
        return self.redis.make_key(f"idempotency:replay:{':'.join(table)}:{digest.hex()}")

    def get(self, using: str, identity: Identity) -> Completed | None:
        """
        Look up the record of *identity* in the database *using*. Errors of the server are logged.

        Raises `StoreUnavailable` if the keys that it is encrypted with cannot be asked.
        """
        if time.monotonic() < self.back_at:
            return None
        digest = identity.digest
        table = table_of(using)
        try:
            value = self.redis.get(self._key(table, digest))
        except PolicyError:
            raise
        except Exception as error:  # the driver's, or the socket's
            self._failed(digest, error)
            return None
        if value is None or value == FREED:
            return None
        try:
            return self._decode(value, table, identity)
        except (TypeError, ValueError) as error:
            _log_ignored(digest, error)
            return None

    def put(
        self, table: Table, identity: Identity, fingerprint: bytes, record: CompletionRecord, ttl: float, since: float
    ) -> None:
        """
        Store *record*, which lives at least *ttl* seconds from *since* (monotonic). Errors are logged.

        *table* was found when the record was written, because after COMMIT the connection may work in another schema.
        """
        now = time.monotonic()
        seconds = ttl * SHARE - (now - since)
        if now < self.back_at or seconds <= 0:
            return
        value = self._encode(table, identity, fingerprint, record, time.time() + seconds)
        try:
            self.redis.run(PUT, (self._key(table, identity.digest),), (value, max(int(seconds * 1000), 1)))
        except Exception as error:  # the work is committed, so a cache that is away must not fail it
            self._failed(identity.digest, error)

    def remove(self, using: str, digest: bytes) -> None:
        """Remove the record, and reject a late `put` of it. Raises `StoreUnavailable` if the cache does not answer."""
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
        """Log a failed call; unless it is the value's fault, do not use the cache for a while."""
        if str(error).startswith(FOREIGN):
            _log_ignored(digest, error)
            return
        self.back_at = time.monotonic() + COOL_DOWN
        logger.warning(
            "The replay cache %r does not answer, and is left out for %d seconds: %s",
            self.redis.alias, COOL_DOWN, error,
        )  # fmt: skip

    def _encode(
        self, table: Table, identity: Identity, fingerprint: bytes, record: CompletionRecord, expires: float
    ) -> bytes:
        head = json.dumps(
            [expires, fingerprint.hex(), record.status, record.head().decode(), record.request_id], check_circular=False
        )
        content = b"".join((FORMAT, head.encode(), b"\n", record.body))
        content = seal(identity.scope, identity.digest, _place(table), content)
        return self._signature(self._secrets[0], table, identity.digest, content) + content

    def _decode(self, value: bytes, table: Table, identity: Identity) -> Completed | None:
        """Read what `_encode` wrote; None if it has expired. Raises `ValueError` if it was not for this identity."""
        signature, content = value[:MAC], value[MAC:]
        if not any(
            hmac.compare_digest(signature, self._signature(secret, table, identity.digest, content))
            for secret in self._secrets
        ):
            raise ValueError("it is not signed by this project, for this identity")
        content = unseal(identity.scope, identity.digest, _place(table), content)
        head, _, body = content.partition(b"\n")
        expires, fingerprint, status, stored, request_id = json.loads(head.removeprefix(FORMAT))
        if time.time() >= expires:  # it reached the server late, so the server keeps it too long
            return None
        record = CompletionRecord.from_stored(status, stored.encode(), body, request_id)
        return Completed(record, bytes.fromhex(fingerprint))

    @staticmethod
    def _signature(secret: bytes, table: Table, digest: bytes, content: bytes) -> bytes:
        return hmac.digest(secret, digest + "\0".join(table).encode() + b"\0" + content, "sha256")


def _place(table: Table) -> bytes:
    """Where a sealed value belongs."""
    return b"replay " + "\0".join(table).encode()


def _log_ignored(digest: bytes, error: Exception) -> None:
    logger.warning("Ignored what the replay cache has for %s: %s", digest.hex(), error)
