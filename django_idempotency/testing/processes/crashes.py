"""
Kills a call by SIGKILL at each of its points: its retries have to leave what one undisturbed run leaves.

For each point a forked process makes the call, halts there and is killed. Another process retries until it has a final
answer, and once more. Then the changes in the database are compared by content with those of an undisturbed run, and
undone.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from django_idempotency.testing.arguments import texts
from django_idempotency.testing.calls import Reply, Sender, send, send_until_final
from django_idempotency.testing.compare.equivalence import Difference
from django_idempotency.testing.compare.snapshots import LARGEST_TABLE
from django_idempotency.testing.findings import NotProved
from django_idempotency.testing.observe.guards import CONNECTION, FOREIGN, THREAD, ForeignEffect, guard
from django_idempotency.testing.processes.forks import Line, Process
from django_idempotency.testing.processes.points import END, HaltingPoints
from django_idempotency.testing.processes.trials import Trial, summarize
from django_idempotency.testing.processes.verdicts import CrashPoint, CrashReport

PATIENCE = 45.0  # seconds in which a retry must get its final answer; more than the default lease
NO_REPLY = Reply(status=0)  # of a process that was killed
SETTLING = 0.5  # seconds in which the call's threads may end after it


def crash_points(
    call: Sender,
    *,
    using: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] = (),
    limit: int = LARGEST_TABLE,
    allow: str | Iterable[str] = (),
    effect: bool = True,
    unknown_outcomes: bool = False,
    reset: Callable[[], object] | None = None,
    patience: float = PATIENCE,
) -> CrashReport:
    """
    Kill *call* before and after each statement, savepoint, BEGIN, COMMIT and ROLLBACK, each Redis command, each call of
    a phase, and each effect that no transaction covers; retry; compare with an undisturbed run. Returns a report, which
    prints a table.

    A run in phases is resumed at once: the lease of the killed process is ended. What a phase does outside the database
    may be done again if its function takes a key, or if it has a probe.

    *using*, *ignore* and *limit* say what is compared, as for `snapshot` and `differences`. *allow* names effects
    outside the database that another system keeps from doubling (`"e-mail *"`, `"connection to gateway.example:443"`).
    *effect* is False for a call without a change that the kit can see. With *unknown_outcomes* a retry may get 409
    `outcome-unknown`, as from a RedisStore, if nothing is done twice. *reset* undoes the changes of a run; by default
    the kit undoes those of the databases. *patience* is in seconds.

    Raises `NotProved`, an `AssertionError` that names the points, what was doubled or lost, and the remedy; and
    `CannotFork` inside a `TestCase`.
    """
    started = time.monotonic()
    trial = Trial(call, using, ignore, reset, limit, effect)
    runs: list[_Heard] = []

    def rehearse(key: str) -> tuple[Reply, list[ForeignEffect]]:
        run = _run(trial, key)
        runs.append(run)
        return run.reply, [effect for effect in run.effects if effect.kind != THREAD]

    trial.rehearse(rehearse)
    clean, duplicate, *_ = runs
    expected = _Expected(clean, duplicate, texts(allow))
    points = []
    for number, name in enumerate(clean.names):
        key = trial.key()
        killed, retried = _kill_and_retry(trial, key, number, patience)
        changed, done = trial.differences(key), [*expected.differences(killed, retried)]
        if unknown_outcomes and retried.reply.code == "outcome-unknown":  # the work may not have been done
            changed = [each for each in changed if each.found >= each.expected]
            done = [each for each in done if each.found > each.expected]
        point = CrashPoint(
            number=number,
            name=killed.halted or name,
            reply=retried.reply,
            problems=(*changed, *done),
            repeated=_repeated([*killed.phases, *retried.phases]),
        )
        points.append(point)
        trial.put_back()
    report = CrashReport(
        call=str(trial),
        points=tuple(points),
        uncovered=tuple(effect for effect in expected.foreign if effect.inside),
        notes=tuple(expected.notes()),
        seconds=time.monotonic() - started,
    )
    if not report:
        raise NotProved(f"{trial}, killed at each of its points", report.findings())
    return report


@dataclass(slots=True)
class _Heard:
    """The messages of a process that made the call."""

    reply: Reply = NO_REPLY
    again: Reply = NO_REPLY  # to a duplicate right after it, if one was sent
    names: list[str] = field(default_factory=list)  # of its points
    effects: list[ForeignEffect] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)  # whose calls were made
    halted: str = ""  # the point at which it was killed


class _Expected:
    """The effects outside the database of an undisturbed run that its duplicate does not have, and its answer."""

    def __init__(self, clean: _Heard, duplicate: _Heard, allow: tuple[str, ...]) -> None:
        self.clean = clean
        self._allow = allow
        # An effect that a duplicate has too (an authenticator that asks another server) is not the handler's.
        self._common = {_identity(effect) for effect in duplicate.effects}
        self._is_stable = clean.reply.kept == duplicate.reply.kept
        self.foreign = self._judged(clean.effects)

    def _judged(self, effects: Iterable[ForeignEffect]) -> list[ForeignEffect]:
        return [
            effect
            for effect in effects
            if effect.kind in FOREIGN
            and not effect.is_healed
            and _identity(effect) not in self._common
            and not any(fnmatchcase(f"{effect.kind} {effect.what}", pattern) for pattern in self._allow)
        ]

    def differences(self, killed: _Heard, retried: _Heard) -> Iterator[Difference]:
        """How a killed run and its retry differ outside the database, and in their answers."""
        seen = Counter(map(_identity, self._judged([*killed.effects, *retried.effects])))
        for identity, count in Counter(map(_identity, self.foreign)).items():
            if seen[identity] != count:
                kind, which, phase = identity
                what = f"{kind} {which}".rstrip() + (f" in phase {phase!r}" if phase else "")
                yield Difference(place="", what=what, found=seen[identity], expected=count)
        reply, again = retried.reply, retried.again
        if reply.status != self.clean.reply.status:
            hint = "; see `unknown_outcomes`" if reply.code == "outcome-unknown" else ""
            what = f"a single run was answered {self.clean.reply.status}"
            yield Difference(place="the retry's answer", what=summarize(reply), how=f"{what}{hint}")
        elif self._is_stable and again.kept != reply.kept:
            how = f"a second retry was answered {summarize(again)}"
            yield Difference(place="the retry's answer", what=summarize(reply), how=how)

    def notes(self) -> Iterator[str]:
        """What may explain a problem."""
        for effect in self.clean.effects:
            if effect.kind == THREAD and effect.inside:
                yield f"(A thread was started inside the handler's transaction, which does not cover it: {effect}.)"
        for phase in dict.fromkeys(effect.phase for effect in self.clean.effects if effect.is_healed):
            yield f"(Phase {phase!r} has a key or a probe: that the other system goes by it, the kit cannot see.)"


def _identity(effect: ForeignEffect) -> tuple[str, str, str]:
    """What two runs of an effect have in common: names of files and subjects of e-mails may contain the key."""
    return (effect.kind, effect.what if effect.kind == CONNECTION else "", effect.phase)


def _repeated(phases: Iterable[str]) -> tuple[str, ...]:
    """The names of those *phases* that were called more than once, in their order."""
    return tuple(name for name, count in Counter(phases).items() if count > 1)


# --- in processes of their own ---


def _run(trial: Trial, key: str, halt_at: int | None = None) -> _Heard:
    """Make the call in a process, and kill it at its point *halt_at*."""

    def work(line: Line) -> tuple[Reply, list[str]]:
        points = HaltingPoints(line, halt_at)
        points.install()
        with guard(points.effect_is_due, points.effect_was, points.phase) as seen:
            reply = send(trial.call, key)
            seen.wait_for_threads(SETTLING)
        points.reach(END)
        return reply, points.names

    run = _Heard()
    with Process(work) as process:
        while run.reply is NO_REPLY and not run.halted:
            match process.hear():
                case "effect", effect:
                    run.effects.append(effect)
                case "phase", name:
                    run.phases.append(name)
                case "halted", name:
                    run.halted = name
                case "result", (reply, names):
                    run.reply, run.names = reply, names
    return run


def _kill_and_retry(trial: Trial, key: str, number: int, patience: float) -> tuple[_Heard, _Heard]:
    """Kill the call at its point *number*. Then a client retries until it has a final answer, and once more."""

    def work(line: Line) -> tuple[Reply, Reply]:
        trial.connect()
        line.wait()

        def note(phase: Callable[[], object], name: str) -> Callable[[], object]:
            line.tell("phase", name)
            return phase

        with guard(lambda effect: line.tell("effect", effect), around_phase=note) as seen:
            first = send_until_final(trial.call, key, patience)
            again = send(trial.call, key)
            seen.wait_for_threads(SETTLING)
        return first, again

    retried = _Heard()
    with Process(work) as process:  # it connects meanwhile
        killed = _run(trial, key, number)
        trial.end_leases()
        process.send("go")
        while retried.reply is NO_REPLY:
            match process.hear(patience * 2):
                case "effect", effect:
                    retried.effects.append(effect)
                case "phase", name:
                    retried.phases.append(name)
                case "result", (first, again):
                    retried.reply, retried.again = first, again
    return killed, retried
