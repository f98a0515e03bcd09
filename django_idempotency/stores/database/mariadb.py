"""MariaDB: a statement can be told not to wait for locks, so one compound statement claims."""

from typing import Any

from django.db.backends.utils import CursorWrapper

from django_idempotency.core.keys import Attempt
from django_idempotency.stores.database.dialect import TABLE, claim_values, live
from django_idempotency.stores.database.innodb import COLUMNS, InnoDB

ON_GALERA = (
    "SELECT 'wsrep_on' FROM information_schema.session_variables"
    " WHERE variable_name = 'wsrep_on' AND variable_value = 'ON'"
)
WAIT = "wsrep_sync_wait = 5"  # before a SELECT (1) or an INSERT (4) that is the first statement of its transaction


class MariaDB(InnoDB):
    """
    One compound statement, of which no part waits for a rival's lock; it fails at once instead (1205).

    If a plain SELECT is no snapshot, the INSERT comes first. At SERIALIZABLE the SELECT would lock the gap of the
    missing row against all claims, and at READ UNCOMMITTED it would see a row that a rival may still roll back.

    No INSERT may wait, because InnoDB kills all but one of those that wait when the rival rolls back (1213). ON
    DUPLICATE KEY UPDATE does not serve, because Django's connections report 1 row if it changed nothing.

    The server parses that statement for each claim, but the procedures of the migrations only once per connection.

    The nodes of a Galera cluster do not see each other's locks. Certification lets one of two claims through COMMIT. A
    claim waits until its node has what was committed before on the others. Streaming the claim's row would show it to
    them, but is not safe: when a handler rolls back to a savepoint in a transaction that streams, the other nodes get
    those rows too, and if one is in conflict, the node that has answered leaves the cluster with what it had committed.
    """

    def __init__(self, *, by_procedure: bool = False, begins: bool = False, on_galera: bool = False) -> None:
        super().__init__(by_procedure=by_procedure, begins=begins)
        at_once = "SET STATEMENT innodb_lock_wait_timeout = 0"
        if on_galera:
            at_once += f", {WAIT}"
            self.CALL_CLAIM = f"SET STATEMENT {WAIT} FOR {self.CALL_CLAIM}"
            self.CALL_BEGIN = f"SET STATEMENT {WAIT} FOR {self.CALL_BEGIN}"
        at_once += " FOR"
        columns = ", ".join(f"'{state}'" for state in ("",) * 5)
        look = f"SELECT MAX({live(self.NOW)}) INTO live FROM {TABLE} WHERE digest = d"
        self.CLAIM = f"""
            BEGIN NOT ATOMIC
                DECLARE d BINARY(32) DEFAULT %s;
                DECLARE live, changed INT DEFAULT NULL;
                DECLARE snapshot INT DEFAULT @@tx_isolation IN ('READ-COMMITTED', 'REPEATABLE-READ');
                DECLARE EXIT HANDLER FOR 1205 SELECT 'in flight', {columns};
                IF snapshot THEN
                    {at_once} {look};
                END IF;
                IF live IS NULL THEN
                    {at_once} INSERT IGNORE INTO {TABLE} ({COLUMNS})
                        VALUES (d, %s, %s, %s, %s, %s, %s, 0, '', '', {self.NOW}, {self.LATER}, {self.LATER});
                    SET changed = ROW_COUNT();
                    IF changed = 0 AND NOT snapshot THEN
                        {at_once} {look};
                    END IF;
                END IF;
                IF live = 0 THEN
                    {at_once} UPDATE {TABLE}
                        SET fingerprint = %s, scope = %s, operation = %s, `key` = %s, request = %s, request_id = %s,
                            status = 0, head = '', body = '', executed_at = {self.NOW}, expires_at = {self.LATER},
                            uncertain_until = {self.LATER}
                        WHERE digest = d AND NOT {live(self.NOW)};
                    SET changed = ROW_COUNT();
                END IF;
                IF changed = 1 THEN
                    SAVEPOINT %%s;
                    SELECT 'claimed', {columns};
                ELSEIF live = 1 THEN
                    {at_once} SELECT 'record', {self.RECORD} FROM {TABLE} WHERE digest = d;
                ELSE
                    {at_once} SELECT 'record', {self.RECORD} FROM {TABLE}
                        WHERE digest = d AND {live(self.NOW)} LOCK IN SHARE MODE;
                END IF;
            END
        """
        self.COMPLETE = f"BEGIN NOT ATOMIC RELEASE SAVEPOINT %%s; {self.COMPLETE}; SELECT ROW_COUNT(); END"

    def savepoint_name(self, cursor: CursorWrapper, attempt: Attempt) -> str:
        return f"idempotency_{attempt.identity.digest[:8].hex()}"

    def claim_by_statements(self, cursor: CursorWrapper, attempt: Attempt, savepoint: str) -> Any:
        written = (*claim_values(attempt)[1:], *self.lifetimes(attempt))
        cursor.execute(_named(self.CLAIM, savepoint), (attempt.identity.digest, *written, *written))
        return self.fetch_row(cursor)

    def complete_by_statements(self, cursor: CursorWrapper, savepoint: str, written: tuple[Any, ...]) -> bool:
        cursor.execute(_named(self.COMPLETE, savepoint), written)
        return bool(self.fetch_row(cursor)[0] == 1)


def _named(statement: str, savepoint: str) -> str:
    """Put the name of the claim's savepoint into *statement*; a parameter cannot be a name."""
    return statement.replace("%%s", savepoint, 1)
