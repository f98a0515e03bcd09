"""The store that holds the law: claims and completion records in the database that the handler writes to."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from django.core.checks import CheckMessage
from django.db import Error, connections, router

from django_idempotency.core.decision import Claimed, ClaimResult
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import CommittedEarly, PolicyError, TransactionBroken
from django_idempotency.models import UNSETTLED, IdempotencyRecord
from django_idempotency.stores.base import Fault, Store
from django_idempotency.stores.sql import dialect_for
from django_idempotency.stores.sql.base import Dialect

BROKEN = (
    "The claim is gone: the handler's transaction was rolled back or its connection replaced while the handler went on."
    " A database error was swallowed. Let it propagate, or put the statement that may fail into its own atomic block."
)


class DatabaseStore(Store):
    """
    PostgreSQL, MariaDB, MySQL and SQLite. A first execution costs two statements, a replay one.

    The option `FOLD` (True), for PostgreSQL with psycopg 3: BEGIN travels with the claim and COMMIT with the record, so
    that a first execution adds no round trip. False sends each of them by itself.
    """

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        for name in options:
            if name != "FOLD":
                raise PolicyError(f"The DatabaseStore {alias!r} has no option {name!r}: it takes 'FOLD'.")
        self.fold = options.get("FOLD", True)
        if not isinstance(self.fold, bool):
            raise PolicyError(f"The DatabaseStore {alias!r}: option 'FOLD' must be True or False, not {self.fold!r}.")
        self._dialects: dict[str, Dialect] = {}

    def dialect(self, using: str) -> Dialect:
        """The statements for the server behind *using*, found out once."""
        try:
            return self._dialects[using]
        except KeyError:
            return self._dialects.setdefault(using, dialect_for(connections[using], fold=self.fold))

    def database(self) -> str:
        return router.db_for_write(IdempotencyRecord)

    def look_up(self, using: str, attempt: Attempt) -> ClaimResult | None:
        dialect = self.dialect(using)
        if not dialect.looks_up_first:
            return None
        with connections[using].cursor() as cursor:
            return dialect.look_up(cursor, attempt)

    def claim(self, using: str, attempt: Attempt) -> ClaimResult:
        with connections[using].cursor() as cursor:
            return self.dialect(using).claim(cursor, attempt)

    def complete(self, using: str, attempt: Attempt, claim: Claimed, record: CompletionRecord) -> None:
        dialect = self.dialect(using)
        digest = attempt.identity.digest
        cause: Error | None = None
        with connections[using].cursor() as cursor:
            try:
                if dialect.complete(cursor, digest, claim, record):
                    return
            except Error as error:
                if not dialect.is_aborted(error):
                    raise
                cause = error
            # Whose end was it? A claim that is still there was committed with the handler's work.
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

    def free(self, using: str, digest: bytes, executed_at: datetime | None) -> bool:
        with connections[using].cursor() as cursor:
            return self.dialect(using).free(cursor, digest, executed_at)

    def classify(self, using: str, error: Exception) -> Fault:
        connection = connections[using]
        dialect = self._dialects.get(using) or dialect_for(connection, connect=False)
        return dialect.classify(connection, error)

    def check(self, databases: Collection[str] = ()) -> list[CheckMessage]:
        from django_idempotency.stores.sql import checks  # a server that serves needs none of it

        return [message for using in sorted({self.database(), *databases}) for message in checks.configured(using)]

    def check_database(self, using: str, max_body: int) -> list[CheckMessage]:
        from django_idempotency.stores.sql import checks

        return checks.asked(using, max_body)
