"""
The progress of a run in phases: the names and results of those that are finished, as bytes and back.

A run of phased mode is in one of these states, which its rows in the store tell:

    free ── claim ──> running(owner, lease, phases) ── the handler answers ──> finished, an ordinary record
     ^                   │   ^                │
     │  nothing was done │   │ next phase     │ the lease ends: the process died, or the handler raised
     └───────────────────┘   └────────────────┤
                                              v
                         interrupted(phases, last error) ── claim of a retry ──> running, by another owner
                                              │
                                              v  after `max_attempts`
                                         unsettled, until an operator decides: to resume (it is interrupted again,
                                         and its attempts count anew), to store an answer, or to free the key

An operator may also give an interrupted run up, which is then unsettled.

Each arrow is one transaction. Whoever changes a row names its owner's token, so an owner that has lost the run to
another changes nothing any more. An operator's decision draws a new token, too.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

from django_idempotency.core.fingerprint import exact_json

PHASED = "phased"  # the mode


@dataclass(frozen=True, slots=True)
class Progress:
    """The finished phases of a run, in their order, each with its name and its result, which is JSON."""

    phases: tuple[tuple[str, Any], ...] = ()

    @property
    def last(self) -> str:
        """The name of the phase that was finished last; "" if none is."""
        return self.phases[-1][0] if self.phases else ""

    def with_phase(self, name: str, result: Any) -> "Progress":
        return replace(self, phases=(*self.phases, (name, result)))

    def encode(self) -> bytes:
        """Raises `ValueError`, which says why, if the last result is not JSON."""
        return exact_json([[name, result] for name, result in self.phases])

    @classmethod
    def decode(cls, stored: bytes) -> "Progress":
        """Raises `ValueError` or `TypeError` if *stored* was changed since."""
        phases = json.loads(stored)
        if not isinstance(phases, list):
            raise ValueError("it is no list of phases")
        return cls(tuple((str(name), result) for name, result in phases))
