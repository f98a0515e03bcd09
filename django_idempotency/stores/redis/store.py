"""
The store for work that is not in a database: claims and completion records in Redis or Valkey, through django-redis.

A first execution takes two round trips, claim and completion, a replay one; nothing is pickled. The record of an
identity and the set of claims that it is listed in have one hash tag, so a cluster keeps them in one slot.
"""

import logging
import re
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from django.core.checks import CheckMessage

from django_idempotency.core.decision import Claimed, ClaimResult, Completed, InFlight, Unsettled
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import PolicyError, RequestInProgress
from django_idempotency.stores.base import Fault, LeasedStore
from django_idempotency.stores.redis import scripts
from django_idempotency.stores.redis.client import RedisAlias, classify
from django_idempotency.stores.stored import Location, StoredRecord

logger = logging.getLogger("django_idempotency")

UNKNOWN = datetime(1970, 1, 1, tzinfo=UTC)  # when what is none of ours was executed
NEVER = datetime(9999, 1, 1, tzinfo=UTC)
LEASE_ENDED = "its lease has run out, and it has not answered"
DIGEST = re.compile(rb"[0-9a-f]{64}")
TAGS = [f"{number:02x}" for number in range(256)]


class RedisStore(LeasedStore):
    """
    Redis 7.0 and newer, or Valkey; one server, Sentinel, or Cluster.

    The option `CACHE` names the django-redis alias; its KEY_PREFIX and VERSION are part of every key. The alias's own
    SOCKET_TIMEOUT bounds each call.
    """

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        for name in options:
            if name != "CACHE":
                raise PolicyError(f"The RedisStore {alias!r} has no option {name!r}: it takes 'CACHE'.")
        cache = options.get("CACHE", "default")
        if not isinstance(cache, str) or not cache:
            raise PolicyError(
                f"The RedisStore {alias!r}: option 'CACHE' must be the alias of a django-redis cache, not {cache!r}."
            )
        self.redis = RedisAlias(cache, f"The RedisStore {alias!r}")

    # --- scripts, each loaded once ---

    @cached_property
    def _claim(self) -> Any:
        return self.redis.script(scripts.CLAIM)

    @cached_property
    def _complete(self) -> Any:
        return self.redis.script(scripts.COMPLETE)

    @cached_property
    def _release(self) -> Any:
        return self.redis.script(scripts.RELEASE)

    @cached_property
    def _renew(self) -> Any:
        return self.redis.script(scripts.RENEW)

    def _keys(self, digest: str) -> tuple[str, str]:
        """The keys of the record and of the set of claims."""
        make_key = self.redis.make_key
        tag = digest[:2]
        return make_key(f"idempotency:{{{tag}}}:{digest}"), make_key(f"idempotency:{{{tag}}}:claims")

    # --- for requests ---

    def claim(self, attempt: Attempt, token: str, lease: float, *, take_over: bool) -> ClaimResult:
        identity = attempt.identity
        digest = identity.digest.hex()
        arguments = (
            token,
            attempt.fingerprint,
            _milliseconds(lease),
            _milliseconds(attempt.ttl),
            "1" if take_over else "0",
            digest,
            identity.scope,
            identity.operation,
            identity.key,
            attempt.request,
            attempt.request_id,
        )
        found = self._claimed(self._keys(digest), arguments)
        match found:
            case [b"claimed", taken_over]:
                return Claimed(token, taken_over=bool(taken_over))
            case [b"in flight", fingerprint]:
                return InFlight(fingerprint)
            case [b"completed", fingerprint, *record]:
                try:
                    return Completed(_record(*record), fingerprint)
                except (RecursionError, TypeError, ValueError) as error:
                    return self._garbage(attempt, error)
            case [b"unsettled", fingerprint, newly]:
                return Unsettled(fingerprint, found_out=LEASE_ENDED if newly else "")
            case [_, reason]:
                return self._garbage(attempt, reason)
            case _:
                raise TypeError(f"The claim's script has answered {found!r}.")

    def _claimed(self, keys: tuple[str, str], arguments: tuple[Any, ...]) -> Any:
        import redis.exceptions as driver

        try:
            return self._claim(keys, arguments)
        except driver.ConnectionError:
            # The reply may be lost, or the connection was an old one. A claim that is there is known by its token.
            return self._claim(keys, arguments)

    def _garbage(self, attempt: Attempt, reason: object) -> Unsettled:
        """What somebody else wrote there, or what is left of something: nobody knows what came of the request."""
        identity = attempt.identity
        logger.error("Store %r has something for %s that it has not written: %s", self.alias, identity, reason)
        return Unsettled(attempt.fingerprint)

    def complete(self, attempt: Attempt, claim: Claimed, record: CompletionRecord) -> CompletionRecord | None:
        digest = attempt.identity.digest.hex()
        arguments = (
            claim.token,
            digest,
            _milliseconds(attempt.ttl),
            record.status,
            record.head(),
            record.body,
        )
        keys = self._keys(digest)
        found = self._complete(keys, arguments)
        if found == [b"gone"]:
            # Evicted, or the server was started anew. Nobody else has claimed it, or it would not be gone.
            logger.warning("Store %r has forgotten the claim of %s, and takes it anew", self.alias, attempt.identity)
            if not isinstance(self.claim(attempt, claim.token, 1.0, take_over=False), Claimed):
                return None
            found = self._complete(keys, arguments)
        match found:
            case [b"kept"]:
                return record
            case [b"completed", fingerprint, *stored] if fingerprint == attempt.fingerprint:
                try:
                    return _record(*stored)
                except (RecursionError, TypeError, ValueError) as error:
                    self._garbage(attempt, error)
            case [b"garbage", reason]:
                self._garbage(attempt, reason)
            case _:
                pass
        return None

    def release(self, attempt: Attempt, claim: Claimed) -> None:
        digest = attempt.identity.digest.hex()
        self._release(self._keys(digest), (claim.token, digest, 0))

    def abandon(self, attempt: Attempt, claim: Claimed, lease: float) -> None:
        digest = attempt.identity.digest.hex()
        self._release(self._keys(digest), (claim.token, digest, _milliseconds(lease)))

    def renew(self, attempt: Attempt, claim: Claimed, lease: float) -> bool:
        return self._lease(attempt, claim, _milliseconds(lease), announced=False)

    def mark_unsettled(self, attempt: Attempt, claim: Claimed) -> None:
        self._lease(attempt, claim, 0, announced=True)

    def _lease(self, attempt: Attempt, claim: Claimed, milliseconds: int, *, announced: bool) -> bool:
        digest = attempt.identity.digest.hex()
        ttl = _milliseconds(attempt.ttl)
        arguments = (claim.token, digest, milliseconds, ttl, "2" if announced else "0")
        return bool(self._renew(self._keys(digest), arguments))

    def classify(self, using: str | None, error: Exception) -> Fault:
        return classify(error)

    # --- for operators ---

    def find(self, using: str | None, digest: bytes) -> StoredRecord | None:
        found = self.redis.script(scripts.SHOW)(self._keys(digest.hex()), ())
        return None if found[0] == b"nothing" else _stored(Location(store=self), digest, found)

    def unsettled(self, using: str | None, limit: int) -> list[StoredRecord]:
        found = [record for tag in TAGS for record in self._unsettled(tag, limit)]
        return sorted(found, key=lambda record: record.executed_at)[:limit]

    def _unsettled(self, tag: str, limit: int) -> list[StoredRecord]:
        """Those of one *tag*. Entries whose record is gone are forgotten on the way, and do not count."""
        overdue = self.redis.script(scripts.OVERDUE)
        forget = self.redis.script(scripts.FORGET)
        claims = self.redis.make_key(f"idempotency:{{{tag}}}:claims")
        while True:
            try:
                members = overdue((claims,), (limit,))
            except Exception as error:  # the driver's
                if "WRONGTYPE" not in str(error):
                    raise
                logger.error("Store %r has something at %s that it has not written: %s", self.alias, claims, error)
                return []
            found, forgotten = [], 0
            for digest in filter(DIGEST.fullmatch, members):
                record = self.find(None, bytes.fromhex(digest.decode()))
                if record is not None and record.is_unsettled:
                    found.append(record)
                else:  # expired, or evicted
                    forgotten += forget(self._keys(digest.decode()), (digest,))
            if not forgotten:
                return found

    def free(self, using: str | None, digest: bytes, executed_at: datetime | None, *, unsettled: bool = False) -> bool:
        arguments = (digest.hex(), _instant(executed_at), "1" if unsettled else "0")
        return _told(self.redis.script(scripts.FREE)(self._keys(digest.hex()), arguments)) == "freed"

    def settle(self, using: str | None, digest: bytes, executed_at: datetime | None, record: CompletionRecord) -> bool:
        arguments = (
            digest.hex(),
            _instant(executed_at),
            secrets.token_hex(16),  # the first owner may still come, and is stale
            record.status,
            record.head(),
            record.body,
        )
        return _told(self.redis.script(scripts.SETTLE)(self._keys(digest.hex()), arguments)) == "settled"

    def check(self, databases: Collection[str] = ()) -> list[CheckMessage]:
        from django_idempotency.stores.redis import checks as redis_checks  # a server that serves needs none of it

        return redis_checks.check_settings(self.redis)

    def check_servers(self) -> list[CheckMessage]:
        from django_idempotency.stores.redis import checks as redis_checks

        return redis_checks.check_server(self.redis)


def _milliseconds(seconds: float) -> int:
    return max(round(seconds * 1000), 1)


def _instant(moment: datetime | None) -> str:
    return "" if moment is None else str(round(moment.timestamp() * 1000))


def _record(status: bytes, head: bytes, body: bytes, request_id: bytes) -> CompletionRecord:
    """The record as it was stored. Raises as `from_stored` does."""
    return CompletionRecord.from_stored(int(status), head, body, request_id.decode())


def _told(answer: bytes) -> str:
    """The word that a script answered. Raises `RequestInProgress` where it is in flight, or another execution."""
    word = answer.decode()
    if word in ("in flight", "other"):
        raise RequestInProgress
    return word


def _stored(location: Location, digest: bytes, found: list[Any]) -> StoredRecord:
    """What the script SHOW has found. What is none of ours has neither fields nor times of its own."""
    now = _moment(found[1])
    foreign = StoredRecord(digest=digest, executed_at=UNKNOWN, expires_at=NEVER, now=now, location=location)
    if found[0] != b"found":
        return foreign
    fields = dict(_pairs(found[3]))
    foreign = replace(foreign, expires_at=_moment(found[1] + max(found[2], 0)))
    try:
        foreign = replace(foreign, executed_at=_moment(int(fields.get("executed_at", 0))))
        status = int(fields.get("status", 0))
    except (OverflowError, ValueError):
        return foreign  # somebody has changed it
    texts = ("scope", "operation", "key", "request", "request_id")
    rest: dict[str, Any] = {name: fields.get(name, b"").decode(errors="replace") for name in texts}
    if fields["state"] == b"completed":
        rest |= {"status": status, "head": fields["head"], "body": fields["body"]}
    return replace(foreign, fingerprint=fields["fingerprint"], **rest)


def _pairs(fields: Any) -> Iterable[tuple[str, bytes]]:
    pairs = fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)
    return ((name.decode(errors="replace"), value) for name, value in pairs)


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
