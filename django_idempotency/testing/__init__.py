"""
What a project needs to prove that its own views take effect once.

The names are loaded when they are asked for: pytest loads this package in every run, before Django is set up.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_OWNERS = {
    name: module
    for module, names in {
        "assertions": ("assert_idempotent",),
        "calls": ("Call", "Reply", "new_key", "send", "send_until_final"),
        "clock": ("expire", "forget", "records"),
        "processes.crashes": ("crash_points",),
        "compare.equivalence": ("Difference", "differences", "equivalent"),
        "findings": ("NotProved",),
        "observe.guards": ("guard",),
        "processes.forks": ("CannotFork",),
        "processes.races": ("RaceReport", "race"),
        "repeats": ("assert_repeatable",),
        "replaying": ("replayed",),
        "compare.snapshots": ("Changes", "Snapshot", "TableTooLarge", "snapshot"),
        "steps": ("Proof",),
        "processes.verdicts": ("CrashReport",),
    }.items()
    for name in names
}


def __getattr__(name: str) -> Any:
    if name not in _OWNERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_OWNERS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
