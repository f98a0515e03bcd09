"""What a check is: an experiment that sends requests, and judges of what was seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from django_idempotency.conformance.wire import Answer

if TYPE_CHECKING:
    from django_idempotency.conformance.session import Session

DRAFT = "draft-ietf-httpapi-idempotency-key-header-07"


class Level(StrEnum):
    """How much a check weighs: the draft's words, and what users expect beyond it."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    EXPECTED = "EXPECTED"


class Result(StrEnum):
    """What came of a check."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    NOT_APPLICABLE = "not applicable"


class NotApplicable(Exception):
    """The experiment cannot be made here; the message says why."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A result, and what was seen."""

    result: Result
    saw: str


@dataclass(frozen=True, slots=True)
class Seen:
    """The answers of an experiment by name, in their order, and how many effects they had (None if not counted)."""

    answers: Mapping[str, Answer]
    effects: int | None = None

    def __getitem__(self, name: str) -> Answer:
        return self.answers[name]

    @property
    def executions(self) -> int:
        """How often the request ran: counted, or else as many as there are different answers of success."""
        if self.effects is not None:
            return self.effects
        return len({(each.status, each.body) for each in self.answers.values() if each.succeeded})

    @property
    def ran(self) -> str:
        """How often it ran, for people."""
        if self.effects is None:
            return f"{self.executions} different answers of success"
        return "1 effect" if self.effects == 1 else f"{self.effects} effects"


def passed(saw: str) -> Verdict:
    return Verdict(Result.PASS, saw)


def failed(saw: str) -> Verdict:
    return Verdict(Result.FAIL, saw)


def not_applicable(saw: str) -> Verdict:
    return Verdict(Result.NOT_APPLICABLE, saw)


def verdict(holds: bool, saw: str) -> Verdict:
    return passed(saw) if holds else failed(saw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One requirement, in one *sentence*; *section* is the draft's, or empty for what it does not ask."""

    id: str
    level: Level
    section: str
    sentence: str
    judge: Callable[[Seen], Verdict]


@dataclass(slots=True, kw_only=True)
class Experiment:
    """What is sent, once, for its checks: at most so many *requests*, as *sends* tells in a sentence."""

    sends: str
    requests: Callable[[Session], int]
    make: Callable[[Session], Seen]
    checks: list[Check] = field(default_factory=list)

    def check(
        self, id: str, level: Level, sentence: str, *, section: str = ""
    ) -> Callable[[Callable[[Seen], Verdict]], Callable[[Seen], Verdict]]:
        """Add a check, whose function judges what was seen."""

        def add(judge: Callable[[Seen], Verdict]) -> Callable[[Seen], Verdict]:
            self.checks.append(Check(id=id, level=level, section=section, sentence=sentence, judge=judge))
            return judge

        return add


def experiment(
    sends: str, *, requests: int | Callable[[Session], int]
) -> Callable[[Callable[[Session], Seen]], Experiment]:
    """Make an experiment of a function; *requests* include the counts of effects."""

    def made(make: Callable[[Session], Seen]) -> Experiment:
        number = requests if callable(requests) else lambda session: requests
        return Experiment(sends=sends, requests=number, make=make)

    return made
