"""
Three mistakes that an idempotency package can make, planted into the store of a test's process.

The checks that the package passes have to catch each of them.
"""

from collections.abc import Callable

from django.db import connections, transaction

from django_idempotency.core.decision import Claimed, ClaimResult
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import CompletionRecord
from django_idempotency.models import IdempotencyRecord
from django_idempotency.stores.database import DatabaseStore


def insert(using: str, attempt: Attempt, record: CompletionRecord) -> None:
    """A record in one piece, which does nothing where one is there."""
    from datetime import timedelta

    from django.utils import timezone

    now = timezone.now()
    identity = attempt.identity
    row = IdempotencyRecord(
        digest=identity.digest, scope=identity.scope, operation=identity.operation, key=identity.key,
        fingerprint=attempt.fingerprint, status=record.status, head=record.head(), body=record.body,
        executed_at=now, expires_at=now + timedelta(hours=24),
    )  # fmt: skip
    IdempotencyRecord.objects.using(using).bulk_create([row], ignore_conflicts=True)


class NoClaim(DatabaseStore):
    """Looks before it leaps, but claims nothing: whoever comes before the record is there executes as well."""

    def look_up(self, using: str, attempt: Attempt) -> ClaimResult | None:
        with connections[using].cursor() as cursor:
            return self.dialect(using).look_up(cursor, attempt)

    def claim(self, using: str, attempt: Attempt) -> ClaimResult:
        return Claimed()

    def complete(self, using: str, attempt: Attempt, claim: Claimed, record: CompletionRecord) -> None:
        insert(using, attempt, record)


class RecordOutside(DatabaseStore):
    """Claims well, but writes the record when the work is committed: a crash between the two forgets what was done."""

    def claim(self, using: str, attempt: Attempt) -> ClaimResult:
        found = super().claim(using, attempt)
        if isinstance(found, Claimed):
            IdempotencyRecord.objects.using(using).filter(digest=attempt.identity.digest).delete()
        return found

    def complete(self, using: str, attempt: Attempt, claim: Claimed, record: CompletionRecord) -> None:
        transaction.on_commit(lambda: insert(using, attempt, record), using=using)


class EarlyCommit(DatabaseStore):
    """Commits the claim before the handler runs, so that rivals see it: a crash of the handler leaves it behind."""

    def claim(self, using: str, attempt: Attempt) -> ClaimResult:
        found = super().claim(using, attempt)
        connection = connections[using]
        if isinstance(found, Claimed):
            connection.connection.commit()
            if connection.vendor == "sqlite":
                connection.connection.execute("BEGIN IMMEDIATE")
        return found

    def complete(self, using: str, attempt: Attempt, claim: Claimed, record: CompletionRecord) -> None:
        IdempotencyRecord.objects.using(using).filter(digest=attempt.identity.digest).update(
            status=record.status, head=record.head(), body=record.body
        )


BUGS: dict[str, Callable[..., DatabaseStore]] = {
    "no claim": NoClaim,
    "record outside the transaction": RecordOutside,
    "early commit": EarlyCommit,
}


def plant(name: str) -> None:
    """Give this process's store the bug *name*."""
    from django_idempotency.stores import stores

    stores._made["default"] = BUGS[name]("default", {})
