"""What a client does after an attempt. Pure: no clock, no network, no chance but what it is given."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum

from django_idempotency.exceptions import BodyIncomplete, OutcomeUnknown, RequestInProgress, StoreUnavailable

# After these the same request is sent again: the server gave up on it (408), will not risk it yet (425), has too many
# (429), or failed. A 501 or a 505 will not change. Source: RFC 9110, 15; RFC 8470; RFC 6585.
RETRIED = frozenset({408, 425, 429, *range(500, 600)} - {501, 505})

# Refusals of this package that say: send the same request again. Their code counts, whatever their status.
_AGAIN = frozenset({BodyIncomplete.code, RequestInProgress.code, StoreUnavailable.code})
_PROBLEM = "application/problem+json"  # RFC 9457


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an answer says about a retry."""

    status: int
    code: str = ""  # of its problem details
    retry_after: float | None = None  # seconds


@dataclass(frozen=True, slots=True)
class Retry:
    """Send the same request again."""

    after: float  # seconds


class End(Enum):
    """No further attempt."""

    FINAL = "the answer is final"
    UNKNOWN = "the server cannot know the outcome"
    SPENT = "the budget is spent"


def read_answer(status: int, headers: Mapping[str, str], body: bytes, now: float) -> Answer:
    """Read an answer whose *body* is decoded. *headers* know no upper case; *now* is in seconds since the epoch."""
    code = _code(headers, body) if status >= 400 else ""
    return Answer(status=status, code=code, retry_after=_retry_after(headers, now))


def decide(
    answer: Answer | None,
    *,
    attempts: int,
    elapsed: float,
    within: float,
    most_attempts: int,
    first_wait: float,
    longest_wait: float,
    retried: Collection[int] = RETRIED,
    draw: Callable[[], float],
) -> Retry | End:
    """
    What follows from *answer*, which is None if the request or its answer was lost.

    So many *attempts* were made in *elapsed* of *within* seconds. The wait is the server's `Retry-After` and a random
    part, which *draw* (0 to 1) takes of an interval that doubles: "full jitter", so that clients that were refused
    together do not come back together. It ends with the budget. Source: RFC 9110, 10.2.3; Brooker, "Exponential
    Backoff And Jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    wanted = 0.0
    if answer is not None:
        if answer.code == OutcomeUnknown.code:
            return End.UNKNOWN
        # A 409 is "in progress" if it says when to ask again; otherwise it is the API's own conflict.
        in_progress = answer.status == 409 and answer.retry_after is not None
        if not (answer.code in _AGAIN or answer.status in retried or in_progress):
            return End.FINAL
        wanted = answer.retry_after or 0.0
    left = within - elapsed
    if attempts >= most_attempts or left <= 0 or wanted > left:
        return End.SPENT
    interval = min(longest_wait, first_wait * 2 ** min(attempts - 1, 32))
    return Retry(min(wanted + draw() * interval, left))


def _code(headers: Mapping[str, str], body: bytes) -> str:
    if headers.get("Content-Type", "").partition(";")[0].strip().lower() != _PROBLEM:
        return ""
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        return ""  # it only says that it is JSON
    if not isinstance(problem, dict):
        return ""
    code, kind = problem.get("code"), problem.get("type")
    if isinstance(code, str):
        return code
    # `<docs_url>#<code>`, or `urn:django-idempotency:<code>`
    return kind.rpartition("#")[2].rpartition(":")[2] if isinstance(kind, str) else ""


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    when = _timestamp(value)
    if when is None:
        return None
    # Both times by the server's clock, if it tells its own.
    told = _timestamp(headers.get("Date", ""))
    return max(0.0, when - (now if told is None else told))


def _timestamp(value: str) -> float | None:
    """The seconds since the epoch of an HTTP date, in any of its three forms (RFC 9110, 5.6.7)."""
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
