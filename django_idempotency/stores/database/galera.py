"""MariaDB Galera: a claim goes to all nodes at once, and what was committed on the others is waited for."""

from django.db.backends.utils import CursorWrapper

from django_idempotency.core.decision import ClaimResult
from django_idempotency.core.keys import Attempt
from django_idempotency.stores.database.mariadb import MariaDB

# Is the session one of a cluster whose nodes stream? Other servers know some of these names, or none.
STREAMS = (
    "SELECT 'streams' FROM information_schema.session_status s JOIN information_schema.session_variables v"
    " WHERE s.variable_name = 'wsrep_provider_capabilities' AND s.variable_value LIKE '%:STREAMING:%'"
    " AND v.variable_name = 'wsrep_on' AND v.variable_value = 'ON'"
)
WAIT = "wsrep_sync_wait = 5"  # for what is committed elsewhere, by a SELECT or an INSERT that begins the transaction
# The unit is Galera's default, and a server logs an error if it changes meanwhile. In a procedure 'statements' is none.
STREAM = f"{WAIT}, wsrep_trx_fragment_unit = 'bytes', wsrep_trx_fragment_size = 1"


class Galera(MariaDB):
    """
    The nodes do not see each other's locks, so the claim's row is *streamed*: sent to all nodes as a fragment of its
    transaction, and locked there until that ends. What the handler writes goes with COMMIT, as always.

    A claim inside an outer transaction is not streamed, because ROLLBACK TO a savepoint could undo it on this node
    alone: the others keep the fragment until COMMIT, and even commit it if the transaction had not written before the
    savepoint. The next claim of the key would be a conflict that costs a node its place in the cluster. So a rival on
    another node is noticed at COMMIT there, which certification lets only one of the two pass.
    """

    def __init__(self, *, by_procedure: bool = False, begins: bool = False) -> None:
        super().__init__(by_procedure=by_procedure, begins=begins, settings=STREAM)
        self.late = MariaDB(by_procedure=by_procedure, settings=WAIT)

    def claim(self, cursor: CursorWrapper, attempt: Attempt) -> ClaimResult:
        return self.late.claim(cursor, attempt) if cursor.db.savepoint_ids else super().claim(cursor, attempt)
