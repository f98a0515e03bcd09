"""Connections that break, and copies that are late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django_idempotency.conformance.checks.base import (
    Level,
    NotApplicable,
    Seen,
    Verdict,
    experiment,
    passed,
    verdict,
)
from django_idempotency.conformance.session import POLLS
from django_idempotency.conformance.wire import Exchange, NoAnswer

if TYPE_CHECKING:
    from django_idempotency.conformance.session import Session

NO_BODY = "The request has no body."


@experiment("A request whose sender hangs up at once, and the same again until it is answered.", requests=2 * POLLS + 2)
def hang_up(session: Session) -> Seen:
    request, key, before = session.new().plain, session.new_key(), session.count()
    with Exchange(session.wire, request, (key,)) as exchange:
        exchange.send_head()
        exchange.send_body(request.body)
    return Seen({"retry": session.settle(request, key)}, session.since_hang_up(before))


@hang_up.check("hang-up", Level.EXPECTED, "A client that lost its connection gets an answer by a retry; one runs.")
def retry_is_answered(seen: Seen) -> Verdict:
    return verdict(seen["retry"].succeeded and seen.executions == 1, f"retry: {seen['retry']}; {seen.ran}")


@experiment("The first half of a request, and then the whole of it.", requests=2 * POLLS + 2)
def half_body(session: Session) -> Seen:
    request, key, before = session.new().plain, session.new_key(), session.count()
    if len(request.body) < 2:
        raise NotApplicable(NO_BODY)
    with Exchange(session.wire, request, (key,)) as exchange:
        exchange.send_head()
        exchange.send_body(request.body[: len(request.body) // 2])
        exchange.end_early()
    return Seen({"whole": session.settle(request, key)}, session.since_hang_up(before))


@half_body.check("half-body", Level.EXPECTED, "Half a request runs nothing, and its key is free for the whole.")
def half_is_nothing(seen: Seen) -> Verdict:
    return verdict(seen["whole"].succeeded and seen.executions == 1, f"whole: {seen['whole']}; {seen.ran}")


@experiment("A request, while half of a copy is on its way; then the copy's other half.", requests=4)
def late_duplicate(session: Session) -> Seen:
    request, key, before = session.new().plain, session.new_key(), session.count()
    half = len(request.body) // 2
    if not half:
        raise NotApplicable(NO_BODY)
    with Exchange(session.wire, request, (key,)) as late:
        late.send_head()
        late.send_body(request.body[:half])
        try:
            first = session.send(request, key)
        except NoAnswer as error:
            raise NotApplicable("The server serves one connection at a time.") from error
        late.send_body(request.body[half:])
        return Seen({"first": first, "late": late.answer()}, session.since(before))


@late_duplicate.check(
    "late-duplicate", Level.EXPECTED, "A copy that began before the first and ends after it does not run."
)
def late_runs_nothing(seen: Seen) -> Verdict:
    first, late = seen["first"], seen["late"]
    saw = f"first: {first}; late: {late}; {seen.ran}"
    if first.status == 409 and late.succeeded:
        return passed(saw)  # the copy had claimed the key
    return verdict(seen.executions == 1 and (late.succeeded or late.refused), saw)
