"""The same call with the same key from many processes at once: one takes effect, and all get its answer."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from django_idempotency.testing.calls import POLL, Reply, Sender, send
from django_idempotency.testing.compare.equivalence import format_times
from django_idempotency.testing.compare.snapshots import LARGEST_TABLE
from django_idempotency.testing.findings import Finding, NotProved
from django_idempotency.testing.observe.guards import THREAD, ForeignEffect, guard
from django_idempotency.testing.processes.forks import Line, Process
from django_idempotency.testing.processes.trials import UNSAFE, Trial, briefly

REMEDY = (
    "Do all of it inside the handler, on its own connection. What is done before the claim (a middleware, a decorator"
    " around the protected view), or by another connection or thread, is done by each of them."
)
PATIENCE = 45.0  # seconds in which each client must get its final answer


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceReport:
    """What each client was answered, in its order: the last one is its final answer."""

    call: str
    key: str
    answers: tuple[tuple[Reply, ...], ...]
    seconds: float = 0.0

    @property
    def final(self) -> tuple[Reply, ...]:
        """The final answer of each client."""
        return tuple(answers[-1] for answers in self.answers)

    @property
    def executed(self) -> int:
        """How many of them were answered by the handler itself."""
        return sum(not reply.replayed for reply in self.final)

    @property
    def conflicts(self) -> int:
        """How often a client was told to come again."""
        return sum(len(answers) - 1 for answers in self.answers)

    def __str__(self) -> str:
        statuses = Counter(reply.status for reply in self.final)
        told = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
        return (
            f"{self.call}: {len(self.answers)} at once, {self.executed} executed, {told},"
            f" told to come again {format_times(self.conflicts)}"
        )


def race(
    call: Sender,
    processes: int = 8,
    key: str | None = None,
    *,
    using: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] = (),
    limit: int = LARGEST_TABLE,
    effect: bool = True,
    reset: Callable[[], object] | None = None,
    patience: float = PATIENCE,
) -> RaceReport:
    """
    Let as many *processes*, behind a barrier, make *call* at once with one *key*, each until it has a final answer.
    What they change together has to be what a single run changes, and all their final answers the same, byte for byte.

    What the race has changed is left for the test to look at; a single run, which comes first, is put back. *using*,
    *ignore* and *limit* are those of `snapshot` and `differences`: what is compared. *effect* is False for a call that
    changes nothing which the kit can see. *reset* puts back what a run has changed; by default the kit does that for
    the database. *patience* is in seconds.

    Raises `NotProved`, an `AssertionError` that says what was done more than once; `CannotFork` inside a `TestCase`.
    """
    started = time.monotonic()
    trial = Trial(call, using, ignore, reset, limit, effect, key)

    def alone(key: str) -> tuple[Reply, list[ForeignEffect]]:
        def work(line: Line) -> tuple[Reply, list[ForeignEffect]]:
            with guard() as seen:
                reply = send(call, key)
            return reply, [effect for effect in seen.effects if effect.kind != THREAD]

        with Process(work) as process:
            result: tuple[Reply, list[ForeignEffect]] = process.result()
            return result

    alone_reply = trial.rehearse(alone)
    key = trial.key()

    def work(line: Line) -> list[Reply]:
        trial.connect()
        line.tell("ready")
        line.wait()
        return _until_final(call, key, patience)

    with ExitStack() as stack:
        runners = [stack.enter_context(Process(work)) for _ in range(processes)]
        for runner in runners:
            runner.hear()
        for runner in runners:
            runner.send("go")
        answers = tuple(tuple(runner.result(patience * 2)) for runner in runners)
    report = RaceReport(call=str(trial), key=key, answers=answers, seconds=time.monotonic() - started)
    if problems := [*map(str, trial.differences(key)), *_problems(report, alone_reply)]:
        raise NotProved(
            f"{trial}, {processes} times at once with one key",
            [Finding(f"They are not one: {report}.", tuple(problems), REMEDY)],
        )
    return report


def _until_final(call: Sender, key: str, patience: float) -> list[Reply]:
    """All answers of a client that comes again while it is told to, and after an error of the server."""
    deadline = time.monotonic() + patience
    answers: list[Reply] = []
    while True:
        answers.append(send(call, key))
        if not (answers[-1].in_progress or answers[-1].status >= 500) or time.monotonic() > deadline:
            return answers
        time.sleep(POLL)


def _problems(report: RaceReport, alone: Reply) -> list[str]:
    """What is wrong with the answers."""
    problems = []
    final = Counter((reply.status, reply.body) for reply in report.final)
    if len(final) > 1:
        told = "; ".join(f"{count} x {status} {body[:80]!r}" for (status, body), count in final.most_common(3))
        problems.append(f"{len(final)} different final answers: {told}")
    elif report.final[0].status != alone.status:
        problems.append(f"the final answer is {briefly(report.final[0])}; that of a single run {alone.status}")
    errors = {answer.error for answers in report.answers for answer in answers[:-1] if answer.error}
    if problems and errors:
        problems.append(f"on the way there were errors: {'; '.join(sorted(errors))}")
    if alone.replayed or report.final[0].method not in UNSAFE:
        return problems
    if report.executed != 1:
        problems.append(f"{report.executed} final answers are not replays instead of 1")
    return problems
