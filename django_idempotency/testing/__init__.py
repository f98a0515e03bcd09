"""
Proves that a project's own views take effect once. Rule: only tests import it.

Read `calls` (one request, with any key), `assertions` and `steps` (`assert_idempotent`), `repeats`, `replaying`; then
the rooms `compare` (the content of databases), `observe` (what one request does), `processes` (races and kills) and
`store_contract` (the tests of a store).
"""

from django_idempotency.testing.assertions import assert_idempotent
from django_idempotency.testing.calls import Call, Reply, new_key, send, send_until_final
from django_idempotency.testing.clock import expire, forget, records
from django_idempotency.testing.compare.equivalence import Difference, differences, equivalent
from django_idempotency.testing.compare.snapshots import Changes, Snapshot, TableTooLarge, snapshot
from django_idempotency.testing.findings import NotProved
from django_idempotency.testing.observe.guards import guard
from django_idempotency.testing.processes.crashes import crash_points
from django_idempotency.testing.processes.forks import CannotFork
from django_idempotency.testing.processes.races import RaceReport, race
from django_idempotency.testing.processes.verdicts import CrashReport
from django_idempotency.testing.repeats import assert_repeatable
from django_idempotency.testing.replaying import replayed
from django_idempotency.testing.steps import Proof

__all__ = [
    "Call",
    "CannotFork",
    "Changes",
    "CrashReport",
    "Difference",
    "NotProved",
    "Proof",
    "RaceReport",
    "Reply",
    "Snapshot",
    "TableTooLarge",
    "assert_idempotent",
    "assert_repeatable",
    "crash_points",
    "differences",
    "equivalent",
    "expire",
    "forget",
    "guard",
    "new_key",
    "race",
    "records",
    "replayed",
    "send",
    "send_until_final",
    "snapshot",
]
