"""What became of a call that was killed at each of its points: a table to read, and findings, what broke and why."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from django_idempotency.testing.calls import Reply
from django_idempotency.testing.findings import Finding
from django_idempotency.testing.observe.guards import ForeignEffect

MOST_NAMES = 4  # points that a message names for one problem
COUNTS = {"never": 0, "once": 1, "twice": 2}
COMPARED = re.compile(r"(?P<found>never|once|twice|\d+ times) instead of (?P<expected>never|once|twice|\d+ times)$")

AGAIN = (
    "It was committed, or had left this process, before the answer was stored, so the retry could not know of it. Do it"
    " inside the handler, on the handler's own connection, in the database that holds the record (option `using`)."
)
LOST = (
    "It was to follow COMMIT (an on_commit hook, a thread, code around the view), and whoever is killed in between"
    " never does it: the retry is only a replay. Do it in the handler, or write a row there that tells a worker to."
)
OTHERWISE = "Do all of it inside the handler, in one database; `ignore` names what may differ from run to run."
UNCOVERED = (
    "Write a row in the handler that tells a worker to do it. Or give the other system a key to know the retry by,"
    " request.idempotency.derive_key(...), and name it in `allow`."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashPoint:
    """One kill: where, what the retry got, and what is wrong, in words."""

    number: int
    name: str
    reply: Reply
    problems: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """`once`, `unknown` where the retry was told that the outcome is not known, or `broken`."""
        if self.problems:
            return "broken"
        return "unknown" if self.reply.code == "outcome-unknown" else "once"


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashReport:
    """What was seen at all points; *uncovered*: effects inside the handler's transaction that it does not cover."""

    call: str
    points: tuple[CrashPoint, ...]
    uncovered: tuple[ForeignEffect, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def broken(self) -> tuple[CrashPoint, ...]:
        """The points at which a kill broke the promise."""
        return tuple(point for point in self.points if point.problems)

    def __bool__(self) -> bool:
        """Was the promise kept?"""
        return not self.broken and not self.uncovered

    def __str__(self) -> str:
        """A table with a line for each point."""
        width = max((len(point.name) for point in self.points), default=0)
        lines = [f"{self.call}: killed at {len(self.points)} points, {len(self.broken)} broken"]
        for point in self.points:
            answered = f"{point.reply.status}{' replayed' if point.reply.replayed else ''}"
            lines.append(f"{point.number:4}  {point.name:{width}}  {answered:13} {point.verdict}".rstrip())
        return "\n".join([*lines, *self.notes])

    def findings(self) -> Iterator[Finding]:
        """What is wrong, where, and what to do."""
        for effect in self.uncovered:
            yield Finding(
                f"{effect}: inside the handler's transaction, which does not cover it.",
                ("Killed between it and COMMIT, the work is undone, and the retry does it again.",),
                UNCOVERED,
            )
        problems = self._by_problem()
        for way, what, remedy in (
            (1, "done again by the retry.", AGAIN),
            (-1, "never done, although the retry was answered.", LOST),
            (0, "not as in a run that nothing disturbs.", OTHERWISE),
        ):
            of_this = {problem: names for problem, names in problems.items() if tendency(problem) == way}
            if of_this:
                details = [line for problem, names in of_this.items() for line in (problem, _where(names))]
                killed = sum(any(problem in of_this for problem in point.problems) for point in self.broken)
                yield Finding(
                    f"Killed at {killed} of {len(self.points)} points: {what}", (*details, *self.notes), remedy
                )

    def _by_problem(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for point in self.broken:
            for problem in point.problems:
                found.setdefault(problem, []).append(point.name)
        return found


def _where(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"  killed {', '.join(names[:MOST_NAMES])}{more}"


def times(count: int) -> str:
    """A number of times, as `differences` spells it."""
    return next((name for name, number in COUNTS.items() if number == count), f"{count} times")


def tendency(problem: str) -> int:
    """Does a problem tell of too much (1) or of too little (-1)? 0 where it tells of neither."""
    match = COMPARED.search(problem)
    if match is None:
        return 0
    found, expected = (COUNTS[what] if what in COUNTS else int(what.split()[0]) for what in match.groups())
    return (found > expected) - (found < expected)
