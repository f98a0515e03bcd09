"""`assert_repeatable`: GET, HEAD, OPTIONS, PUT and DELETE are idempotent by definition. Does a view keep to it?"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

from django.conf import settings
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch

from django_idempotency.protection.introspection import SAFE
from django_idempotency.testing.calls import Call, Reply, Sender
from django_idempotency.testing.compare.snapshots import LARGEST_TABLE
from django_idempotency.testing.findings import Finding, NotProved
from django_idempotency.testing.observe.requests import Observation, Observer

GONE = (404, 410)
TURNED_AWAY = (401, 403)  # also for users who have deleted themselves, or what let them in
PERMANENT = (301, 308)
LEADS_TO_ONE = frozenset({"PUT", "DELETE"})


def assert_repeatable(
    call: Sender,
    times: int = 10,
    *,
    using: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] = (),
    limit: int = LARGEST_TABLE,
) -> None:
    """
    Prove that *call* may be sent *times* times without a key: GET, HEAD and OPTIONS change nothing, PUT and DELETE
    leave the state that one of them leaves.

    A new time of change alone does not make a row another one for PUT and DELETE, and what the first request of a safe
    method puts into a cache is no change. *using*, *ignore* and *limit* are those of `assert_idempotent`.

    Raises `NotProved`, an `AssertionError`, with all that was found, also if the first request was refused or sent to
    the login, as that proves nothing. `ValueError` for fewer than two *times* and for a method that is not repeatable
    by definition.
    """
    if times < 2:
        raise ValueError(f"To repeat a request takes at least two times, not {times}.")
    if isinstance(call, Call):
        _refuse_other(call.method)
    observer = Observer(using=using, ignore=ignore, limit=limit)
    first = observer.send(call, None)
    method = call.method if isinstance(call, Call) else first.reply.method
    _refuse_other(method)
    rest = [observer.send(call, None) for _ in range(times - 1)]
    findings = _of_safe([first, *rest], method) if method in SAFE else _of_others(first, rest, method)
    if findings:
        name = str(call) if isinstance(call, Call) else method
        view = f" ({first.reply.view})" if first.reply.view else ""
        raise NotProved(f"{name}{view} is not repeatable", findings)


def _refuse_other(method: str) -> None:
    if method and method not in SAFE | LEADS_TO_ONE:
        raise ValueError(
            f"{method} is not repeatable by definition; prove with assert_idempotent that a key makes it so."
        )


def _of_safe(runs: list[Observation], method: str) -> list[Finding]:
    findings = [*_of_errors([run.reply for run in runs])]
    first = replace(runs[0].seen, cached=())  # it may fill a cache for the others
    for number, seen in enumerate([first, *(run.seen for run in runs[1:])], 1):
        if seen:
            findings.append(
                Finding(
                    f"{method} is safe by definition, but request {number} changed something.",
                    tuple(seen.lines()),
                    "clients, proxies and crawlers repeat it at will. Count views elsewhere, change things by another"
                    " method, or name a table of logs in `ignore`, or the key of a cache as `cache:<key>`.",
                )
            )
            break
    return findings


def _of_others(first: Observation, rest: list[Observation], method: str) -> list[Finding]:
    findings = [*_of_errors([first.reply, *(run.reply for run in rest)])]
    for number, run in enumerate(rest, 2):
        if seen := replace(run.seen, changes=run.seen.changes.without_times()):
            findings.append(
                Finding(
                    f"{method} is idempotent by definition, but request {number} changed something again.",
                    tuple(seen.lines()),
                    "let it set a state, not add to one: update_or_create() by a key of the resource, no += and no"
                    " create(). Use POST for what must happen at each request.",
                )
            )
            break
        refused = run.reply.status >= 400 and not (method == "DELETE" and run.reply.status in (*GONE, *TURNED_AWAY))
        if refused and first.reply.status < 400:
            findings.append(
                Finding(
                    f"Request {number} was answered {run.reply.status} after {first.reply.status}: a client that"
                    " repeats it cannot know that it is done.",
                    (str(run.reply),),
                )
            )
            break
    return findings


def _of_errors(replies: list[Reply]) -> list[Finding]:
    first = replies[0]
    if first.method == "DELETE" and first.status in GONE:
        return [Finding("There was nothing to delete.", (str(first),), "give a call that finds something.")]
    for number, reply in enumerate(replies, 1):
        if reply.status >= 500 or (number == 1 and reply.status >= 400):
            what = f"Request {number} was answered {reply.status}, which proves nothing."
            return [Finding(what, (str(reply),), "give a call that the view accepts.")]
    if _is_turned_away(first):
        what = f"Request 1 was led elsewhere ({first.status}), which proves nothing."
        remedy = "give the path as the URLconf has it, and a `user` or a `client` that the view lets in."
        return [Finding(what, (f"Location: {first.headers.get('location')}",), remedy)]
    return []


def _is_turned_away(reply: Reply) -> bool:
    """Is it redirected to the login, or to its own path with a slash or over TLS, before it reached a view?"""
    if not 300 <= reply.status < 400:
        return False
    location = urlsplit(reply.headers.get("location", ""))
    own = reply.status in PERMANENT and location.path.rstrip("/") == reply.path.rstrip("/")
    back = parse_qs(location.query).get(REDIRECT_FIELD_NAME, ())
    login = settings.LOGIN_URL
    with suppress(NoReverseMatch):  # the project has no login
        login = urlsplit(resolve_url(login)).path
    return own or location.path == login or any(reply.path in each for each in back)
