"""The same key for something else."""

from __future__ import annotations

from dataclasses import replace
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
from django_idempotency.conformance.checks.links import link_of

if TYPE_CHECKING:
    from django_idempotency.conformance.session import Session
    from django_idempotency.conformance.wire import Request

NO_VARY = "The request file has no `vary`."
NOT_REFUSED = "The request was not refused."


@experiment("A request, and its key with the payload of `vary`.", requests=5)
def other_payload(session: Session) -> Seen:
    if session.described.varied_body is None:
        raise NotApplicable(NO_VARY)
    alone = session.send(session.new().varied, session.new_key())
    if not alone.succeeded:
        raise NotApplicable(f"With a key of its own, the payload of `vary` is refused too: {alone}")
    requests, key = session.new(), session.new_key()
    first, before = session.send(requests.plain, key), session.count()
    return Seen({"first": first, "other": session.send(requests.varied, key)}, session.since(before))


@other_payload.check(
    "reuse-refused", Level.MUST, "A key that comes with another payload runs nothing and gets no answer.", section="2.7"
)
def reuse_is_refused(seen: Seen) -> Verdict:
    return verdict(seen["other"].refused and not seen.effects, f"first: {seen['first']}; other: {seen['other']}")


@other_payload.check("reuse-422", Level.SHOULD, "That refusal is 422.", section="2.7")
def reuse_is_422(seen: Seen) -> Verdict:
    if not seen["other"].refused:
        return not_applicable(NOT_REFUSED)
    return verdict(seen["other"].status == 422, f"{seen['other']}")


@other_payload.check(
    "reuse-link", Level.SHOULD, "That refusal links to documentation, in body or `Link`.", section="2.7"
)
def reuse_links(seen: Seen) -> Verdict:
    if not seen["other"].refused:
        return not_applicable(NOT_REFUSED)
    link = link_of(seen["other"])
    return passed(f"link to {link}") if link else failed(f"no link in {seen['other']}")


@experiment("A request, its key with the payload of `vary`, and the request again.", requests=5)
def first_again(session: Session) -> Seen:
    if session.described.varied_body is None:
        raise NotApplicable(NO_VARY)
    requests, key, before = session.new(), session.new_key(), session.count()
    first, other = session.send(requests.plain, key), session.send(requests.varied, key)
    if not other.refused:
        raise NotApplicable(NOT_REFUSED)
    return Seen({"first": first, "again": session.send(requests.plain, key)}, session.since(before))


@first_again.check("reuse-keeps-first", Level.EXPECTED, "After that refusal a retry still gets its answer.")
def reuse_keeps_first(seen: Seen) -> Verdict:
    saw = f"first: {seen['first']}; again: {seen['again']}; {seen.ran}"
    return verdict(seen["again"].succeeded and seen.executions == 1, saw)


def changed(session: Session, change: Request, original: Request) -> Seen:
    key = session.new_key()
    return Seen({"first": session.send(original, key), "other": session.send(change, key)})


def is_not_answered(seen: Seen) -> Verdict:
    first, other = seen["first"], seen["other"]
    return verdict(not other.same_as(first) and other.status < 500, f"first: {first}; other: {other}")


@experiment("A request, and its key with another query string.", requests=2)
def other_query(session: Session) -> Seen:
    request = session.new().plain
    joint = "&" if "?" in request.path else "?"
    return changed(session, replace(request, path=f"{request.path}{joint}conformance=other"), request)


other_query.check("other-query", Level.EXPECTED, "With another query string it is another request.")(is_not_answered)


@experiment("A request, and its key with another media type.", requests=2)
def other_type(session: Session) -> Seen:
    request = session.new().plain
    if not request.body:
        raise NotApplicable("The request has no body.")
    headers = {name: value for name, value in request.headers.items() if name.lower() != "content-type"}
    return changed(session, replace(request, headers={**headers, "Content-Type": "text/plain"}), request)


other_type.check("other-type", Level.EXPECTED, "With another media type it is another request.")(is_not_answered)
