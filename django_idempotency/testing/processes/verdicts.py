"""The results of killing a call at each of its points: a table, and findings with their remedies."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from django_idempotency.testing.calls import Reply
from django_idempotency.testing.compare.equivalence import Difference
from django_idempotency.testing.findings import Finding
from django_idempotency.testing.observe.guards import ForeignEffect

MOST_NAMES = 4  # points that a message names for one difference

AGAIN = (
    "It was committed, or had left this process, before the answer was stored, so the retry did it again. Do it inside"
    " the handler, on the handler's own connection, in the database that holds the record (option `using`)."
)
LOST = (
    "It was to follow COMMIT (an on_commit hook, a thread, code around the view). A process that is killed in between"
    " never does it, because the retry is a replay. Do it in the handler, or write a row there that tells a worker to"
    " do it."
)
IN_PHASES = (
    " In phases: do it inside a phase, and one foreign effect in each; let its function take `key` and pass it on, or"
    " give it a `probe`, so that the other system recognises a second call."
)
OTHERWISE = "Do all of it inside the handler, in one database. `ignore` names what may differ from run to run."
UNCOVERED = (
    "Write a row in the handler that tells a worker to do it. Or give the other system a key by which it recognizes the"
    " retry, request.idempotency.derive_key(...), and name the effect in `allow`."
)
UNHEALED = (
    "Let the phase's function take `key`, and pass that to the other system; or give the phase a `probe` that asks it."
    " If it does not matter, name the effect in `allow`."
)
# A test for each kind of difference, its meaning, and the remedy.
KINDS: tuple[tuple[Callable[[Difference], bool], str, str], ...] = (
    (lambda each: each.found > each.expected, "done again by the retry.", AGAIN),
    (lambda each: each.found < each.expected, "never done, although the retry was answered.", LOST),
    (lambda each: each.found == each.expected, "not as in an undisturbed run.", OTHERWISE),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashPoint:
    """One kill: the point, the retry's reply, and the differences from an undisturbed run."""

    number: int
    name: str
    reply: Reply
    problems: tuple[Difference, ...] = ()
    repeated: tuple[str, ...] = ()  # phases that ran more than once

    @property
    def verdict(self) -> str:
        """`once`, `broken`, or `unknown` if the retry was refused because of an unknown outcome."""
        if self.problems:
            return "broken"
        return "unknown" if self.reply.code == "outcome-unknown" else "once"


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashReport:
    """The kills at all points, and the *uncovered* effects inside the handler's transaction."""

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
            twice = f", phase {' and '.join(map(repr, point.repeated))} ran twice" if point.repeated else ""
            lines.append(f"{point.number:4}  {point.name:{width}}  {answered:13} {point.verdict}{twice}".rstrip())
        return "\n".join([*lines, *self.notes])

    def findings(self) -> Iterator[Finding]:
        """Everything that is wrong, where it happened, and the remedy."""
        for effect in self.uncovered:
            if effect.phase:
                yield Finding(
                    f"{effect}: the phase's transaction does not cover it.",
                    ("Killed between it and COMMIT, the phase is undone, and the retry does it again.",),
                    UNHEALED,
                )
                continue
            yield Finding(
                f"{effect}: inside the handler's transaction, which does not cover it.",
                ("Killed between it and COMMIT, the work is undone, and the retry does it again.",),
                UNCOVERED,
            )
        points: dict[Difference, list[str]] = defaultdict(list)
        for point in self.broken:
            for problem in point.problems:
                points[problem].append(point.name)
        for is_of_kind, what, remedy in KINDS:
            of_kind = [problem for problem in points if is_of_kind(problem)]
            if of_kind:
                details = [line for problem in of_kind for line in (str(problem), _format_points(points[problem]))]
                killed = sum(any(map(is_of_kind, point.problems)) for point in self.broken)
                more = IN_PHASES if remedy is AGAIN and any(point.repeated for point in self.points) else ""
                yield Finding(
                    f"Killed at {killed} of {len(self.points)} points: {what}",
                    (*details, *self.notes),
                    f"{remedy}{more}",
                )


def _format_points(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"  killed {', '.join(names[:MOST_NAMES])}{more}"
