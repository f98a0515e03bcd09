"""MariaDB Galera: a claim goes to all nodes at once, and what was committed on the others is waited for."""

from typing import Any

from django.db.backends.utils import CursorWrapper

from django_idempotency.core.decision import Claimed, ClaimResult
from django_idempotency.core.keys import Attempt
from django_idempotency.stores.database.dialect import ENDS
from django_idempotency.stores.database.innodb import InnoDB
from django_idempotency.stores.database.mariadb import MariaDB, named

# Is the session one of a cluster whose nodes stream? Other servers know some of these names, or none.
STREAMS = (
    "SELECT 'streams' FROM information_schema.session_status s JOIN information_schema.session_variables v"
    " WHERE s.variable_name = 'wsrep_provider_capabilities' AND s.variable_value LIKE '%:STREAMING:%'"
    " AND v.variable_name = 'wsrep_on' AND v.variable_value = 'ON'"
)
# The bits of the wait are SELECT and INSERT. The unit is Galera's default: a server logs an error if it changes while a
# transaction streams, and 'statements' does nothing in a procedure.
SETTINGS = "wsrep_sync_wait = 5, wsrep_trx_fragment_unit = 'bytes', wsrep_trx_fragment_size = 1"
STREAMED = f"SET STATEMENT {SETTINGS} FOR "
# A row that was never there, and the savepoint again.
REPEAT_SAVEPOINT = f"""
                IF NOT COALESCE(live, 0) THEN
                    BEGIN
                        DECLARE nobody BINARY(32) DEFAULT UNHEX(SHA2(UUID(), 256));
                        INSERT INTO {ENDS} (digest, executed_at, ends_at) VALUES (nobody, {InnoDB.NOW}, {InnoDB.NOW});
                        DELETE FROM {ENDS} WHERE digest = nobody;
                        SAVEPOINT %%s;
                    END;
                END IF;
"""


class InBlock(MariaDB):
    """The first claim in an outer transaction's block."""

    def __init__(self) -> None:
        super().__init__()
        self.CLAIM = self.claim_statement(f", {SETTINGS}", REPEAT_SAVEPOINT)

    def claim_by_statements(self, cursor: CursorWrapper, attempt: Attempt, savepoint: str) -> Any:
        block = cursor.db.savepoint_ids[-1]
        return self.execute_claim(cursor, named(named(self.CLAIM, block), savepoint), attempt)


class Galera(MariaDB):
    """
    The nodes do not see each other's locks, so the claim's row is *streamed*: sent to all nodes as a fragment of its
    transaction, and locked there until that ends. What the handler writes goes with COMMIT, as always.

    A fragment is not rolled back on the other nodes by ROLLBACK TO a savepoint that is older than the transaction's
    first write, and COMMIT makes it durable there. Inside an outer transaction the engine has just set such a
    savepoint, perhaps. So the claim writes something, and sets it once more. It cannot do that for the savepoints of
    more blocks around it; there it does not stream, and a rival on another node is noticed at COMMIT.
    """

    CALL_CLAIM = STREAMED + MariaDB.CALL_CLAIM
    CALL_BEGIN = STREAMED + MariaDB.CALL_BEGIN

    def __init__(self, *, by_procedure: bool = False, begins: bool = False) -> None:
        super().__init__(by_procedure=by_procedure, begins=begins)
        self.CLAIM = self.claim_statement(f", {SETTINGS}")
        self.in_block = InBlock()
        self.late = MariaDB(by_procedure=by_procedure)

    def claim(self, cursor: CursorWrapper, attempt: Attempt) -> ClaimResult:
        blocks: list[Any] = cursor.db.savepoint_ids
        if not blocks:
            return super().claim(cursor, attempt)
        raw = cursor.db.connection
        savepoint, streams = getattr(raw, "idempotency_savepoint", (None, False))
        if savepoint == blocks[-1]:  # another claim in this block, which may have written since the first
            return (super() if streams else self.late).claim(cursor, attempt)
        if len(blocks) > 1:
            return self.late.claim(cursor, attempt)
        result = self.in_block.claim(cursor, attempt)
        raw.idempotency_savepoint = blocks[-1], isinstance(result, Claimed)
        return result
