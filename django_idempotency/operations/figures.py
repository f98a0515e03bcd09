"""The figures that other systems are shown: their names, what they count, and for which operations."""

from collections.abc import Callable
from typing import TypeVar

from django_idempotency.operations.tally import MAX_OPERATIONS, OF_DECISION, OTHER

Made = TypeVar("Made")

PREFIX = "django_idempotency"
OPERATION = "operation"  # the label
# By the columns of the counts. What observe mode counts is in the admin's statistics only.
FIGURES = {
    "executions": ("executions", "Handlers that ran and whose answer is stored."),
    "replays": ("replays", "Requests that a stored answer was sent to."),
    "conflicts": ("conflicts", "Requests that were refused because one with their key was in flight."),
    "mismatches": ("mismatches", "Requests that were refused because their key was used for another request."),
    "unknown_outcomes": ("unknown_outcomes", "Requests that were refused because the outcome of the first is unknown."),
    "unavailable": ("store_errors", "Requests that were refused because the store did not answer."),
    "other_refusals": ("other_refusals", "Requests that were refused for another reason."),
    "forgotten": ("forgotten", "Handlers that ran and whose answer is not stored."),
    "unsettled": ("unsettled", "Outcomes that became unknown."),
    "ignored": ("ignored", "Requests with a key to a view that is not protected."),
}
TIMES = {
    "claim": "Seconds from the look-up of a key to what was found, with the wait for a request in flight.",
    "record": "Seconds for the answer to be stored, with COMMIT if the transaction is the package's own.",
}
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


def figure_of(decision: str) -> str:
    """The column of `FIGURES` in which *decision* counts."""
    return OF_DECISION.get(decision, "other_refusals")


class ByOperation(dict[str, Made]):
    """
    What *make* makes of each operation's name, once. Past `MAX_OPERATIONS` names, which a callable `operation` may make
    up without end, all others share what it makes of `OTHER`.
    """

    def __init__(self, make: Callable[[str], Made]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, operation: str) -> Made:
        if operation != OTHER and len(self) >= MAX_OPERATIONS:
            return self[OTHER]
        made = self[operation] = self._make(operation)
        return made
