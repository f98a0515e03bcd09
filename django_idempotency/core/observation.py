"""Observe mode's decisions: which keys are observed, and what atomic mode would have done with two runs of one key."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

OBSERVE = "observe"  # the mode
TOLERANCE = 0.01  # seconds by which two runs overlap before one counts as in flight: the clocks are not finer

Verdict = Literal["would_replay", "would_conflict", "would_mismatch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run of a handler, with times in seconds by the database's clock."""

    fingerprint: bytes
    status: int  # HTTP's; 0 if the handler raised
    began: float
    ended: float


def is_sampled(key: str, share: float) -> bool:
    """Is *key* among the *share* (0 to 1) of keys that are observed? The same for all tries of a key, everywhere."""
    return share >= 1 or int.from_bytes(sha256(b"sample" + key.encode()).digest()[:8]) < share * 2**64


def judge(first: Run, other: Run, patience: float) -> Verdict:
    """
    Say what atomic mode would have done with one of two runs of an identity: with the one that began later.

    It waits *patience* seconds for a request in flight (option `in_flight`), whose fingerprint it does not see.
    """
    earlier, later = sorted((first, other), key=lambda run: run.began)
    if later.began + max(patience, TOLERANCE) < earlier.ended:
        return "would_conflict"
    return "would_replay" if first.fingerprint == other.fingerprint else "would_mismatch"
