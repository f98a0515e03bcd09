"""
Sends the same call from many processes at once. With one key, one call takes effect and all get its answer; with a key
each, they leave what the same calls leave without protection.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import Value
from typing import Any, Literal

from django_idempotency import conf
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.stores import stores
from django_idempotency.testing.calls import POLL, Reply, Sender, new_key, send, send_until_final
from django_idempotency.testing.compare.equivalence import format_times
from django_idempotency.testing.compare.snapshots import LARGEST_TABLE
from django_idempotency.testing.findings import Finding, NotProved
from django_idempotency.testing.observe.guards import THREAD, ForeignEffect, guard
from django_idempotency.testing.processes.forks import Line, Process
from django_idempotency.testing.processes.trials import UNSAFE, Trial, summarize

REMEDY = (
    "Do all of it inside the handler, on its own connection. Each request does what comes before the claim (in a"
    " middleware, in a decorator around the protected view) or uses another connection or thread."
)
OWN_KEYS_REMEDY = (
    "A lock that the handler relies on is released before COMMIT, which now comes after the handler: a lock of the"
    " session (pg_advisory_lock, GET_LOCK), of a cache or of a file. Hold it until COMMIT: lock a row"
    " (select_for_update), use pg_advisory_xact_lock, or release it in an on_commit hook."
)
LINGER = 0.5  # seconds at most by which COMMIT is put off until each handler has come to its own
STEP = 0.001  # seconds
PATIENCE = 45.0  # seconds in which each client must get its final answer


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceReport:
    """The answers to each client, in their order: the last one is final."""

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
        """How many clients were answered by the handler itself."""
        return sum(not reply.replayed for reply in self.final)

    @property
    def conflicts(self) -> int:
        """How often a client had to retry."""
        return sum(len(answers) - 1 for answers in self.answers)

    def __str__(self) -> str:
        statuses = Counter(reply.status for reply in self.final)
        counts = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
        return (
            f"{self.call}: {len(self.answers)} at once, {self.executed} executed, {counts},"
            f" had to retry {format_times(self.conflicts)}"
        )


def race(
    call: Sender,
    processes: int = 8,
    key: str | Callable[[], str] | None = None,
    *,
    keys: Literal["one", "each"] = "one",
    using: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] = (),
    limit: int = LARGEST_TABLE,
    effect: bool = True,
    reset: Callable[[], object] | None = None,
    patience: float = PATIENCE,
) -> RaceReport:
    """
    Make *call* in several *processes* at once with one *key*, in each until it has a final answer. Together they have
    to change what a single run changes, and all final answers have to be the same, byte for byte.

    With *keys* "each", every process has its own key (made by *key*, if that is a callable). Together they have to
    change what the same requests change without protection. COMMIT is put off for a moment, which shows if the handler
    releases a lock too early.

    The changes of the race are left for the test to examine; those of single runs before it are undone. *using*,
    *ignore* and *limit* say what is compared, as for `snapshot` and `differences`. *effect* is False for a call without
    a change that the kit can see. *reset* undoes the changes of a run; by default the kit undoes those of the
    databases. *patience* is in seconds.

    Raises `NotProved`, an `AssertionError` that says what was done more than once; `CannotFork` inside a `TestCase`.
    """
    if keys not in ("one", "each"):
        raise ValueError(f"`keys` is 'one' or 'each', not {keys!r}.")
    if keys == "each" and isinstance(key, str):
        raise ValueError("With keys='each', `key` is a callable that makes a key, and not one key.")
    started = time.monotonic()
    first_key = key() if callable(key) else key
    trial = Trial(call, using, ignore, reset, limit, effect, first_key)

    def alone(key: str) -> tuple[Reply, list[ForeignEffect]]:
        def work(line: Line) -> tuple[Reply, list[ForeignEffect]]:
            with guard() as seen:
                reply = send(call, key)
            return reply, [effect for effect in seen.effects if effect.kind != THREAD]

        with Process(work) as process:
            result: tuple[Reply, list[ForeignEffect]] = process.result()
            return result

    alone_reply = trial.rehearse(alone)
    if keys == "each":
        own_keys = [key() if callable(key) else new_key() for _ in range(processes)]
        answers = _race_with_own_keys(trial, own_keys, patience)
        return RaceReport(call=str(trial), key="", answers=answers, seconds=time.monotonic() - started)
    one_key = trial.key()
    answers = _run_at_once(trial, [partial(_until_final, call, one_key, patience)] * processes, patience)
    report = RaceReport(call=str(trial), key=one_key, answers=answers, seconds=time.monotonic() - started)
    if problems := [*map(str, trial.differences(one_key)), *_problems(report, alone_reply)]:
        raise NotProved(
            f"{trial}, {processes} times at once with one key",
            [Finding(f"They are not one: {report}.", tuple(problems), REMEDY)],
        )
    return report


def _run_at_once(
    trial: Trial, works: Sequence[Callable[[], Sequence[Reply]]], patience: float
) -> tuple[tuple[Reply, ...], ...]:
    """Begin all *works* at once, each in its own process, and return their results."""

    def wait_for_all(work: Callable[[], Sequence[Reply]], line: Line) -> Sequence[Reply]:
        trial.connect()
        line.tell("ready")
        line.wait()
        return work()

    with ExitStack() as stack:
        runners = [stack.enter_context(Process(partial(wait_for_all, work))) for work in works]
        for runner in runners:
            runner.hear()
        for runner in runners:
            runner.send("go")
        return tuple(tuple(runner.result(patience * 2)) for runner in runners)


# --- a key each ---


def _race_with_own_keys(trial: Trial, keys: list[str], patience: float) -> tuple[tuple[Reply, ...], ...]:
    """
    Send requests with these *keys* at once, and return their answers. They have to change what the same requests change
    one after the other without protection.
    """
    (in_a_row,) = _run_at_once(trial, [partial(_send_unprotected, trial.call, keys)], patience * len(keys))
    broken = next((reply for reply in in_a_row if reply.status >= 500), None)
    if broken is not None:
        trial.refuse(
            f"Without protection, {len(keys)} requests in a row failed, so there is nothing to compare with.",
            [summarize(broken)],
            "Let the handler run without request.idempotency, and several times in a row.",
        )
    expected = trial.changes()
    trial.put_back()
    commits = Commits(len(keys))
    works = [partial(_send_with_late_commit, trial.call, key, patience, commits) for key in keys]
    answers = _run_at_once(trial, works, patience)
    problems = [*map(str, trial.compare(expected, keys))]
    problems += [summarize(reply) for (*_, reply) in answers if reply.status >= 500]
    if problems:
        trial.put_back()
        _run_at_once(trial, [partial(_send_unprotected, trial.call, [key]) for key in keys], patience)
        own = trial.compare(expected, keys)
        what = f"{len(keys)} requests at once, with a key each, do not leave what they leave without protection."
        remedy = OWN_KEYS_REMEDY
        if own:
            what = f"{len(keys)} requests at once disturb each other, with and without protection."
            remedy = "Make the handler safe for requests at once, or name in `ignore` what may depend on their order."
        trial.refuse(what, problems, remedy)
    return answers


def _send_unprotected(call: Sender, keys: Iterable[str]) -> list[Reply]:
    """Send requests with *keys* one after the other, in a process that ends afterwards: there no policy protects."""
    nothing = property(lambda policy: frozenset(), lambda policy, methods: None)
    setattr(ResolvedPolicy, "methods", nothing)  # noqa: B010 a field, to mypy
    return [send(call, key) for key in keys]


class Commits:
    """Lets the handlers of all processes end before the first of them commits, or `LINGER` has passed."""

    def __init__(self, number: int) -> None:
        self._missing = Value("i", number)  # shared with the processes

    def wait(self) -> None:
        with self._missing.get_lock():
            self._missing.value -= 1
        for _ in range(int(LINGER / STEP)):  # counted, because a test may have stopped the clock
            if self._missing.value <= 0:
                return
            time.sleep(STEP)
        self._missing.value = 0  # the others wait for a lock that this one holds until COMMIT


def _send_with_late_commit(call: Sender, key: str, patience: float, commits: Commits) -> list[Reply]:
    """The answers to one client, in a process that ends afterwards."""
    for store in [stores[alias] for alias in conf.stores()]:

        def complete_later(*args: Any, complete: Callable[..., Any] = store.complete) -> Any:  # type: ignore[attr-defined]
            commits.wait()
            return complete(*args)

        setattr(store, "complete", complete_later)  # noqa: B010 a method, to mypy
    return [send_until_final(call, key, patience)]


# --- one key ---


def _until_final(call: Sender, key: str, patience: float) -> list[Reply]:
    """All answers to a client that retries while it has to, and after a server error."""
    deadline = time.monotonic() + patience
    answers: list[Reply] = []
    while True:
        answers.append(send(call, key))
        if not (answers[-1].in_progress or answers[-1].status >= 500) or time.monotonic() > deadline:
            return answers
        time.sleep(POLL)


def _problems(report: RaceReport, alone: Reply) -> list[str]:
    """Everything that is wrong with the answers."""
    problems = []
    final = Counter(reply.kept for reply in report.final)
    if len(final) > 1:
        most = "; ".join(f"{count} x {status} {body[:80]!r}" for (status, body), count in final.most_common(3))
        problems.append(f"{len(final)} different final answers: {most}")
    elif report.final[0].status != alone.status:
        problems.append(f"the final answer is {summarize(report.final[0])}; that of a single run was {alone.status}")
    errors = {answer.error for answers in report.answers for answer in answers[:-1] if answer.error}
    if problems and errors:
        problems.append(f"errors before the final answer: {'; '.join(sorted(errors))}")
    if alone.replayed or report.final[0].method not in UNSAFE:
        return problems
    if report.executed != 1:
        problems.append(f"{report.executed} final answers are not replays instead of 1")
    return problems
