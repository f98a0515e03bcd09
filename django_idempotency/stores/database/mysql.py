"""MySQL: an INSERT cannot be told not to wait for locks, so one that might wait is not sent."""

from typing import Any

from django.db import DatabaseError, IntegrityError
from django.db.backends.utils import CursorWrapper

from django_idempotency.core.keys import Attempt
from django_idempotency.stores.database.dialect import TABLE, claim_values, live
from django_idempotency.stores.database.innodb import COLUMNS, DUPLICATE, InnoDB, errno

SLOTS = "django_idempotency_slot"
NO_TABLE = 1146
SAVEPOINTS = frozenset(f"idempotency_{depth}" for depth in range(8))  # the names that the procedures know


class MySQL(InnoDB):
    """
    A look-up, then one statement that looks for a rival and inserts.

    A locking read with NOWAIT finds a rival's uncommitted row. But if there is no row, at REPEATABLE READ and
    SERIALIZABLE it locks the gap of the missing row against the claims of all other keys. So it is sent only if there
    may be a rival: a claim locks three of the 65,536 rows of a table of slots, by six bytes of its digest; if one of
    the three was free, no other transaction is inserting this digest. Slots that other keys hold cost a look and refuse
    no request, because only the record's own row decides. They are free at the end of the transaction.

    A plain SELECT is not used if it is no snapshot. READ UNCOMMITTED shows a row that a rival may still roll back, so
    the look-up asks for its lock, without a wait; at SERIALIZABLE it would lock the gap, so the INSERT comes first.
    """

    def __init__(self, *, by_procedure: bool = False, begins: bool = False, has_slots: bool = True) -> None:
        super().__init__(by_procedure=by_procedure, begins=begins)
        look = f"SELECT {live(self.NOW)}, {self.RECORD} FROM {TABLE} WHERE digest = %s"
        self.LOOK = (
            f"{look} AND @@transaction_isolation IN ('READ-COMMITTED', 'REPEATABLE-READ')"
            f" UNION ALL ({look} AND @@transaction_isolation = 'READ-UNCOMMITTED' FOR SHARE NOWAIT)"
        )
        self.SHARE = f"{look} FOR SHARE NOWAIT"
        self.TAKE = f"{look} FOR UPDATE NOWAIT"
        self.INSERT = insert(f"IF(({FREE_SLOTS}) > 0, NULL, %s)", self.NOW, self.LATER)
        self.INSERT_WITHOUT_SLOTS = insert("%s", self.NOW, self.LATER)
        self.RENEW = (
            f"UPDATE {TABLE} SET fingerprint = %s, scope = %s, operation = %s, `key` = %s,"
            f" request = %s, request_id = %s, status = 0, head = '', body = '',"
            f" executed_at = {self.NOW}, expires_at = {self.LATER}, uncertain_until = {self.LATER} WHERE digest = %s"
        )
        self.has_slots = has_slots

    def savepoint_name(self, cursor: CursorWrapper, attempt: Attempt) -> str:
        # By the depth of Django's blocks, which is larger inside a handler: the procedures know few names.
        name = f"idempotency_{len(cursor.db.savepoint_ids)}"
        # The claims of one request are made at one depth, and none may replace the savepoint of another.
        return f"{name}_{attempt.identity.digest[:8].hex()}" if attempt.is_former else name

    def claim_by_statements(self, cursor: CursorWrapper, attempt: Attempt, savepoint: str) -> Any:
        written = (*claim_values(attempt), *self.lifetimes(attempt))
        digest = attempt.identity.digest
        row = self._row(cursor, self.LOOK, digest, digest)
        claimed = False
        if row is None:
            claimed = self._inserted(cursor, written)
            if not claimed:
                row = self._row(cursor, self.SHARE, digest)
        if row is not None and not row[0]:
            row = self._row(cursor, self.TAKE, digest)
            if row is not None and not row[0]:
                cursor.execute(self.RENEW, (*written[1:], digest))
                claimed = True
        if claimed:
            cursor.execute(f"SAVEPOINT {savepoint}")
            return ("claimed",)
        return row and ("record", *row[1:])

    def _inserted(self, cursor: CursorWrapper, written: tuple[Any, ...]) -> bool:
        """Insert the claim's row. Returns False if there is one; an uncommitted one is an error (3572)."""
        digest = written[0]
        try:
            if self.has_slots:
                try:
                    cursor.execute(self.INSERT, (*written, digest[:2], digest[2:4], digest[4:6], digest))
                    return bool(cursor.rowcount == 1)
                except DatabaseError as error:
                    if errno(error) != NO_TABLE or SLOTS not in str(error):
                        raise
                    self.has_slots = False  # a migration was reversed
            cursor.execute(self.INSERT_WITHOUT_SLOTS, (*written, digest))
            return bool(cursor.rowcount == 1)
        except IntegrityError as error:
            if errno(error) != DUPLICATE:
                raise
            return False

    def _row(self, cursor: CursorWrapper, statement: str, *parameters: bytes) -> Any:
        cursor.execute(statement, parameters)
        return self.fetch_row(cursor)

    def complete_by_statements(self, cursor: CursorWrapper, savepoint: str, written: tuple[Any, ...]) -> bool:
        cursor.execute(f"RELEASE SAVEPOINT {savepoint}")
        cursor.execute(self.COMPLETE, written)
        return bool(cursor.rowcount == 1)

    def _called(self, cursor: CursorWrapper, call: str, parameters: tuple[Any, ...]) -> bool:
        return parameters[0] in SAVEPOINTS and super()._called(cursor, call, parameters)


FREE_SLOTS = f"SELECT COUNT(*) FROM {SLOTS} WHERE slot IN (%s, %s, %s) FOR UPDATE SKIP LOCKED"


def insert(rival: str, now: str, later: str) -> str:
    """Insert the claim's row, unless the digest *rival* has one; NULL looks for none."""
    return (
        f"INSERT INTO {TABLE} ({COLUMNS})"
        f" SELECT %s, %s, %s, %s, %s, %s, %s, 0, '', '', {now}, {later}, {later} FROM DUAL"
        f" WHERE NOT EXISTS (SELECT 1 FROM {TABLE} WHERE digest = {rival} FOR SHARE NOWAIT)"
    )


def has_slots(cursor: Any) -> bool:
    """Does the table of slots exist? *cursor* is the driver's."""
    cursor.execute(
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s", (SLOTS,)
    )
    return bool(cursor.fetchone()[0] == 1)
