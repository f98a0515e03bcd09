"""What the run knows of one contender."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.rivals.contenders import Contender, Services
from benchmarks.rivals.processes import WorkerProcess

CASES = ("bare", "first", "replay")
TURN = 20  # rounds that count, for which one contender is asked before the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Trips:
    """Round trips of one request."""

    database: int
    redis: int

    def __str__(self) -> str:
        return f"{self.database} + {self.redis}" if self.redis else str(self.database)


@dataclass(slots=True, kw_only=True)
class Entry:
    """A contender on its way through the run. Where a step failed, `error` says why, and later ones are left out."""

    name: str
    contender: Contender
    services: Services
    log: Path  # what its workers write to their standard error
    python: Path | None = None  # of its environment
    error: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)  # by trial
    trips: dict[str, Trips] = field(default_factory=dict)  # by case
    times: dict[str, list[float]] = field(default_factory=lambda: {case: [] for case in CASES})  # seconds, by round

    def start(self, services: Services | None = None) -> WorkerProcess:
        """A worker that is ready for requests."""
        worker = WorkerProcess(self.python, self.name, services or self.services, self.log)
        worker.ask("start")
        return worker

    def ratio(self, case: str) -> float:
        """The median of that *case* against the same round's bare view."""
        return statistics.median(ours / bare for ours, bare in zip(self.times[case], self.times["bare"], strict=True))

    @property
    def keeps_callers(self) -> bool:
        """Whether nobody gets an answer that is not theirs: not another user, not who is no user any more."""
        refused = self.outcomes["token revoked, then retried"].startswith(("401", "403"))
        return refused and not self.outcomes["another user, the same key"].startswith("gets the first")

    @property
    def after_crash(self) -> str:
        """What became of a process that was killed between work and answer, in the end."""
        outcome = self.outcomes["killed between work and answer, then retried"]
        if not outcome.endswith(" 1 payment"):
            return "**paid twice**"
        return "paid once" if "201" in outcome else "paid once, never answered"
