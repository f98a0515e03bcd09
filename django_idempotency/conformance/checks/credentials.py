"""Whose key it is: two callers, and nobody."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from django_idempotency.conformance.checks.base import (
    Level,
    NotApplicable,
    Seen,
    Verdict,
    experiment,
    not_applicable,
    verdict,
)
from django_idempotency.conformance.session import as_other

if TYPE_CHECKING:
    from django_idempotency.conformance.session import Session
    from django_idempotency.conformance.wire import Answer

NO_OTHER = "The request file has no `other`."


@experiment("A request, and the same with the same key by the other caller.", requests=4)
def other(session: Session) -> Seen:
    described = session.described
    if not described.other_headers:
        raise NotApplicable(NO_OTHER)
    request, key = session.new().plain, session.new_key()
    first = session.send(request, key)
    same_path = replace(as_other(session, request), path=request.path)
    answers = {"first": first, "other": session.send(same_path, key)}
    own = as_other(session, request)
    answers["own"] = session.send(own, key) if own.path != request.path else answers["other"]
    answers["alone"] = session.send(as_other(session, session.new().plain), session.new_key())
    return Seen(answers)


def gets(answer: Answer, first: Answer) -> bool:
    """Whether *answer* is the first caller's, or has it inside."""
    return answer.same_as(first) or (len(first.body) > 8 and first.body in answer.body)


@other.check("other-caller", Level.EXPECTED, "Another caller never gets the answer of a key that is not theirs.")
def never_gets_it(seen: Seen) -> Verdict:
    first = seen["first"]
    saw = f"first: {first}; other: {seen['other']}"
    if seen["own"] is not seen["other"]:
        saw += f"; at its own path: {seen['own']}"
    return verdict(not gets(seen["other"], first) and not gets(seen["own"], first), saw)


@other.check("other-callers-key", Level.EXPECTED, "The same key of two callers is two keys.")
def is_their_own(seen: Seen) -> Verdict:
    if not seen["alone"].succeeded:
        return not_applicable(f"The other caller is refused with a new key, too: {seen['alone']}")
    if gets(seen["own"], seen["first"]):
        return not_applicable("The other caller got the first one's answer.")
    return verdict(seen["own"].succeeded, f"with the same key: {seen['own']}; with a new key: {seen['alone']}")


@experiment("A request; the same with a wrong credential, and without one.", requests=4)
def none(session: Session) -> Seen:
    described = session.described
    names = {name.lower() for name in described.other_headers}
    if not names:
        raise NotApplicable(NO_OTHER)
    request, key = session.new().plain, session.new_key()
    bare = replace(
        request, headers={name: value for name, value in request.headers.items() if name.lower() not in names}
    )
    wrong = replace(
        request,
        headers={
            name: f"{value[:-4]}none" if name.lower() in names else value for name, value in request.headers.items()
        },
    )
    alone = session.send(bare, session.new_key())
    if alone.succeeded:
        raise NotApplicable(f"The server serves requests without a credential: {alone}")
    first = session.send(request, key)
    return Seen({"first": first, "wrong": session.send(wrong, key), "none": session.send(bare, key)})


@none.check("wrong-credential", Level.EXPECTED, "A credential that is not valid gets 401 or 403, and no replay.")
def wrong_is_refused(seen: Seen) -> Verdict:
    return verdict(refused(seen["wrong"], seen["first"]), f"first: {seen['first']}; wrong: {seen['wrong']}")


@none.check("no-credential", Level.EXPECTED, "A request without a credential gets 401 or 403, and no replay.")
def none_is_refused(seen: Seen) -> Verdict:
    return verdict(refused(seen["none"], seen["first"]), f"first: {seen['first']}; without: {seen['none']}")


def refused(answer: Answer, first: Answer) -> bool:
    return answer.status in (401, 403) and not gets(answer, first)
