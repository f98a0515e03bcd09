"""Findings of the kit, each with its remedy, and the error that carries them all."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from textwrap import indent
from typing import Any

from django_idempotency.core.record import NEVER_STORED
from django_idempotency.testing.arguments import texts
from django_idempotency.testing.calls import Reply

# Remedies of mistakes that more than one assertion finds.
PROTECT = "put @idempotent directly around the handler, or IdempotencyMixin on the class; see the page Getting started."
OUTSIDE = (
    "it runs before or around what @idempotent protects: in a middleware, in dispatch(), in another decorator, in a"
    " permission or a throttle. Move it into the handler, which a replay does not run. If it does not matter (a log of"
    " requests), name its table in `ignore`, or the key of its cache as `cache:<key>`."
)

# What is wrong, and the remedy.
USED_KEY = ("The first request was answered by a replay: its key was used before.", "use a new key for each test.")
NO_EFFECT = (
    "The request changed nothing that can be seen, so a second effect would not be seen either.",
    "give a call that does something; or name its database in `using`; or give effect=False if its work leaves no trace"
    " here.",
)

# Headers that name one request, or count requests: middleware makes new ones for each answer.
OF_ONE_REQUEST = NEVER_STORED | {
    "age",
    "content-length",
    "server-timing",
    "traceparent",
    "x-correlation-id",
    "x-request-id",
    "x-response-time",
    "x-runtime",
    "x-trace-id",
}
COUNTING = ("ratelimit", "x-ratelimit")
HEADER = "header:"  # in `ignore`, before a name


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong: *what*, the *details* that show it, and the *remedy*."""

    what: str
    details: tuple[str, ...] = ()
    remedy: str = ""

    def __str__(self) -> str:
        parts = [self.what, *(indent(line, "    ") for line in self.details)]
        if self.remedy:
            parts.append(f"  What to do: {self.remedy}")
        return "\n".join(parts)


class NotProved(AssertionError):
    """A view is not what the assertion demands. The message lists all findings."""

    def __init__(self, subject: str, findings: Iterable[Finding]) -> None:
        self.subject = subject
        self.findings = tuple(findings)
        numbered = [f"{number}. {finding}" for number, finding in enumerate(self.findings, 1)]
        super().__init__("\n\n".join([f"{subject}:", *numbered]))

    def __reduce__(self) -> tuple[Any, ...]:
        """Make it picklable for test runners with several processes."""
        return type(self), (self.subject, self.findings), self.__dict__


def find_reply_differences(first: Reply, second: Reply, *, ignore: str | Iterable[str] = ()) -> Iterator[str]:
    """Describe how *second* differs from *first*, of which it should be a copy."""
    if first.status != second.status:
        yield f"status {first.status}, then {second.status}"
    _status, body = first.kept
    if body != second.body:
        yield f"body {_excerpt(body, second.body)}, then {_excerpt(second.body, body)}"
    left_out = {each.removeprefix(HEADER).lower() for each in texts(ignore) if each.startswith(HEADER)}
    for name in sorted(
        {*first.headers, *second.headers} - OF_ONE_REQUEST - first.unstored - left_out - {second.replayed_header}
    ):
        one, other = first.headers.get(name), second.headers.get(name)
        if one != other and not name.startswith(COUNTING) and not (other == "true" and one is None and second.replayed):
            yield f"header {name}: {one!r}, then {other!r}"


AROUND, LONGEST = 20, 100  # bytes


def _excerpt(body: bytes, other: bytes) -> str:
    """The part of *body* around the place where it begins to differ from *other*."""
    at = next((i for i, (one, two) in enumerate(zip(body, other, strict=False)) if one != two), 0)
    start = 0 if len(body) <= LONGEST else max(at - AROUND, 0)
    text = body[start : start + LONGEST].decode(errors="replace")
    return f"{'…' if start else ''}{text}{'…' if start + LONGEST < len(body) else ''}" if body else "(empty)"
