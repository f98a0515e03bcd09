"""MySQL: no INSERT can be told to wait for no lock, so one that might have to wait is not made."""

from typing import Any, ClassVar

from django.db import DatabaseError, IntegrityError
from django.db.backends.utils import CursorWrapper

from django_idempotency.core.keys import Attempt
from django_idempotency.stores.database.dialect import TABLE, values
from django_idempotency.stores.database.folded_innodb import FoldedInnoDB
from django_idempotency.stores.database.innodb import COLUMNS, DUPLICATE, errno

SLOTS = "django_idempotency_slot"
NO_TABLE = 1146
SAVEPOINTS = frozenset(f"idempotency_{depth}" for depth in range(8))  # that the procedures know


class MySQL(FoldedInnoDB):
    """
    A look-up, then one statement that looks for a rival and inserts.

    A rival's uncommitted row is found by a locking read with NOWAIT. If there is no row, at REPEATABLE READ and
    SERIALIZABLE that read locks the gap in which the row is missing, against the claims of all other keys. So it is
    made only if there may be a rival: a claim locks three of the 65,536 rows of a table of slots, by six bytes of its
    digest, and if one of the three was free, nobody else is inserting this digest. Slots that others hold for other
    keys cost a look, and refuse nobody: only the record's own row decides. A transaction's end frees them.

    Where a plain SELECT is no snapshot, it is not trusted: READ UNCOMMITTED shows what a rival may still roll back, so
    the look-up waits for no lock there, but asks for one; at SERIALIZABLE it would lock the gap, and the INSERT comes
    first.
    """

    # What the look-up returns before the record: has it not expired?
    LIVE: ClassVar[str] = "expires_at > UTC_TIMESTAMP(6)"

    def __init__(self, *, by_procedure: bool = False, folds: bool = False, has_slots: bool = True) -> None:
        super().__init__(by_procedure=by_procedure, folds=folds)
        look = f"SELECT {self.LIVE}, {self.RECORD} FROM {TABLE} WHERE digest = %s"  # noqa: S608
        self.LOOK = (
            f"{look} AND @@transaction_isolation IN ('READ-COMMITTED', 'REPEATABLE-READ')"
            f" UNION ALL ({look} AND @@transaction_isolation = 'READ-UNCOMMITTED' FOR SHARE NOWAIT)"
        )
        self.SHARE = f"{look} FOR SHARE NOWAIT"
        self.TAKE = f"{look} FOR UPDATE NOWAIT"
        self.INSERT = insert(f"IF(({FREE_SLOTS}) > 0, NULL, %s)", self.NOW, self.LATER)
        self.INSERT_WITHOUT_SLOTS = insert("%s", self.NOW, self.LATER)
        self.RENEW = (
            f"UPDATE {TABLE} SET fingerprint = %s, scope = %s, operation = %s, `key` = %s,"  # noqa: S608
            f" request = %s, request_id = %s, status = 0, head = '', body = '',"
            f" executed_at = {self.NOW}, expires_at = {self.LATER} WHERE digest = %s"
        )
        self.has_slots = has_slots

    def savepoint_name(self, cursor: CursorWrapper, digest: bytes) -> str:
        # By the depth of Django's blocks, as a claim inside another's handler is in a deeper one: the procedures know
        # few names.
        return f"idempotency_{len(cursor.db.savepoint_ids)}"

    def claim_by_statements(self, cursor: CursorWrapper, attempt: Attempt, savepoint: str) -> Any:
        written = (*values(attempt), self.ttl(attempt))
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
        """Insert the claim's row. False if there is one already. An uncommitted one is an error: 3572."""
        digest = written[0]
        try:
            if self.has_slots:
                try:
                    cursor.execute(self.INSERT, (*written, digest[:2], digest[2:4], digest[4:6], digest))
                    return bool(cursor.rowcount == 1)
                except DatabaseError as error:
                    if errno(error) != NO_TABLE or SLOTS not in str(error):
                        raise
                    self.has_slots = False  # a migration was taken back
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


FREE_SLOTS = f"SELECT COUNT(*) FROM {SLOTS} WHERE slot IN (%s, %s, %s) FOR UPDATE SKIP LOCKED"  # noqa: S608


def insert(rival: str, now: str, later: str) -> str:
    """Inserts the claim's row unless there is a row of the digest *rival*; NULL looks for none."""
    return (
        f"INSERT INTO {TABLE} ({COLUMNS}) SELECT %s, %s, %s, %s, %s, %s, %s, 0, '', '', {now}, {later} FROM DUAL"  # noqa: S608
        f" WHERE NOT EXISTS (SELECT 1 FROM {TABLE} WHERE digest = {rival} FOR SHARE NOWAIT)"
    )


def has_slots(cursor: Any) -> bool:
    """Is the table of slots there? *cursor* is the driver's."""
    cursor.execute(
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s", (SLOTS,)
    )
    return bool(cursor.fetchone()[0] == 1)
