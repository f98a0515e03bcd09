"""
Tells observers how long each step of a run took: the claim, the handler, the record.

Without observers it costs a look at an empty list. An observer that raises is logged, and the request goes on.
"""

import logging
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from django_idempotency.core.keys import Attempt

if TYPE_CHECKING:
    from django_idempotency.engine.execution import Executed, Refused, Replayed

logger = logging.getLogger("django_idempotency")

CLAIM = "claim"  # from the look-up to what was found, with the wait for a rival, unless an async view waits
HANDLER = "handler"
RECORD = "record"  # with COMMIT, if the transaction is the engine's own
BETWEEN = ""


class Run:
    """One run of an *attempt*, as observers see it. Its *outcome* is None until it is over, and if it has raised."""

    __slots__ = ("attempt", "marks", "outcome", "span", "trace")

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.marks: list[tuple[str, int]] = []  # each step that it entered, which ends the one before, and when
        self.outcome: Executed[Any] | Replayed | Refused | None = None
        self.span: Any = None  # of the handler, for the observer that makes spans
        self.trace = ""  # a W3C `traceparent`, which is stored with the record

    def steps(self) -> Iterator[tuple[str, int, int]]:
        """Each step, with its begin and its end in nanoseconds since the epoch."""
        return ((step, began, ended) for (step, began), (_, ended) in pairwise(self.marks) if step)


# Called when a run is over, on its thread.
observers: list[Callable[[Run], None]] = []
# Called when the handler begins, on the thread on which the run claims and records. Each returns what is called with
# the handler's exception, or None, when that ends.
around_handlers: list[Callable[[Run], Callable[[BaseException | None], None]]] = []


def shielded(observe: Callable[[Any], Any], seen: object) -> Any:
    """Call *observe* with what was *seen*. If it raises, that is logged, and the result is None."""
    try:
        return observe(seen)
    except Exception:  # no figure is worth a request
        logger.exception("An observer has raised, and what it should have seen is not shown")
        return None
