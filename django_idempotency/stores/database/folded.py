"""PostgreSQL with psycopg 3: BEGIN is sent with the claim, COMMIT with the record."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from django_idempotency.core.decision import Claimed, ClaimResult, Completed
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import CompletionRecord
from django_idempotency.encryption import sealer
from django_idempotency.stores.base import LostRace
from django_idempotency.stores.database.dialect import FoldedClaim, StoredAnswer
from django_idempotency.stores.database.postgresql import PostgreSQL, sqlstate

IDLE, IN_TRANSACTION = 0, 2  # libpq: PQTRANS_IDLE, PQTRANS_INTRANS
COMMAND_OK = 1  # libpq: PGRES_COMMAND_OK
NO_CLAIM = "22012"  # division_by_zero, which the record with COMMIT raises if there is no claim


class FoldedPostgreSQL(PostgreSQL):
    """
    A first execution takes as many round trips as the handler's own transaction.

    Only an outermost transaction is folded, in which nothing was sent before. The driver is in autocommit during the
    claim, so that it sends no BEGIN of its own, and is told at once that it is not, so the handler sees a normal
    connection. Django's own COMMIT sends nothing, because the transaction has already ended.

    Usually the claim comes before the atomic block, which only a claimed identity needs. If the project has wrappers of
    statements, it comes inside, where what they send belongs to the transaction.
    """

    begins = True

    def __init__(self, *, by_function: bool = False) -> None:
        super().__init__(by_function=by_function)
        from psycopg.generators import execute  # not at the top: who has psycopg2 imports this module, too

        self._receive = execute

    def begin(self, connection: Any, attempt: Attempt) -> ClaimResult | None:
        cursor = connection.cursor()
        raw = connection.connection
        if getattr(raw, "_autocommit", None) is not True or not _is_idle(raw):
            return None  # somebody has begun a transaction past Django
        statements = self.statements
        try:
            self.send_claim(cursor, statements, f"{_begin(raw)}; {statements.claim}", attempt)
            with connection.wrap_database_errors:
                cursor.cursor.nextset()
                row = cursor.cursor.fetchone()
            if row[0] is None:  # a record was found
                return self._read_and_commit(connection, cursor, row, attempt)
            found = self.claim_result(cursor, row, attempt)
            if isinstance(found, Claimed):
                _pass_to_atomic(connection, raw)
                return FoldedClaim(found.token, kept=cursor)
            connection._commit()
        except BaseException as error:
            _end_transaction(connection, error)
            raise
        return found

    def _read_and_commit(self, connection: Any, cursor: CursorWrapper, row: Any, attempt: Attempt) -> ClaimResult:
        """Read the record in *row* while the server ends the transaction, which has written nothing."""
        # Django shows its COMMIT, and the keys of encrypted records may be asked of this database.
        if connection.queries_logged or sealer() is not None:
            connection._commit()
            return self.claim_result(cursor, row, attempt)
        raw = connection.connection
        status, fingerprint, head, body, request_id = row[2:]
        record = None
        with connection.wrap_database_errors:
            raw.pgconn.send_query(b"COMMIT")
            with suppress(RecursionError, TypeError, ValueError):
                record = CompletionRecord.from_stored(status, head, body, request_id)
            [result] = raw.wait(self._receive(raw.pgconn))
            if result.status != COMMAND_OK:
                from psycopg.errors import error_from_result

                raise error_from_result(result)
        if record is None:  # an unknown outcome, a tombstone, or a row that was changed
            return self.claim_result(cursor, row, attempt)
        return Completed(record, bytes(fingerprint))

    def claim(self, cursor: CursorWrapper, attempt: Attempt) -> ClaimResult:
        connection: Any = cursor.db
        raw = connection.connection
        if not _is_ours(connection) or not _is_idle(raw):
            return super().claim(cursor, attempt)
        statements = self.statements
        begin = f"{_begin(raw)}; "
        folded = False

        def fold(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
            # This wrapper is the innermost. The project's own may have sent a statement before, which began the
            # transaction, and may have added a comment to ours.
            nonlocal folded
            if not isinstance(sql, str) or statements.claim not in sql:
                return execute(sql, params, many, context)
            if raw.pgconn.transaction_status != IDLE:
                return execute(sql.replace(begin, "", 1), params, many, context)
            folded = True
            raw._autocommit = True  # sends nothing, as the public attribute
            try:
                return execute(sql, params, many, context)
            finally:
                raw._autocommit = False  # which the public attribute refuses in a transaction

        with connection.execute_wrapper(fold):
            self.send_claim(cursor, statements, begin + statements.claim, attempt)
        if folded:
            cursor.nextset()
        result = self.claim_result(cursor, cursor.fetchone(), attempt)
        return FoldedClaim(result.token, kept=cursor) if folded and isinstance(result, Claimed) else result

    def complete(self, cursor: CursorWrapper, digest: bytes, claim: Claimed, answer: StoredAnswer) -> bool:
        raw = cursor.db.connection
        if not isinstance(claim, FoldedClaim) or raw.pgconn.transaction_status != IN_TRANSACTION:
            # The claim is inside another transaction, or the handler has ended ours.
            return super().complete(cursor, digest, claim, answer)
        # COMMIT is reached only if exactly one row was written. It raises what commit() would; the work may be durable.
        self.send_record(cursor, digest, claim, answer, and_commit=True)
        return True

    def status(self, cursor: CursorWrapper, digest: bytes) -> int | None:
        raw = cursor.db.connection
        if not cursor.db.savepoint_ids and raw.pgconn.transaction_status not in (IDLE, IN_TRANSACTION):
            cursor.execute("ROLLBACK")  # an aborted transaction answers nothing, and its work is lost anyway
        return super().status(cursor, digest)

    def is_aborted(self, error: Exception) -> bool:
        return sqlstate(error) == NO_CLAIM or super().is_aborted(error)


def can_fold(connection: BaseDatabaseWrapper) -> bool:
    """Does the driver take several statements in one message? psycopg 3 does, unless the server binds parameters."""
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    options = connection.settings_dict["OPTIONS"]
    if not is_psycopg3 or options.get("server_side_binding"):
        return False
    from psycopg import ClientCursor

    return issubclass(options.get("cursor_factory", ClientCursor), ClientCursor)


def _is_ours(connection: Any) -> bool:
    """Is this the outermost atomic block, which Django will commit?"""
    return (
        connection.in_atomic_block
        and connection.commit_on_exit
        and not connection.savepoint_ids
        and getattr(connection.connection, "_autocommit", None) is False
    )


def _is_idle(raw: Any) -> bool:
    """Was nothing sent yet that would begin a transaction?"""
    return raw.pgconn.transaction_status == IDLE and not raw.pgconn.pipeline_status


def _pass_to_atomic(connection: Any, raw: Any) -> None:
    """Let the atomic block that comes next take over the transaction on *raw*, in which the driver refuses a switch."""

    def set_autocommit(autocommit: bool) -> None:
        del connection._set_autocommit  # this one
        if autocommit or connection.connection is not raw:
            connection._set_autocommit(autocommit)
        else:
            raw._autocommit = False  # sends nothing, as the public attribute

    connection._set_autocommit = set_autocommit


def _end_transaction(connection: Any, error: BaseException) -> None:
    """End what a claim that raised *error* may have begun, or close the connection."""
    if isinstance(error, Error | LostRace):  # no interruption, which may leave a reply unread
        with suppress(Error):
            connection._rollback()
            return
    with suppress(Error):  # Django forgets the connection all the same
        connection.close()


def _begin(raw: Any) -> str:
    """BEGIN as psycopg would send it, with the isolation level that the project's options set on the connection."""
    parts = ["BEGIN"]
    if raw.isolation_level is not None:
        parts.append(f"ISOLATION LEVEL {raw.isolation_level.name.replace('_', ' ')}")
    if raw.read_only is not None:
        parts.append("READ ONLY" if raw.read_only else "READ WRITE")
    if raw.deferrable is not None:
        parts.append("DEFERRABLE" if raw.deferrable else "NOT DEFERRABLE")
    return " ".join(parts)
