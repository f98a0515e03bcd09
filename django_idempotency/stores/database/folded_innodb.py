"""MariaDB and MySQL: the claim's call begins the transaction, the record's call ends it."""

import logging
from typing import Any

from django.db import DatabaseError, Error
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from django_idempotency.core.decision import Claimed, ClaimResult, InFlight
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import CompletionRecord
from django_idempotency.stores.base import Fault, LostRace
from django_idempotency.stores.database.dialect import FoldedClaim, claim_values
from django_idempotency.stores.database.innodb import (
    BEGIN_PROCEDURE,
    COMMIT_PROCEDURE,
    LOCKED,
    InnoDB,
    errno,
    is_there,
)

logger = logging.getLogger("django_idempotency")

SAVEPOINT = "idempotency_0"  # the one that they set and release; the other procedures know it too


class FoldedInnoDB(InnoDB):
    """
    A first execution takes as many round trips as the handler's own transaction, a replay takes one.

    The claim's procedure turns autocommit off, and on again if it did not claim; the record's procedure commits, and
    turns it on. Each reply of the server says whether autocommit is on, and the driver sends nothing if that is what
    Django asks for.

    Nothing is folded in an open transaction, nor if an execute wrapper is installed, because its own statements would
    be committed separately.
    """

    CALL_BEGIN = f"CALL {BEGIN_PROCEDURE}(%s, %s, %s, %s, %s, %s, %s, %s)"
    CALL_COMMIT = f"CALL {COMMIT_PROCEDURE}(%s, %s, %s, %s)"

    def __init__(self, *, by_procedure: bool = False, folds: bool = False) -> None:
        super().__init__(by_procedure=by_procedure)
        self.folds = folds

    def begin(self, connection: BaseDatabaseWrapper, attempt: Attempt) -> ClaimResult | None:
        if not (self.folds and self.by_procedure) or connection.execute_wrappers:
            return None
        try:
            with connection.cursor() as cursor:
                self.folds = is_there(cursor, self.CALL_BEGIN, (*claim_values(attempt), self.ttl(attempt)))
                if not self.folds:
                    return None
                row = self.fetch_row(cursor)
            return self.claim_result(row, FoldedClaim(SAVEPOINT), attempt)
        except DatabaseError as error:
            # The caller continues after these, so it keeps its session, with its locks and temporary tables.
            is_locked = errno(error) in LOCKED
            if (is_locked or self.classify(connection, error) is Fault.RACE) and _gives_back(connection):
                if is_locked:
                    return InFlight()
                raise LostRace from error
            raise

    def complete(self, cursor: CursorWrapper, digest: bytes, claim: Claimed, record: CompletionRecord) -> bool:
        if not isinstance(claim, FoldedClaim) or not self.folds or not _is_outermost(cursor.db):
            return super().complete(cursor, digest, claim, record)
        # COMMIT is reached only if exactly one row was written. It raises what commit() would; the work may be durable.
        self.folds = is_there(cursor, self.CALL_COMMIT, (record.status, record.head(), record.body, digest))
        if not self.folds:
            return super().complete(cursor, digest, claim, record)
        return bool(self.fetch_row(cursor)[0] == 1)


def _is_outermost(connection: Any) -> bool:
    """Is the atomic block around us the one that the claim began?"""
    return connection.in_atomic_block and connection.commit_on_exit and not connection.savepoint_ids


def _gives_back(connection: Any) -> bool:
    """
    End the transaction and turn autocommit on. Returns False if that fails.

    An error's packet does not say whether autocommit is on, but the reply to ROLLBACK does.
    """
    try:
        with connection.wrap_database_errors:
            connection.connection.rollback()
            connection.connection.autocommit(True)
    except Error:
        logger.warning("The connection to database %r is closed after an error of the claim", connection.alias)
        return False
    return True
