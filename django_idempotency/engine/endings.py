"""A queue of claims that could not be ended with their handlers, because their store did not answer."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from django_idempotency.core.keys import Attempt
from django_idempotency.stores.base import LeasedStore

logger = logging.getLogger("django_idempotency")

RETRY = 1.0  # seconds from a failed call to the next try
PATIENCE = 600.0  # seconds for which an ending is tried; later a retry finds an unknown outcome
MAX_WAITING = 10_000


@dataclass(slots=True, eq=False)
class Ending:
    """A call to *store* that ends the claim of *attempt*."""

    store: LeasedStore
    attempt: Attempt
    send: Callable[[], None]
    gives_up: float = field(default_factory=lambda: time.monotonic() + PATIENCE)

    def attempt_call(self) -> bool:
        """Call the store once. Returns True if it answered, or if this ending has waited too long."""
        try:
            self.send()
        except Exception as error:  # any call that failed is tried again
            if time.monotonic() < self.gives_up:
                return False
            logger.error("The claim of %s could not be ended: %s", self.attempt.identity, error)
        return True


class Endings:
    """The endings that wait, in the order of their next tries. The caller holds a lock during each method."""

    def __init__(self) -> None:
        self.waiting: dict[Ending, None] = {}
        self.next_try = float("inf")  # monotonic

    def add(self, ending: Ending) -> None:
        self.waiting[ending] = None
        if len(self.waiting) > MAX_WAITING:
            oldest = next(iter(self.waiting))
            del self.waiting[oldest]
            logger.error("The claim of %s could not be ended: too many claims wait", oldest.attempt.identity)
        self.schedule()

    def schedule(self) -> None:
        """Schedule the next try, if any ending waits, after `RETRY` seconds at the latest."""
        if self.waiting:
            self.next_try = min(self.next_try, time.monotonic() + RETRY)

    def take_due(self) -> list[Ending]:
        """Return every waiting ending, if the next try is due."""
        if self.next_try > time.monotonic():
            return []
        self.next_try = float("inf")
        return list(self.waiting)

    def note_result(self, ending: Ending, *, is_over: bool) -> None:
        """Remove *ending* if it *is_over*, else move it to the end, because one node of a cluster may be away."""
        if ending in self.waiting:  # `add` may have removed it
            del self.waiting[ending]
            if not is_over:
                self.waiting[ending] = None
