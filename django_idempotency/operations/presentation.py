"""A record as strings that the admin's pages and the commands show."""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from django.db.models import TextChoices
from django.utils.http import parse_header_parameters
from django.utils.timesince import timeuntil
from django.utils.translation import gettext_lazy as _

from django_idempotency.core.operator_answer import reason_phrase
from django_idempotency.core.record import LEFT_OUT, TOMBSTONE, CompletionRecord
from django_idempotency.models import GIVEN_UP, REFUSED, UNSETTLED, IdempotencyRecord
from django_idempotency.operations.policies import Policies
from django_idempotency.stores.stored import StoredRecord

DISPLAYED = 64 * 1024  # characters of a body that a page shows; the rest is a download

# Control characters, lone surrogates, and marks that change the direction of text: a page would hide them, a terminal
# would obey them.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSEEN_IN_LINE = re.compile(rf"{_UNSEEN.pattern}|[\t\n\u2028\u2029]")

# Charsets that a body may be decoded by. Python knows more: some are not for text, some take quadratic time.
_CHARSET = re.compile(
    r"ascii|us-ascii|utf-?8|utf-?(16|32)([bl]e)?|(iso-?)?8859-\d+|latin-?\d+|(cp|windows-)125\d|koi8-[ru]"
    r"|shift_jis|euc-(jp|kr)|iso-2022-jp|gb2312|gbk|gb18030|big5",
    re.IGNORECASE,
)
_TEXT = re.compile(
    r"text/.+|.+\+(json|xml)|application/(json|xml|yaml|toml|csv|sql|graphql|javascript|ecmascript|x-ndjson|json-seq"
    r"|x-www-form-urlencoded)",
    re.IGNORECASE,
)
_JSON = re.compile(r"(.+/|.+\+)json", re.IGNORECASE)
_indented = json.JSONEncoder(indent=2, ensure_ascii=False).iterencode
LARGEST = 16 * 1024 * 1024  # characters of indented JSON, whatever is asked for: each level of nesting adds a margin


class State(TextChoices):
    """What the next request with the key meets, by the server's clock."""

    COMPLETED = "completed", _("completed")  # it is answered from the record
    RUNNING = "running", _("running")  # it is refused, or waits: a run in phases goes on
    INTERRUPTED = "interrupted", _("interrupted")  # it goes on: a run in phases has stopped, and is not given up
    EXPIRED = "expired", _("expired")  # it runs: the key is new again
    TOMBSTONE = "tombstone", _("tombstone")  # it is refused: the answer has expired, and the key stays taken
    UNSETTLED = "unsettled", _("unsettled")  # it is refused: the outcome of the first request is unknown


class BodyKind(Enum):
    """How a body is shown."""

    EMPTY = "empty"
    JSON = "json"
    TEXT = "text"
    BINARY = "binary"  # by its size alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """
    A stored body, or what is stored *instead* of it (LEFT_OUT, BYTES or JSON of `core.record`). *text* is its readable
    part, never markup to be rendered.
    """

    kind: BodyKind
    media_type: str  # as the answer named it; empty if it did not
    size: int  # bytes
    text: str = ""
    cut: bool = False  # Is *text* less than the whole?
    instead: str = ""

    @property
    def is_reference(self) -> bool:
        """Is it a reference, from which the option `replay` renders the answer?"""
        return self.instead not in ("", LEFT_OUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentedRun:
    """A run in phases as strings, which are safe to print."""

    phases: tuple[tuple[str, str | None], ...]  # the finished ones: name, and result as JSON; None if left out
    place: str  # the phase in which or after which the last attempt ended, as far as that is known
    # Did that attempt end without a word? Then *error* is that of an earlier one, or says why no resumer may go on.
    has_died: bool
    attempts: int  # since an operator let it be resumed, if one did
    most: int | None  # after as many attempts it is given up; None if its operation is not known any more
    error: str
    resume_until: datetime
    is_sent: bool  # Can the resumer send its request again?
    is_given_up: bool  # if not, a retry goes on with it

    @property
    def names(self) -> str:
        """The names of the finished phases."""
        return ", ".join(name for name, _result in self.phases)

    @property
    def tried(self) -> str:
        """The number of attempts, of how many."""
        return f"{self.attempts}" if self.most is None else _("%d of %d") % (self.attempts, self.most)

    @property
    def stopped(self) -> str:
        """Where the last attempt ended."""
        if self.has_died and not self.place:
            return str(_("before its first phase was finished: its process ended, or lost its lease"))
        if self.has_died:
            return _("after phase %s: its process ended, or lost its lease") % self.place
        return self.place or str(_("before its first phase"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """
    A record as strings, which are safe to print: control characters are spelled out (`\\x1b`).

    The *status* of an unsettled outcome, and of a tombstone, is None. *headers* and *body* are None if there is no
    answer, if it cannot be read (see *problems*), or if they were left out. A record that *is_foreign* was not written
    by this package: only its identity is known.
    """

    identity: str  # 64 hexadecimal digits
    state: State
    method: str  # empty, like host and route, for work that arrived without a request
    host: str
    route: str
    scope: str
    operation: str
    key: str
    fingerprint: str  # hexadecimal
    request_id: str
    executed_at: datetime
    expires_at: datetime | None  # None for never
    status: int | None
    reason: str
    headers: tuple[tuple[str, str | None], ...] | None  # a value of None is computed anew for each replay
    body: Body | None
    problems: tuple[str, ...]  # why parts of the record cannot be read
    is_foreign: bool = False
    run: PresentedRun | None = None  # of a claim in phased mode

    @property
    def request(self) -> str:
        """Method, host and route, as far as they are known."""
        return " ".join(filter(None, (self.method, self.host, self.route)))


def state(record: Any) -> State:
    """The state of *record*: a `StoredRecord`, or a row of `RecordQuerySet.with_state`."""
    end = expiry(record)
    if end is not None and end <= record.now:
        return State.EXPIRED
    if record.ended or record.status == TOMBSTONE:
        return State.TOMBSTONE
    if record.status:
        return State.COMPLETED
    if record.is_in_flight:
        return State.RUNNING
    return State.INTERRUPTED if record.is_interrupted else State.UNSETTLED


def expiry(record: Any) -> datetime | None:
    """When the key of *record* (as for `state`) is new again. None for an unknown outcome that never expires."""
    is_row = isinstance(record, IdempotencyRecord)
    end: datetime | None = record.uncertain_until if is_row and record.status == UNSETTLED else record.expires_at
    return end


def time_left(record: Any) -> str | None:
    """
    The time until the key of *record* (as for `state`) is new again, for people. None if it is, or if the lifetime of
    the record has not begun.
    """
    if state(record) in (State.EXPIRED, State.RUNNING, State.INTERRUPTED):
        return None
    end = expiry(record)
    return str(_("until it is settled")) if end is None else timeuntil(end, record.now)


def present(
    record: StoredRecord, *, response: bool = True, limit: int | None = DISPLAYED, policies: Policies | None = None
) -> Presented:
    """
    Present *record*; without *response*, leave out its headers and body, and the results of phases. *limit* is the
    number of characters of a body, None for all. *policies* say how many attempts a run has. Raises nothing, whatever
    is stored.
    """
    unsettled = record.is_unsettled
    answerless = unsettled or record.is_tombstone
    method, host, route = [*visible(record.request).split(" ", 2), "", "", ""][:3]
    found, problems = _completion(record) if response and not answerless else (None, ())
    is_foreign = unsettled and not record.fingerprint
    if is_foreign:
        problems = (str(_("What is stored here was not written by this package, or only in part.")),)
    return Presented(
        identity=str(record),
        state=state(record),
        method=method,
        host=host,
        route=route,
        scope=visible(record.scope),
        operation=visible(record.operation),
        key=visible(record.key),
        fingerprint=record.fingerprint.hex(),
        request_id=visible(record.request_id),
        executed_at=record.executed_at,
        expires_at=record.expires_at,
        status=None if answerless else record.status,
        reason=visible(found.reason) if found and found.reason else "" if answerless else reason_phrase(record.status),
        headers=None if found is None else tuple([(visible(n), v and visible(v)) for n, v in found.headers]),
        body=_body(record.body, found, limit) if response and not answerless and not record.unreadable else None,
        problems=problems,
        is_foreign=is_foreign,
        run=_run(record, response, limit, policies),
    )


def _run(record: StoredRecord, response: bool, limit: int | None, policies: Policies | None) -> PresentedRun | None:
    run = record.run
    if run is None:
        return None
    policy = None if policies is None else policies.policy(record)
    results: list[str | None] = [None] * len(run.finished)
    if response and run.results is not None:
        results = [visible(json.dumps(result, ensure_ascii=False))[:limit] for result in run.results]
    # Who gives a lease back writes its end into the past.
    has_died = not record.is_in_flight and run.ends_at > record.executed_at
    last = run.finished[-1] if run.finished else ""
    return PresentedRun(
        phases=tuple(zip(map(visible, run.finished), results, strict=True)),
        place=visible(last if has_died else run.phase),
        has_died=has_died,
        attempts=run.attempts,
        most=None if policy is None else policy.max_attempts,
        error=visible(run.error),
        resume_until=run.resume_until,
        is_sent=run.is_sent and run.doubt < REFUSED,
        is_given_up=run.doubt == GIVEN_UP,
    )


def visible(text: str, *, lines: bool = False) -> str:
    """*text* with invisible and control characters spelled out. With *lines*, tabs and line ends stay."""
    unseen = _UNSEEN if lines else _UNSEEN_IN_LINE
    return unseen.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _completion(record: StoredRecord) -> tuple[CompletionRecord | None, tuple[str, ...]]:
    """Reason and headers, without the body; or why they cannot be read."""
    if record.unreadable:
        return None, (str(_("The stored answer cannot be decrypted: %s.")) % record.unreadable,)
    try:
        found = CompletionRecord.from_stored(record.status, record.head, b"", record.request_id, to_send=False)
        texts = [found.reason, *[name for name, _value in found.headers]]
        texts += [value for _name, value in found.headers if value is not None]
        if all(isinstance(text, str) for text in texts):
            return found, ()
    except (RecursionError, TypeError, ValueError):
        pass  # reported below
    return None, (str(_("The stored reason and headers cannot be read: this package has not written them.")),)


def _body(content: bytes, found: CompletionRecord | None, limit: int | None) -> Body:
    headers = {name.lower(): value or "" for name, value in (found.headers if found else ())}
    declared = headers.get("content-type", "")
    media_type, charset = _media_type(declared)
    shown = visible(declared)
    instead = found.instead if found else ""
    if not content:
        return Body(kind=BodyKind.EMPTY, media_type=shown, size=0, instead=instead)
    text = None
    if headers.get("content-encoding", "identity").lower() == "identity":
        text = _decode(content, media_type, charset)
    if text is None:
        return Body(kind=BodyKind.BINARY, media_type=shown, size=len(content), instead=instead)
    kind = BodyKind.TEXT
    if _JSON.fullmatch(media_type) or not media_type:
        try:
            text = _indent(text, LARGEST if limit is None else limit)
            kind = BodyKind.JSON
        except (RecursionError, ValueError):
            pass  # shown as it is
    text = text.replace("\r\n", "\n")
    if limit is None:
        limit = LARGEST if kind is BodyKind.JSON else len(text)
    cut = len(text) > limit
    text = visible(text[:limit], lines=True)
    return Body(kind=kind, media_type=shown, size=len(content), text=text, cut=cut, instead=instead)


def _media_type(declared: str) -> tuple[str, str]:
    """Media type and charset of a Content-Type header; UTF-8 if it names no charset that we decode."""
    try:
        media_type, parameters = parse_header_parameters(declared)
    except ValueError:
        return "", "utf-8"
    charset = str(parameters.get("charset", ""))
    media_type = media_type.strip() if "/" in media_type else ""
    return media_type, charset if _CHARSET.fullmatch(charset) else "utf-8"


def _decode(content: bytes, media_type: str, charset: str) -> str | None:
    """*content* as a string, with undecodable bytes spelled out; None if it is not text."""
    if _TEXT.fullmatch(media_type):
        try:
            return content.decode(charset, errors="backslashreplace")
        except (LookupError, UnicodeError):
            return content.decode(errors="backslashreplace")
    if media_type:
        return None
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _indent(text: str, limit: int) -> str:
    """JSON *text* with one member a line, up to the first token past *limit*. Raises `ValueError` for other text."""
    tokens, length = [], 0
    for token in _indented(json.loads(text)):
        tokens.append(token)
        length += len(token)
        if length > limit:
            break
    return "".join(tokens)
