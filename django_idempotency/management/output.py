"""What commands write: records as lines for people and as JSON for scripts, warnings, and the errors of servers."""

from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from django_idempotency.core.record import LEFT_OUT
from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations.presentation import Body, Presented, PresentedRun, State, visible
from django_idempotency.stores.stored import Location, StoredRecord, StoredRun


class RecordCommand(BaseCommand):
    """A command that shows records."""

    requires_system_checks: tuple[str, ...] = ()  # their warnings would hide the records

    def write(self, text: str) -> None:
        """Write *text* in the encoding of the terminal or pipe: characters that it lacks are spelled out."""
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        self.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def warn(self, line: str) -> None:
        self.stderr.write(self.style.WARNING(line))

    @staticmethod
    def fail_for(errors: Iterable[tuple[Location, Exception]]) -> None:
        """Raise `CommandError` if there are *errors*."""
        lines = [(explain(str(location), error), error) for location, error in errors]
        if lines:
            raise CommandError("\n".join(line for line, _error in lines)) from lines[0][1]


@contextmanager
def progress_bar(title: str, total: Callable[[], int]) -> Iterator[Callable[[int], object]]:
    """A progress bar of records, if tqdm is installed (the extra `progress`). Yields the function that moves it."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda count: None
        return
    with tqdm(total=total(), desc=title, unit=" records", unit_scale=True, leave=False) as bar:
        yield bar.update


def explain(place: str, error: Exception) -> str:
    """The message for *error*, which was met in *place*, with its remedy if that is known."""
    words = f"{place[0].upper()}{place[1:]}: {visible(str(error).strip()) or type(error).__name__}"
    missing = IdempotencyRecord._meta.db_table in words
    return f"{words} Has `manage.py migrate` created its table?" if missing else words


def format_lines(record: Presented, *, body: bool) -> Iterator[str]:
    """*record* as lines for people; with *body*, its stored body too."""
    status = f"{record.status} {record.reason}".strip()
    if record.status is None:
        status = "not kept any more" if record.state is State.TOMBSTONE else "unknown"
    rows = {"identity": record.identity}
    if not record.is_foreign:
        rows |= {
            "key": record.key,
            "scope": record.scope,
            "operation": record.operation,
            "state": str(record.state.label),
            "asked": record.request or "without a request",
            "fingerprint": record.fingerprint,
            "request id": record.request_id or "none",
            "executed": f"{record.executed_at:%Y-%m-%d %H:%M:%S %Z}",
            "expires": f"{record.expires_at:%Y-%m-%d %H:%M:%S %Z}" if record.expires_at else "never",
        }
    if record.state in (State.RUNNING, State.INTERRUPTED):
        status = "none yet"
    rows["status"] = status
    if record.run is not None:
        rows |= _run_lines(record.run, is_running=record.state is State.RUNNING)
    for name, value in rows.items():
        yield f"  {name:12} {value}"
    for problem in record.problems:
        yield f"  {'problem':12} {problem}"
    for name, header in record.headers or ():
        yield f"  {'header':12} {name}: {'(computed anew)' if header is None else header}"
    for phase, result in record.run.phases if record.run and body else ():
        yield f"  {'result':12} {phase}: {result}"
    if record.body is not None:
        yield f"  {'body':12} {_summary(record.body, body=body)}"
        if body and record.body.text:
            yield from (f"    {line}" for line in record.body.text.split("\n"))


def _run_lines(run: PresentedRun, *, is_running: bool) -> dict[str, str]:
    rows = {"finished": run.names or "no phase", "attempts": run.tried, "last error": run.error or "none"}
    if is_running:
        return rows
    until = "by a retry alone"
    if run.is_given_up:
        until = "not until an operator decides so"
    elif run.is_sent:
        until = f"by a retry, or by the resumer until {run.resume_until:%Y-%m-%d %H:%M:%S %Z}"
    return {**rows, "stopped in": run.stopped, "resumed": until}


def as_json(stored: StoredRecord, record: Presented, *, body: bool) -> dict[str, Any]:
    """*stored*, which *record* presents, for scripts; with *body*, the exact bytes of its body too."""
    location = stored.location
    answer: dict[str, Any] | None = None
    if record.status is not None:
        answer = {
            "status": record.status,
            "reason": record.reason,
            "headers": None if record.headers is None else [list(pair) for pair in record.headers],
            "body": None if record.body is None else _body(record.body, stored.body if body else None),
        }
    known = not record.is_foreign
    return {
        "database": location.using,
        "schema": location.schema,
        "store": location.store.alias if location.using is None else None,
        "identity": record.identity,
        "key": record.key,
        "scope": record.scope,
        "operation": record.operation,
        "state": record.state.value,
        "method": record.method,
        "host": record.host,
        "route": record.route,
        "fingerprint": record.fingerprint,
        "request_id": record.request_id,
        "executed_at": record.executed_at.isoformat() if known else None,
        "expires_at": record.expires_at.isoformat() if known and record.expires_at else None,
        "answer": answer,
        "run": record.run and _run_as_json(record.run, stored.run if body else None),
        "problems": list(record.problems),
    }


def _run_as_json(run: PresentedRun, exact: StoredRun | None) -> dict[str, Any]:
    results = [{}] * len(run.phases) if exact is None else [{"result": each} for each in exact.results or ()]
    return {
        "phases": [{"name": name, **result} for (name, _), result in zip(run.phases, results, strict=True)],
        "stopped_in": run.place,
        "has_died": run.has_died,
        "attempts": run.attempts,
        "max_attempts": run.most,
        "error": run.error,
        "resume_until": run.resume_until.isoformat() if run.is_sent and not run.is_given_up else None,
    }


def _summary(content: Body, *, body: bool) -> str:
    if content.instead == LEFT_OUT:
        return "not stored (option store_body)"
    if not content.size:
        return "empty"
    media_type = f", {content.media_type}" if content.media_type else ""
    more = "" if body else "; --body shows it"
    if body and not content.text:
        more = "; --json --body has its bytes"
    reference = "a reference (option record): " if content.is_reference else ""
    return f"{reference}{content.kind.value}, {content.size} bytes{media_type}{more}"


def _body(content: Body, exact: bytes | None) -> dict[str, Any]:
    described = {
        "kind": content.kind.value,
        "media_type": content.media_type,
        "size": content.size,
        "instead": content.instead or None,
    }
    if exact is None:
        return described
    return described | {"text": content.text, "base64": b64encode(exact).decode()}
