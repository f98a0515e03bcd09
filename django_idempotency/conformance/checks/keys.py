"""The key itself: how it may be spelled, and what is none."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from django_idempotency.conformance.checks.base import (
    Experiment,
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

LONG = 1_024  # characters: a server may refuse so many, but never cut them off


@experiment("A request with a key in quotes.", requests=1)
def string(session: Session) -> Seen:
    return Seen({"quoted": session.send(session.new().plain, f'"{uuid.uuid4()}"')})


@string.check("key-string", Level.MUST, "A structured-field string, with quotes, is a key.", section="2.1")
def takes_a_string(seen: Seen) -> Verdict:
    return verdict(seen["quoted"].succeeded, f"in quotes: {seen['quoted']}")


@experiment("A request with a key in quotes, and again with the same key without them.", requests=4)
def bare(session: Session) -> Seen:
    if not session.quoted:
        raise NotApplicable("The server takes no key in quotes.")
    request, name, before = session.new().plain, str(uuid.uuid4()), session.count()
    answers = {"quoted": session.send(request, f'"{name}"'), "bare": session.send(request, name)}
    return Seen(answers, session.since(before))


@bare.check("key-bare", Level.EXPECTED, "With or without quotes it is the same key, or the form is refused (400).")
def bare_is_the_same(seen: Seen) -> Verdict:
    answer = seen["bare"]
    return verdict(
        seen.executions == 1 and (answer.succeeded or answer.status == 400), f"without quotes: {answer}; {seen.ran}"
    )


@experiment("Two requests whose keys differ in the case of their letters.", requests=2)
def case(session: Session) -> Seen:
    name = f"Case-{uuid.uuid4()}"
    lower = session.send(session.new().plain, session.spell(name.lower()))
    return Seen({"lower": lower, "upper": session.send(session.new().plain, session.spell(name.upper()))})


@case.check("key-case", Level.EXPECTED, "Keys that differ in case are two keys.")
def case_counts(seen: Seen) -> Verdict:
    lower, upper = seen["lower"], seen["upper"]
    if not lower.succeeded and lower.same_as(upper):
        return not_applicable(f"Keys that are no UUIDs are refused: {lower}")
    return verdict(upper.succeeded and not upper.same_as(lower), f"lower: {lower}; upper: {upper}")


@experiment(f"Two requests whose keys have {LONG:,} characters and differ in the last one.", requests=2)
def long(session: Session) -> Seen:
    name = uuid.uuid4().hex * (LONG // 32)
    one = session.send(session.new().plain, session.spell(f"{name[:-1]}x"))
    return Seen({"one": one, "other": session.send(session.new().plain, session.spell(f"{name[:-1]}y"))})


@long.check("key-long", Level.EXPECTED, "A long key is refused, or compared to its last character.")
def long_is_whole(seen: Seen) -> Verdict:
    one, other = seen["one"], seen["other"]
    if one.refused and other.refused:
        return passed(f"refused: {one}")
    return verdict(one.succeeded and other.succeeded and not one.same_as(other), f"first: {one}; second: {other}")


@experiment("A request without a key, twice.", requests=4)
def missing(session: Session) -> Seen:
    request, before = session.new().plain, session.count()
    answers = {"first": session.send(request, None), "second": session.send(request, None)}
    required = session.described.required
    if required is None:
        required = answers["first"].refused
    return Seen({("required" if required else "optional"): answers["first"], **answers}, session.since(before))


@missing.check(
    "key-missing", Level.SHOULD, "Where a key is required, a request without one is refused with 400.", section="2.7"
)
def missing_is_400(seen: Seen) -> Verdict:
    if "required" not in seen.answers:
        return not_applicable("No key is required.")
    return verdict(seen["first"].status == 400 and not seen.effects, f"{seen['first']}; {seen.ran}")


@missing.check(
    "key-missing-link", Level.SHOULD, "That refusal links to documentation, in body or `Link`.", section="2.7"
)
def missing_links(seen: Seen) -> Verdict:
    if not seen["first"].refused:
        return not_applicable("The request was not refused.")
    link = link_of(seen["first"])
    return passed(f"link to {link}") if link else failed(f"no link in {seen['first']}")


@missing.check("key-optional", Level.EXPECTED, "Where a key is optional, each request without one runs.")
def optional_runs(seen: Seen) -> Verdict:
    if "optional" not in seen.answers:
        return not_applicable("A key is required.")
    first, second = seen["first"], seen["second"]
    if seen.effects is None and second.refused:
        return not_applicable(f"The second is refused, perhaps for what it asks: {second}")
    return verdict(first.succeeded and seen.executions == 2, f"first: {first}; second: {second}; {seen.ran}")


def malformed(id: str, what: str, *keys: tuple[str, ...]) -> Experiment:
    """The experiment of a malformed key, each of *keys* the header's lines of one request, and its check."""

    @experiment(f"A request with {what}.", requests=len(keys) + 2)
    def made(session: Session) -> Seen:
        before = session.count()
        answers = {}
        for lines in keys:
            answers[", ".join(map(repr, lines))] = session.wire.send(session.new().plain, lines)
        return Seen(answers, session.since(before))

    @made.check(id, Level.EXPECTED, f"A request with {what} is refused with 400, and nothing runs.")
    def is_400(seen: Seen) -> Verdict:
        saw = "; ".join(f"{name}: {answer}" for name, answer in seen.answers.items())
        return verdict(all(each.status == 400 for each in seen.answers.values()) and not seen.effects, saw)

    return made


MALFORMED = (
    malformed("key-empty", "an empty key", ("",), ('""',)),
    malformed("key-unterminated", "a key without its closing quote", ('"8e03978e-40d5-43dd-bc93-6894a57f9324',)),
    malformed("key-twice", "two keys", ('"8e03978e-40d5-43dd-bc93-6894a57f9324"', '"another"')),
    malformed("key-control", "a control character in its key", ('"8e03978e\x01bc93-6894a57f9324"',)),
    malformed("key-non-ascii", "a character beyond ASCII in its key", ('"schl\xfcssel-bc93-6894a57f9324"',)),
)
