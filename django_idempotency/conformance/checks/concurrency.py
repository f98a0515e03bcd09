"""The same request many times at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from django_idempotency.conformance.checks.base import Level, Seen, Verdict, experiment, not_applicable, verdict
from django_idempotency.conformance.checks.links import link_of
from django_idempotency.conformance.session import POLLS
from django_idempotency.conformance.wire import Answer, Exchange

if TYPE_CHECKING:
    from django_idempotency.conformance.session import Session

RAN_TWICE = "It ran more than once."
NO_409 = "Nobody got a 409: the copies waited, or came one after another."


@experiment(
    "Copies of a request, all at once, and one more afterwards.", requests=lambda session: session.racers + POLLS + 2
)
def race(session: Session) -> Seen:
    request, key, before = session.new().plain, session.new_key(), session.count()
    start = threading.Barrier(session.racers)

    def run(exchange: Exchange) -> Answer:
        start.wait()
        exchange.send_head()
        exchange.send_body(request.body)
        return exchange.answer()

    with ExitStack() as stack, ThreadPoolExecutor(session.racers) as pool:
        # All are connected before the first one sends.
        copies = [stack.enter_context(Exchange(session.wire, request, (key,))) for _ in range(session.racers)]
        answers = {f"copy {number}": answer for number, answer in enumerate(pool.map(run, copies), 1)}
    return Seen({**answers, "afterwards": session.settle(request, key)}, session.since(before))


def copies(seen: Seen) -> list[Answer]:
    return [answer for name, answer in seen.answers.items() if name != "afterwards"]


def statuses(answers: list[Answer]) -> str:
    found = [answer.status for answer in answers]
    return ", ".join(f"{found.count(status)} x {status}" for status in sorted(set(found)))


@race.check("race-runs-once", Level.EXPECTED, "Of many copies at once, one runs.")
def one_runs(seen: Seen) -> Verdict:
    return verdict(seen.executions == 1, f"{statuses(copies(seen))}; {seen.ran}")


@race.check("race-one-answer", Level.EXPECTED, "Copies that succeed get the same answer.")
def one_answer(seen: Seen) -> Verdict:
    if seen.executions != 1:
        return not_applicable(RAN_TWICE)
    different = {(each.status, each.body) for each in copies(seen) if each.succeeded}
    return verdict(len(different) == 1, f"{statuses(copies(seen))}; {len(different)} different answers of success")


@race.check("race-409", Level.SHOULD, "A copy in flight gets 409, or waits for the answer.", section="2.7")
def others_get_409(seen: Seen) -> Verdict:
    wrong = [each for each in copies(seen) if not each.succeeded and each.status != 409]
    return verdict(not wrong, f"{statuses(copies(seen))}{f'; {wrong[0]}' if wrong else ''}")


@race.check("race-problem", Level.SHOULD, "The 409 describes the problem, in its body or by `Link`.", section="2.7")
def is_described(seen: Seen) -> Verdict:
    conflicts = [each for each in copies(seen) if each.status == 409]
    if not conflicts:
        return not_applicable(NO_409)
    return verdict(all(each.body.strip() or link_of(each) for each in conflicts), f"{conflicts[0]}")


@race.check("race-retry-after", Level.EXPECTED, "The 409 says when to try again (`Retry-After`).")
def says_when(seen: Seen) -> Verdict:
    conflicts = [each for each in copies(seen) if each.status == 409]
    if not conflicts:
        return not_applicable(NO_409)
    saw = ", ".join(sorted({value for each in conflicts for value in each.values("Retry-After")}))
    return verdict(all(each.values("Retry-After") for each in conflicts), f"Retry-After: {saw or 'none'}")


@race.check("race-settles", Level.EXPECTED, "After a race a retry gets the winner's answer.")
def settles(seen: Seen) -> Verdict:
    if seen.executions != 1:
        return not_applicable(RAN_TWICE)
    return verdict(seen["afterwards"].succeeded, f"{statuses(copies(seen))}; afterwards: {seen['afterwards']}")
