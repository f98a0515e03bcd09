"""What the server publishes of its keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from django_idempotency.conformance.checks.base import (
    Level,
    Seen,
    Verdict,
    experiment,
    failed,
    not_applicable,
    passed,
)
from django_idempotency.conformance.checks.links import link_of
from django_idempotency.conformance.wire import KEY_HEADER

if TYPE_CHECKING:
    from django_idempotency.conformance.session import Session

MENTION = re.compile(re.escape(KEY_HEADER), re.IGNORECASE)
LIFETIME = re.compile(
    r"\b(?:expir\w*|lifetime|time[ -]to[ -]live|ttl|retention|remembered|\d+ ?(?:h|hours?|days?))\b", re.I
)
AROUND = 2_000  # characters in which a policy stands near a mention of the header
REFUSAL = "refusal"


@experiment(
    "GET of each `documentation`; and a request with an empty key, for a link in its refusal.",
    requests=lambda session: len(session.described.documentation) + 1,
)
def documentation(session: Session) -> Seen:
    answers = {path: session.get(path) for path in session.described.documentation}
    answers[REFUSAL] = session.send(session.new().plain, '""')
    return Seen(answers)


@documentation.check("specification", Level.MUST, "The server publishes how it treats keys.", section="2.5.2")
def is_published(seen: Seen) -> Verdict:
    found, read = mentions(seen)
    link = link_of(seen[REFUSAL]) if seen[REFUSAL].refused else None
    if found:
        return passed(f"in {', '.join(found)}")
    if link:
        return passed(f"a refusal links to {link}")
    if read:
        return failed(f"no word of {KEY_HEADER} in {', '.join(f'{path} ({seen[path].status})' for path in read)}")
    return not_applicable("Not seen: the request file has no `documentation`, and a refusal has no link.")


@documentation.check("expiry", Level.MUST, "What it publishes says how long a key lives.", section="2.5.2")
def lifetime_is_published(seen: Seen) -> Verdict:
    found, _ = mentions(seen)
    if not found:
        return not_applicable("Not seen: no `documentation` that tells of keys.")
    for path, text in found.items():
        for mention in MENTION.finditer(text):
            near = text[max(mention.start() - AROUND, 0) : mention.end() + AROUND]
            if policy := LIFETIME.search(near):
                return passed(f"in {path}: {' '.join(near[max(policy.start() - 40, 0) : policy.end() + 40].split())}")
    return failed(f"{', '.join(found)}: no word of a lifetime")


def mentions(seen: Seen) -> tuple[dict[str, str], list[str]]:
    """The documents that tell of the header, by path, and all that were read."""
    texts = {path: answer.body.decode(errors="replace") for path, answer in seen.answers.items() if path != REFUSAL}
    return {path: text for path, text in texts.items() if MENTION.search(text)}, list(texts)
