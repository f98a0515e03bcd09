"""Links in refusals: where a client can read what it did wrong."""

import re

from django_idempotency.conformance.wire import Answer

URL = re.compile(r"https?://[^\s\"'<>\\]+")
TARGET = re.compile(r"<([^>]*)>\s*;[^,]*\brel\s*=\s*\"?[^\",;]*\b(?:describedby|help|service-doc)\b", re.IGNORECASE)


def link_of(answer: Answer) -> str | None:
    """The documentation that *answer* points to: a URL in its body, or a `Link` that describes it (RFC 8288)."""
    for value in answer.values("Link"):
        if found := TARGET.search(value):
            return found[1]
    in_body = URL.search(answer.body.decode(errors="replace").replace("\\/", "/"))
    return in_body[0] if in_body else None
