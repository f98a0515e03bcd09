"""The store that holds the law, with claims and completion records in the database that the handler writes to."""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import partial
from typing import Any

from django.core.checks import CheckMessage
from django.db import Error, connections, router, transaction
from django.db.backends.utils import CursorWrapper

from django_idempotency import conf
from django_idempotency.core.decision import Claimed, ClaimResult, Completed, Expired
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import CompletionRecord
from django_idempotency.encryption import seal_answer, sealer
from django_idempotency.exceptions import CommittedEarly, PolicyError, TransactionBroken
from django_idempotency.models import UNSETTLED, IdempotencyRecord, RecordQuerySet
from django_idempotency.stores import stores
from django_idempotency.stores.base import Fault, TransactionalStore
from django_idempotency.stores.database.clock import as_django_writes
from django_idempotency.stores.database.dialect import Dialect
from django_idempotency.stores.database.dialects import dialect_for
from django_idempotency.stores.database.phased import Runs
from django_idempotency.stores.database.rows import read_rows
from django_idempotency.stores.later import later
from django_idempotency.stores.redis.replay_cache import ReplayCache, table_of
from django_idempotency.stores.schemas import schema_of
from django_idempotency.stores.stored import Location, StoredRecord, claim_in_flight

PAGE = 1000  # rows that `of_scope` reads at once
BROKEN = (
    "The claim is gone: the handler's transaction was rolled back, or its connection was replaced, and the handler"
    " continued. A database error was swallowed. Let it propagate, or put the statement that may fail into its own"
    " atomic block."
)


class DatabaseStore(TransactionalStore):
    """
    PostgreSQL, MariaDB, MySQL and SQLite. A first execution costs two statements, a replay one.

    The option `FOLD` (True) is for PostgreSQL with psycopg 3, MariaDB and MySQL: BEGIN is sent with the claim and
    COMMIT with the record, so that a first execution adds no round trip.

    The option `REPLAY_CACHE` (None) names a django-redis alias that answers replays without a statement.
    """

    encrypts = True
    has_table = True
    keeps_tombstones = True

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        self.check_options("FOLD", "REPLAY_CACHE")
        self.fold = options.get("FOLD", True)
        if not isinstance(self.fold, bool):
            raise PolicyError(f"{self}: option 'FOLD' must be True or False, not {self.fold!r}.")
        cache = options.get("REPLAY_CACHE")
        self.replay_cache = None if cache is None else ReplayCache(cache, str(self))
        self._dialects: dict[str, Dialect] = {}
        self.runs = Runs(self)

    def dialect(self, using: str) -> Dialect:
        """The statements for the server of *using*, which is asked once."""
        dialect = self._dialects.get(using)
        if dialect is None:
            dialect = self._dialects.setdefault(using, dialect_for(connections[using], fold=self.fold))
        return dialect

    def database(self) -> str:
        return router.db_for_write(IdempotencyRecord)

    def look_up(self, using: str, attempt: Attempt) -> ClaimResult | None:
        if self.replay_cache is not None:
            cached = self.replay_cache.get(using, attempt.identity)
            if cached is not None:
                return cached
        dialect = self.dialect(using)
        if not dialect.looks_up_first:
            return None
        with connections[using].cursor() as cursor:
            found = dialect.look_up(cursor, attempt)
            return found if found is None else self.unless_ended(using, cursor, attempt, found)

    def begin(self, using: str, attempt: Attempt) -> ClaimResult | None:
        dialect = self.dialect(using)
        if not dialect.begins:
            return None
        connection = connections[using]
        if (
            connection.in_atomic_block
            or not connection.get_autocommit()
            or connection.execute_wrappers  # whose own statements would be committed separately
            or getattr(self.claim, "__func__", None) is not DatabaseStore.claim  # whoever claims in another way
        ):
            return None
        found = dialect.begin(connection, attempt)
        if not attempt.tombstone_ttl or not isinstance(found, Completed):
            return found
        with connection.cursor() as cursor:
            return self.unless_ended(using, cursor, attempt, found)

    def claim(self, using: str, attempt: Attempt) -> ClaimResult:
        dialect = self.dialect(using)
        cursor = connections[using].cursor()
        found: ClaimResult | None = None
        try:
            found = self.unless_ended(using, cursor, attempt, dialect.claim(cursor, attempt))
            return found
        finally:
            if not isinstance(found, Claimed) or found.kept is not cursor:
                cursor.__exit__(None, None, None)  # closes it without an error of its own

    def unless_ended(self, using: str, cursor: CursorWrapper, attempt: Attempt, found: ClaimResult) -> ClaimResult:
        """What is *found* for *attempt*, or `Expired` if that is a record whose answer has ended and is not purged."""
        if not attempt.tombstone_ttl or not isinstance(found, Completed):
            return found
        has_ended = self.dialect(using).has_ended(cursor, attempt.identity.digest)
        return Expired(found.fingerprint) if has_ended else found

    def complete(self, using: str, attempt: Attempt, claim: Claimed, record: CompletionRecord) -> None:
        dialect = self.dialect(using)
        identity = attempt.identity
        digest = identity.digest
        answer = seal_answer(identity.scope, digest, record)
        cause: Error | None = None
        since = time.monotonic()
        with _kept_cursor(claim) or connections[using].cursor() as cursor:
            try:
                if attempt.tombstone_ttl:
                    dialect.end_answer(cursor, attempt)
                if dialect.complete(cursor, digest, claim, answer):
                    if self.replay_cache is not None:
                        put = self.replay_cache.put
                        about = (table_of(using), identity, attempt.fingerprint, record, attempt.ttl, since)
                        transaction.on_commit(partial(later, put, *about), using=using, robust=True)
                    return
            except Error as error:
                if not dialect.is_aborted(error):
                    raise
                cause = error
            # If the claim still exists, it was committed with the handler's work.
            try:
                committed = dialect.status(cursor, digest) == UNSETTLED
            except Error:
                committed = False  # an aborted transaction answers nothing, and has committed nothing
        raise CommittedEarly if committed else TransactionBroken(BROKEN) from cause

    def is_unsettled(self, using: str, attempt: Attempt) -> bool:
        with connections[using].cursor() as cursor:
            return self.dialect(using).status(cursor, attempt.identity.digest) == UNSETTLED

    def executed_at(self, using: str, digest: bytes) -> datetime | None:
        row = IdempotencyRecord.objects.using(using).filter(digest=digest)
        return row.values_list("executed_at", flat=True).first()

    def find(self, using: str | None, digest: bytes) -> StoredRecord | None:
        found = self._read(self._records(using).filter(digest=digest))
        return next((record for record in found if not record.is_in_flight), None)

    def peek(self, using: str | None, digest: bytes) -> StoredRecord | None:
        using = using or self.database()
        found = self._live(using, digest)
        if found is None:
            with connections[using].cursor() as cursor:
                is_in_flight = self.dialect(using).is_in_flight(cursor, digest)
            found = self._live(using, digest)  # it may have been committed between the two
            if found is None and is_in_flight:
                return claim_in_flight(Location(store=self, using=using, schema=schema_of(using)), digest)
        return found

    def _live(self, using: str, digest: bytes) -> StoredRecord | None:
        with self.dialect(using).committed(connections[using]):
            found = self._read(self._records(using).filter(digest=digest))
        return next((record for record in found if record.is_live), None)

    def unsettled(self, using: str | None, limit: int) -> list[StoredRecord]:
        return self._read(self._records(using).unsettled().live().order_by("executed_at", "digest")[:limit])

    def of_scope(self, using: str | None, scope: str) -> Iterator[StoredRecord]:
        # By primary key, because the column has no index, which every claim would pay for.
        records = self._records(using).order_by("digest")
        location = Location(store=self, using=records.db, schema=schema_of(records.db))
        last = b""
        while True:
            page = read_rows(location, records.filter(scope=scope, digest__gt=last)[:PAGE], response=False)
            # MySQL's collation may take another scope for this one.
            yield from (record for record in page if record.scope == scope)
            if len(page) < PAGE:
                return
            last = page[-1].digest

    def _records(self, using: str | None) -> RecordQuerySet:
        return IdempotencyRecord.objects.using(using or self.database())

    def _read(self, records: RecordQuerySet) -> list[StoredRecord]:
        return read_rows(Location(store=self, using=records.db, schema=schema_of(records.db)), records)

    def free(self, using: str | None, digest: bytes, executed_at: datetime | None, *, unsettled: bool = False) -> bool:
        using = using or self.database()
        if self.replay_cache is not None:
            self.replay_cache.remove(using, digest)
        with connections[using].cursor() as cursor:
            dialect = self.dialect(using)
            statement = dialect.FREE_UNSETTLED if unsettled else dialect.FREE
            freed = dialect.change(cursor, statement, digest, as_django_writes(using, executed_at))
            if freed:
                dialect.forget_end(cursor, digest)
            return freed

    def settle(self, using: str | None, digest: bytes, executed_at: datetime | None, record: CompletionRecord) -> bool:
        using = using or self.database()
        row = IdempotencyRecord.objects.using(using).filter(digest=digest)
        scope = row.values_list("scope", flat=True).first() if sealer() is not None else ""
        with connections[using].cursor() as cursor:
            dialect, values = self.dialect(using), seal_answer(scope or "", digest, record)
            return dialect.change(cursor, dialect.SETTLE, digest, as_django_writes(using, executed_at), *values)

    def classify(self, using: str | None, error: Exception) -> Fault:
        connection = connections[using or self.database()]
        dialect = self._dialects.get(connection.alias) or dialect_for(connection, connect=False)
        return dialect.classify(connection, error)

    def check(self, databases: Collection[str] = ()) -> list[CheckMessage]:
        from django_idempotency.stores.database import checks  # requests do not need it

        messages = [
            message for using in sorted({self.database(), *databases}) for message in checks.check_settings(using)
        ]
        if self.replay_cache is not None:
            from django_idempotency.stores.redis import checks as redis_checks

            messages += redis_checks.check_settings(self.replay_cache.redis, is_cache=True)
        return messages

    def check_database(self, using: str, max_body: int) -> list[CheckMessage]:
        from django_idempotency.stores.database import checks

        return checks.check_server(using, max_body)


def _kept_cursor(claim: Claimed) -> AbstractContextManager[CursorWrapper] | None:
    """The cursor that *claim* has kept, unless its connection was replaced since. It goes with the claim, unclosed."""
    cursor: CursorWrapper | None = claim.kept
    if cursor is None or cursor.connection is not cursor.db.connection:
        return None
    return nullcontext(cursor)


def replay_caches() -> list[ReplayCache]:
    """The replay caches of all stores, which may share a table."""
    found = (stores[alias].replay_cache for alias in conf.stores())
    return [cache for cache in found if cache is not None]
