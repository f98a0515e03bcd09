"""What was expected, what happened, and whether they agree."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Report:
    checks: int = 0
    steps: int = 0
    failures: list[str] = field(default_factory=list)

    def step(self, title: str) -> None:
        self.steps += 1
        print(f"\n{self.steps}. {title}", flush=True)

    def check(self, what: str, *, expected: Any, seen: Any) -> None:
        self.checks += 1
        same = expected == seen
        if not same:
            self.failures.append(f"step {self.steps}, {what}")
        verdict = "ok" if same else "NOT SO"
        print(f"   {what:<34} expected {expected!s:<19} seen {seen!s:<19} {verdict}", flush=True)

    def note(self, text: str) -> None:
        print(f"   {text}", flush=True)

    def broke(self, error: Exception) -> None:
        """A step that could not be finished has failed."""
        self.checks += 1
        self.failures.append(f"step {self.steps}, {type(error).__name__}")
        print(f"   {type(error).__name__}: {error}   NOT SO", flush=True)
