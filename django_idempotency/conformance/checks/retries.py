"""The same request again, when the first one has been answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django_idempotency.conformance.checks.base import (
    Level,
    NotApplicable,
    Seen,
    Verdict,
    experiment,
    failed,
    not_applicable,
    passed,
    verdict,
)

if TYPE_CHECKING:
    from django_idempotency.conformance.session import Session

# Of one message, one connection or one hop; or a cookie, which has a check of its own.
OF_ONE_ANSWER = {
    *("age", "connection", "content-length", "date", "keep-alive", "server", "server-timing", "set-cookie"),
    *("traceparent", "transfer-encoding", "via", "x-correlation-id", "x-process-time", "x-request-id"),
    *("x-response-time", "x-runtime", "x-trace-id"),
}
COUNTING = ("ratelimit", "x-ratelimit")
RAN_AGAIN = "The retry ran again."


@experiment("A request, and the same again after its answer.", requests=4)
def retry(session: Session) -> Seen:
    request, key, before = session.new().plain, session.new_key(), session.count()
    return Seen({"first": session.send(request, key), "retry": session.send(request, key)}, session.since(before))


@retry.check("retry-runs-nothing", Level.SHOULD, "A retry does not run the request again.", section="2.6")
def runs_once(seen: Seen) -> Verdict:
    return verdict(seen.executions == 1, f"first: {seen['first']}; retry: {seen['retry']}; {seen.ran}")


@retry.check("retry-status", Level.SHOULD, "A retry gets the first answer's status.", section="2.6")
def same_status(seen: Seen) -> Verdict:
    if seen.executions != 1:
        return not_applicable(RAN_AGAIN)
    return verdict(seen["retry"].status == seen["first"].status, f"{seen['first'].status}, then {seen['retry'].status}")


@retry.check("retry-body", Level.SHOULD, "A retry gets the first answer's body, byte for byte.", section="2.6")
def same_body(seen: Seen) -> Verdict:
    if seen.executions != 1:
        return not_applicable(RAN_AGAIN)
    first, again = seen["first"], seen["retry"]
    if again.body == first.body:
        return passed(f"{len(first.body)} bytes, twice")
    return failed(f"first: {first}; retry: {again}")


@retry.check("retry-headers", Level.EXPECTED, "A retry gets the first answer's headers, and perhaps a mark of its own.")
def same_headers(seen: Seen) -> Verdict:
    if seen.executions != 1:
        return not_applicable(RAN_AGAIN)
    first, again = seen["first"], seen["retry"]
    names = {name.lower() for name, _ in first.headers} - OF_ONE_ANSWER
    names = {name for name in names if not name.startswith(COUNTING)}
    wrong = [
        f"{name}: {', '.join(first.values(name))!r}, then {', '.join(again.values(name)) or None!r}"
        for name in sorted(names)
        if first.values(name) != again.values(name)
    ]
    return failed("; ".join(wrong)) if wrong else passed(f"the same: {', '.join(sorted(names)) or 'there are none'}")


@retry.check("retry-cookies", Level.EXPECTED, "A retry does not get the cookies of the first answer.")
def no_cookies(seen: Seen) -> Verdict:
    cookies = set(seen["first"].values("Set-Cookie"))
    if not cookies:
        return not_applicable("The first answer sets no cookie.")
    again = cookies & set(seen["retry"].values("Set-Cookie"))
    return verdict(not again, f"{len(again)} of {len(cookies)} cookies came again")


@experiment("The request of `error`, and the same again after its answer.", requests=4)
def error(session: Session) -> Seen:
    if session.described.error_body is None:
        raise NotApplicable("The request file has no `error`.")
    request, key, before = session.new().erroneous, session.new_key(), session.count()
    return Seen({"first": session.send(request, key), "retry": session.send(request, key)}, session.since(before))


@error.check("retry-error", Level.SHOULD, "A retry gets the first answer if that is an error, too.", section="2.6")
def same_error(seen: Seen) -> Verdict:
    first, again = seen["first"], seen["retry"]
    if first.succeeded:
        return not_applicable(f"The request of `error` succeeds: {first}")
    saw = f"first: {first}; retry: {again}"
    return verdict(
        again.same_as(first) and (seen.effects or 0) <= 1, saw if seen.effects is None else f"{saw}; {seen.ran}"
    )


@experiment("The GET of `effects` with a key, before and after a request.", requests=3)
def get(session: Session) -> Seen:
    effects = session.described.effects
    if effects is None:
        raise NotApplicable("The request file has no `effects`.")
    key = session.new_key()
    before = session.get(effects.path, key)
    session.send(session.new().plain, session.new_key())
    return Seen({"before": before, "after": session.get(effects.path, key)})


@get.check("get-untouched", Level.EXPECTED, "A GET with a key is answered anew each time.")
def get_is_fresh(seen: Seen) -> Verdict:
    before, after = seen["before"], seen["after"]
    return verdict(
        before.succeeded and after.succeeded and not after.same_as(before), f"before: {before}; after: {after}"
    )
