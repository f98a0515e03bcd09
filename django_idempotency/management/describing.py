"""A record as commands write it: lines for people, JSON for scripts."""

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations.locations import Place
from django_idempotency.operations.presentation import Body, Presented


def lines(record: Presented, *, body: bool) -> Iterator[str]:
    """*record* for people, its stored body only where it is asked for."""
    status = "unknown" if record.status is None else f"{record.status} {record.reason}".strip()
    rows = {"identity": record.identity}
    if not record.is_foreign:
        rows |= {
            "key": record.key,
            "scope": record.scope,
            "operation": record.operation,
            "state": str(record.state.label),
            "asked": _asked(record) or "without a request",
            "fingerprint": record.fingerprint,
            "request id": record.request_id or "none",
            "executed": f"{record.executed_at:%Y-%m-%d %H:%M:%S %Z}",
            "expires": f"{record.expires_at:%Y-%m-%d %H:%M:%S %Z}",
        }
    rows["status"] = status
    for name, value in rows.items():
        yield f"  {name:12} {value}"
    for problem in record.problems:
        yield f"  {'problem':12} {problem}"
    for name, header in record.headers or ():
        yield f"  {'header':12} {name}: {'(computed anew)' if header is None else header}"
    if record.body is not None:
        yield f"  {'body':12} {_summary(record.body, body=body)}"
        if body and record.body.text:
            yield from (f"    {line}" for line in record.body.text.split("\n"))


def described(place: Place, row: IdempotencyRecord, record: Presented, *, body: bool) -> dict[str, Any]:
    """*record* for scripts; with *body* the exact bytes of *row* too."""
    answer: dict[str, Any] | None = None
    if record.status is not None:
        answer = {
            "status": record.status,
            "reason": record.reason,
            "headers": None if record.headers is None else [list(pair) for pair in record.headers],
            "body": None if record.body is None else _body(record.body, bytes(row.body) if body else None),
        }
    known = not record.is_foreign
    return {
        "database": place.using,
        "store": place.alias if place.using is None else None,
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
        "expires_at": record.expires_at.isoformat() if known else None,
        "answer": answer,
        "problems": list(record.problems),
    }


def _asked(record: Presented) -> str:
    return " ".join(filter(None, (record.method, record.host, record.route)))


def _summary(content: Body, *, body: bool) -> str:
    if not content.size:
        return "empty"
    media_type = f", {content.media_type}" if content.media_type else ""
    more = "" if body else "; --body shows it"
    if body and not content.text:
        more = "; --json --body has its bytes"
    return f"{content.kind.value}, {content.size} bytes{media_type}{more}"


def _body(content: Body, exact: bytes | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "kind": content.kind.value,
        "media_type": content.media_type,
        "size": content.size,
    }
    if exact is not None:
        described |= {"text": content.text, "base64": b64encode(exact).decode()}
    return described
