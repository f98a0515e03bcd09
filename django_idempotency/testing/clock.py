"""
Finds the records of a key, and lets them expire. The clock of the database or of another store's server decides on
expiry, and no library can move it: the record is moved instead.
"""

from datetime import UTC, datetime

from django.db import router

from django_idempotency.core.keys import Identity
from django_idempotency.core.record import TOMBSTONE
from django_idempotency.models import UNSETTLED, AnswerEnd, IdempotencyRecord, RecordQuerySet
from django_idempotency.operations import records as maintenance
from django_idempotency.stores import stores
from django_idempotency.stores.database.clock import as_django_writes
from django_idempotency.stores.database.store import replay_caches

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def records(
    key: str | None = None, *, scope: str | None = None, operation: str | None = None, using: str | None = None
) -> RecordQuerySet:
    """
    The records of *key* or of all keys, in the database *using* (by default the one that records are written to);
    *scope* and *operation* pick some of them. Unsettled outcomes are among them: their status is 0.
    """
    found = IdempotencyRecord.objects.using(using or router.db_for_write(IdempotencyRecord))
    wanted = {"key": key, "scope": scope, "operation": operation}
    return found.filter(**{name: value for name, value in wanted.items() if value is not None})


def expire(
    key: str | None = None,
    *,
    scope: str | None = None,
    operation: str | None = None,
    using: str | None = None,
    store: str = "default",
) -> int:
    """
    Let the `records` expire, so that the next request with each key runs, and return their number. With the option
    `tombstone_ttl` their answers end, and the next request is refused as too late. An unknown outcome stays, unless the
    option `uncertain_ttl` lets it expire.

    A *store* outside the database finds no record by its key alone: it needs *key*, *scope* and *operation*
    (`TypeError` without), and frees the record.

    Raises `LookupError` if there is none: a test that expires nothing proves nothing.
    """
    if not stores[store].commits_with_handler:
        count = int(_free(store, key, scope, operation))
        kept = "not listed by this store"
    else:
        found = records(key, scope=scope, operation=operation, using=using)
        _leave_caches(found)
        count = _end(found)
        kept = ", ".join(records(using=using).values_list("key", flat=True)[:5]) or "none"
    if not count:
        wanted = {"key": key, "scope": scope, "operation": operation}
        asked = ", ".join(f"{name} {value!r}" for name, value in wanted.items() if value is not None) or "any key"
        raise LookupError(f"No record of {asked} is stored. Keys of records that are: {kept}.")
    return count


def forget(
    key: str | None = None,
    *,
    scope: str | None = None,
    operation: str | None = None,
    using: str | None = None,
    store: str = "default",
) -> int:
    """
    Delete the `records`, as if their requests had never been sent, and return their number. *store* is that of
    `expire`.
    """
    if not stores[store].commits_with_handler:
        return int(_free(store, key, scope, operation))
    found = records(key, scope=scope, operation=operation, using=using)
    _leave_caches(found)
    return found.delete()[0]


def _end(found: RecordQuerySet) -> int:
    """Let the answers end that end before their records, and the other records expire. Returns how many there are."""
    past = as_django_writes(found.db, LONG_AGO)
    found = found.exclude(status=UNSETTLED, uncertain_until=None)
    digests = list(found.values_list("digest", flat=True))
    ends = AnswerEnd.objects.using(found.db).filter(digest__in=digests)
    executions = set(ends.values_list("digest", "executed_at"))
    kept = [digest for digest, at in found.values_list("digest", "executed_at") if (digest, at) in executions]
    kept += found.filter(status=TOMBSTONE).values_list("digest", flat=True)
    ends.filter(digest__in=kept).update(ends_at=past)
    ending = found.exclude(digest__in=kept)
    ending.filter(status=UNSETTLED).update(uncertain_until=past)
    ending.update(expires_at=past)
    return len(digests)


def _free(store: str, key: str | None, scope: str | None, operation: str | None) -> bool:
    if key is None or scope is None or operation is None:
        raise TypeError(f"The store {store!r} finds a record by its key, scope and operation together: give all three.")
    return maintenance.free(Identity(scope, operation, key).digest, store=store)


def _leave_caches(found: RecordQuerySet) -> None:
    """Remove the records from the replay caches, which would still answer."""
    for cache in replay_caches():
        for digest in found.values_list("digest", flat=True):
            cache.remove(found.db, bytes(digest))
