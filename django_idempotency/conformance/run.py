"""Runs every experiment once, and asks its checks what they make of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django_idempotency.conformance.checks import EXPERIMENTS
from django_idempotency.conformance.checks.base import Check, Experiment, NotApplicable, Verdict, failed, not_applicable
from django_idempotency.conformance.session import PREPARATION, NotReady, Session
from django_idempotency.conformance.wire import NoAnswer


@dataclass(frozen=True, slots=True)
class Finding:
    """A check and its verdict."""

    check: Check
    verdict: Verdict


def examine(session: Session) -> Iterator[Finding]:
    """Make all experiments, one after another. Raises `NotReady` if the server does not serve the request at all."""
    session.prepare()
    for experiment in EXPERIMENTS:
        verdicts = make(session, experiment)
        yield from (Finding(check, verdict) for check, verdict in zip(experiment.checks, verdicts, strict=True))


def make(session: Session, experiment: Experiment) -> list[Verdict]:
    """The verdicts of the checks of *experiment*."""
    session.wire.allow(experiment.requests(session))
    try:
        seen = experiment.make(session)
    except NotApplicable as reason:
        return [not_applicable(str(reason))] * len(experiment.checks)
    except (NoAnswer, NotReady) as error:
        return [failed(str(error))] * len(experiment.checks)
    return [check.judge(seen) for check in experiment.checks]


def planned(session: Session) -> list[tuple[str, int]]:
    """What will be sent, in sentences, with the largest number of requests of each."""
    preparation = ("The request, to see whether it succeeds and runs again with another key.", PREPARATION)
    return [preparation, *((each.sends, each.requests(session)) for each in EXPERIMENTS)]
