"""
The store for work outside the databases: claims and completion records in Redis or Valkey, through django-redis.

A first execution takes two round trips, a replay one; nothing is pickled. The record of an identity and the set that
lists its claim have one hash tag, so that a cluster keeps them in one slot.
"""

import logging
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from django.core.checks import CheckMessage

from django_idempotency.core.decision import Claimed, ClaimResult, Completed, Expired, InFlight, Unsettled
from django_idempotency.core.keys import Attempt, Identity
from django_idempotency.core.record import TOMBSTONE, CompletionRecord
from django_idempotency.encryption import open_answer, seal_answer, sealer
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.stores.base import Fault, LeasedStore
from django_idempotency.stores.redis import scripts
from django_idempotency.stores.redis.client import SCANNED, RedisAlias, classify
from django_idempotency.stores.stored import UNKNOWN, Location, StoredRecord, claim_in_flight, open_fields

logger = logging.getLogger("django_idempotency")

LEASE_ENDED = "its lease has run out, and it has not answered"
DIGEST = re.compile(rb"[0-9a-f]{64}")
TAGS = [f"{number:02x}" for number in range(256)]


class RedisStore(LeasedStore):
    """
    Redis 7.0 and newer, or Valkey; one server, Sentinel, or Cluster.

    The option `CACHE` names the django-redis alias. Its KEY_PREFIX and VERSION are part of every key, and its
    SOCKET_TIMEOUT limits each call.
    """

    encrypts = True
    keeps_tombstones = True

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        self.check_options("CACHE")
        self.redis = RedisAlias(options.get("CACHE", "default"), str(self), "CACHE")

    def _keys(self, digest: str) -> tuple[str, str]:
        """The keys of the record and of the set of claims, of an identity's hexadecimal *digest*."""
        make_key, prefix = self.redis.make_key, f"idempotency:{{{digest[:2]}}}"
        return make_key(f"{prefix}:{digest}"), make_key(f"{prefix}:claims")

    def _run(self, script: str, digest: bytes, *arguments: Any, late: bool = False) -> Any:
        """Run *script* for the identity *digest*. A tombstone is looked at, or written, only if *late*."""
        record, claims = self._keys(digest.hex())
        # While a slot moves, a cluster refuses a script of which one key is there and another one is not.
        return self.redis.run(script, (record, claims, f"{record}:late") if late else (record, claims), arguments)

    # --- for requests ---

    def claim(self, attempt: Attempt, token: str, lease: float, *, take_over: bool) -> ClaimResult:
        match self._claim(attempt, token, lease, "1" if take_over else "0"):
            case [b"claimed", taken_over]:
                return Claimed(token, taken_over=bool(taken_over))
            case [b"in flight", fingerprint]:
                return InFlight(fingerprint)
            case [b"completed", fingerprint, *record]:
                try:
                    return Completed(_read_record(attempt, *record), fingerprint)
                except (RecursionError, TypeError, ValueError) as error:
                    return self._log_garbage(attempt, error)
            case [b"expired", fingerprint]:
                return Expired(fingerprint)
            case [b"unsettled", fingerprint, newly]:
                return Unsettled(fingerprint, found_out=LEASE_ENDED if newly else "")
            case [_, reason]:
                return self._log_garbage(attempt, reason)
            case answer:
                raise TypeError(f"The claim's script has answered {answer!r}.")

    def _claim(self, attempt: Attempt, token: str, lease: float, take_over: str) -> Any:
        import redis.exceptions as driver

        identity = attempt.identity
        digest = identity.digest
        times = (_milliseconds(lease), _milliseconds(attempt.ttl))
        parts = (identity.scope, identity.operation, identity.key, attempt.request, attempt.request_id)
        late = attempt.tombstone_ttl > 0
        arguments = (
            token,
            attempt.fingerprint,
            *times,
            take_over,
            digest.hex(),
            *parts,
            _late(attempt),
            _uncertain(attempt),
        )
        try:
            return self._run(scripts.CLAIM, digest, *arguments, late=late)
        except driver.ConnectionError:
            # An old connection, or a lost reply. If the claim exists, the script recognises its token.
            return self._run(scripts.CLAIM, digest, *arguments, late=late)

    def _log_garbage(self, attempt: Attempt, reason: object) -> Unsettled:
        """Log a value that this package did not write, or only in part. Returns an unknown outcome."""
        identity = attempt.identity
        logger.error("Store %r found a value for %s that it did not write: %s", self.alias, identity, reason)
        return Unsettled(attempt.fingerprint)

    def hold(self, attempt: Attempt, token: str, lease: float) -> datetime | None:
        digest = attempt.identity.digest
        arguments = (token, digest.hex(), attempt.fingerprint, _milliseconds(lease))
        answer = self._run(scripts.HOLD, digest, *arguments)
        return None if answer is None else _moment(int(answer))

    def begin(self, attempt: Attempt, claim: Claimed, lease: float) -> bool:
        return bool(self._claim(attempt, claim.token, lease, "2")[0] == b"claimed")

    def complete(self, attempt: Attempt, claim: Claimed, record: CompletionRecord) -> CompletionRecord | None:
        digest = attempt.identity.digest
        answer = seal_answer(attempt.identity.scope, digest, record)
        arguments = (claim.token, digest.hex(), _milliseconds(attempt.ttl), *answer, _late(attempt))
        late = attempt.tombstone_ttl > 0
        answer = self._run(scripts.COMPLETE, digest, *arguments, late=late)
        if answer == [b"gone"]:
            # Evicted, or the server was restarted. No other request has claimed it, or there would be a claim.
            logger.warning("Store %r has forgotten the claim of %s, and claims it again", self.alias, attempt.identity)
            if not isinstance(self.claim(attempt, claim.token, 1.0, take_over=False), Claimed):
                return None
            answer = self._run(scripts.COMPLETE, digest, *arguments, late=late)
        match answer:
            case [b"kept"]:
                return record
            case [b"completed", fingerprint, *stored] if fingerprint == attempt.fingerprint:
                try:
                    return _read_record(attempt, *stored)
                except (RecursionError, TypeError, ValueError) as error:
                    self._log_garbage(attempt, error)
            case [b"garbage", reason]:
                self._log_garbage(attempt, reason)
            case _:
                pass
        return None

    def release(self, attempt: Attempt, claim: Claimed) -> None:
        digest = attempt.identity.digest
        self._run(scripts.RELEASE, digest, claim.token, digest.hex(), 0)

    def abandon(self, attempt: Attempt, claim: Claimed, lease: float) -> None:
        digest = attempt.identity.digest
        self._run(scripts.RELEASE, digest, claim.token, digest.hex(), _milliseconds(lease))

    def renew(self, attempt: Attempt, claim: Claimed, lease: float) -> bool:
        return self._set_lease(attempt, claim, _milliseconds(lease), "0")

    def mark_unsettled(self, attempt: Attempt, claim: Claimed) -> None:
        self._set_lease(attempt, claim, 0, "2")

    def _set_lease(self, attempt: Attempt, claim: Claimed, milliseconds: int, announced: str) -> bool:
        digest = attempt.identity.digest
        arguments = (claim.token, digest.hex(), milliseconds, _uncertain(attempt), announced)
        return bool(self._run(scripts.RENEW, digest, *arguments))

    def classify(self, using: str | None, error: Exception) -> Fault:
        return classify(error)

    # --- for operators ---

    def find(self, using: str | None, digest: bytes) -> StoredRecord | None:
        found = self.peek(using, digest)
        return None if found is None or found.is_in_flight else found

    def peek(self, using: str | None, digest: bytes) -> StoredRecord | None:
        answer = self._run(scripts.SHOW, digest, late=True)
        if answer[0] == b"nothing":
            return None
        location = Location(store=self)
        return claim_in_flight(location, digest) if answer[0] == b"claim" else _read_stored(location, digest, answer)

    def unsettled(self, using: str | None, limit: int) -> list[StoredRecord]:
        found = [record for tag in TAGS for record in self._unsettled(tag, limit)]
        return sorted(found, key=lambda record: record.executed_at)[:limit]

    def _unsettled(self, tag: str, limit: int) -> list[StoredRecord]:
        """The unsettled outcomes of one *tag*. Entries whose record is gone are removed and do not count."""
        claims = self.redis.make_key(f"idempotency:{{{tag}}}:claims")
        while True:
            try:
                members = self.redis.run(scripts.OVERDUE, (claims,), (limit,))
            except Exception as error:  # of the driver
                if "WRONGTYPE" not in str(error):
                    raise
                logger.error("Store %r found a value at %s that it did not write: %s", self.alias, claims, error)
                return []
            found, forgotten = [], 0
            for name in filter(DIGEST.fullmatch, members):
                digest = bytes.fromhex(name.decode())
                record = self.find(None, digest)
                if record is not None and record.is_unsettled:
                    found.append(record)
                else:  # expired, or evicted
                    forgotten += self._run(scripts.FORGET, digest, name)
            if not forgotten:
                return found

    def free(self, using: str | None, digest: bytes, executed_at: datetime | None, *, unsettled: bool = False) -> bool:
        arguments = (digest.hex(), _instant(executed_at), "1" if unsettled else "0")
        return _decide(self._run(scripts.FREE, digest, *arguments, late=True)) == "freed"

    def settle(self, using: str | None, digest: bytes, executed_at: datetime | None, record: CompletionRecord) -> bool:
        token = secrets.token_hex(16)  # the first owner may still arrive; its token is stale then
        found = self.find(None, digest) if sealer() is not None else None
        answer = seal_answer("" if found is None else found.scope, digest, record)
        arguments = (digest.hex(), _instant(executed_at), token, *answer)
        return _decide(self._run(scripts.SETTLE, digest, *arguments, late=True)) == "settled"

    def of_scope(self, using: str | None, scope: str) -> Iterator[StoredRecord]:
        # Nothing lists the records of a scope, so all are looked at.
        names = self.redis.scan("idempotency:{")
        seen: set[bytes] = set()
        while some := list(islice(names, SCANNED)):
            pipeline = self.redis.client.pipeline(transaction=False)
            for name in some:
                pipeline.hmget(name, "scope", "operation", "key")
            for name, found in zip(some, pipeline.execute(raise_on_error=False), strict=True):
                digest = self._digest_at(name, scope, found)
                if digest is not None and digest not in seen:
                    seen.add(digest)
                    yield self.find(None, digest) or claim_in_flight(Location(store=self), digest, scope)

    def _digest_at(self, name: bytes, scope: str, found: Any) -> bytes | None:
        """The identity whose record is at the key *name*, if the fields that were *found* there are of *scope*."""
        if not isinstance(found, list) or found[0] != scope.encode() or None in found:
            return None
        operation, key = (part.decode(errors="replace") for part in found[1:])
        digest = Identity(scope, operation, key).digest
        # Another store may have its records in the same server.
        return digest if self._keys(digest.hex())[0].encode() == name else None

    def check(self, databases: Collection[str] = ()) -> list[CheckMessage]:
        from django_idempotency.stores.redis import checks as redis_checks  # requests do not need it

        return redis_checks.check_settings(self.redis)

    def check_servers(self) -> list[CheckMessage]:
        from django_idempotency.stores.redis import checks as redis_checks

        return redis_checks.check_server(self.redis)


def _milliseconds(seconds: float) -> int:
    return max(round(seconds * 1000), 1)


def _late(attempt: Attempt) -> int:
    """The milliseconds for which a late retry is refused, or 0."""
    return _milliseconds(attempt.tombstone_ttl) if attempt.tombstone_ttl else 0


def _uncertain(attempt: Attempt) -> int | str:
    """The milliseconds after which an unknown outcome expires, or an empty string for never."""
    return "" if attempt.uncertain_ttl is None else _milliseconds(attempt.uncertain_ttl)


def _instant(moment: datetime | None) -> str:
    return "" if moment is None else str(round(moment.timestamp() * 1000))


def _read_record(attempt: Attempt, status: bytes, head: bytes, body: bytes, request_id: bytes) -> CompletionRecord:
    """Make the record of its stored fields. Raises as `open_answer` and `from_stored` do."""
    identity = attempt.identity
    answer = open_answer(identity.scope, identity.digest, int(status), head, body)
    return CompletionRecord.from_stored(int(status), *answer, request_id.decode())


def _decide(answer: bytes) -> str:
    """Return the word that a script answered. Raises `RequestInProgress` for a claim in flight or another execution."""
    word = answer.decode()
    if word in ("in flight", "other"):
        raise RequestInProgress
    return word


def _read_stored(location: Location, digest: bytes, answer: list[Any]) -> StoredRecord:
    """Make a `StoredRecord` of the answer of `SHOW`. A foreign value has neither fields nor times of its own."""
    now = _moment(answer[1])
    foreign = StoredRecord(digest=digest, executed_at=UNKNOWN, expires_at=None, now=now, location=location)
    if answer[0] == b"tombstone":
        buried = answer[3]
        try:
            executed_at = _moment(int(buried[32:]))
        except (OverflowError, ValueError):
            return foreign  # its value was changed
        expires_at = _moment(answer[1] + max(answer[2], 0))
        return replace(
            foreign, fingerprint=buried[:32], executed_at=executed_at, expires_at=expires_at, status=TOMBSTONE
        )
    if answer[0] != b"found":
        return foreign
    fields = dict(_pairs(answer[3]))
    if answer[2] >= 0:  # else it has no lifetime
        foreign = replace(foreign, expires_at=_moment(answer[1] + answer[2]))
    try:
        foreign = replace(foreign, executed_at=_moment(int(fields.get("executed_at", 0))))
        status = int(fields.get("status", 0))
    except (OverflowError, ValueError):
        return foreign  # its fields were changed
    names = ("scope", "operation", "key", "request", "request_id")
    rest: dict[str, Any] = {name: fields.get(name, b"").decode(errors="replace") for name in names}
    if fields["state"] == b"completed":
        rest |= {"status": status, **open_fields(rest["scope"], digest, status, fields["head"], fields["body"])}
    return replace(foreign, fingerprint=fields["fingerprint"], **rest)


def _pairs(fields: Any) -> Iterable[tuple[str, bytes]]:
    pairs = fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)
    return ((name.decode(errors="replace"), value) for name, value in pairs)


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
