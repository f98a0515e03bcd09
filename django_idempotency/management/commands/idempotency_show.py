"""`manage.py idempotency_show`: what was asked with a key, and what was answered."""

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from django_idempotency.core.keys import MAX_KEY, UNSTORABLE, check_key
from django_idempotency.exceptions import KeyInvalid
from django_idempotency.management.arguments import add_database, chosen_databases, told
from django_idempotency.models import IdempotencyRecord, RecordQuerySet
from django_idempotency.presentation import Body, Presented, present, timed, visible

IDENTITY = re.compile(r"[0-9a-fA-F]{64}")
COLUMN = 255  # characters of scope and operation that the table keeps


class Command(BaseCommand):
    """Thin over `presentation.present`."""

    requires_system_checks: tuple[str, ...] = ()  # their warnings are not what was asked for

    help = (
        "Show every record of an idempotency key: what was asked, and what was answered. Exit codes: 0 shown; 1 nothing"
        " found, or an error; 2 a bad argument. Stored headers are shown; stored bodies only with --body."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("key", metavar="KEY", help="The key, or an identity's 64 hexadecimal digits.")
        parser.add_argument("--scope", help="Only the record of this scope, like auth.user:1.")
        parser.add_argument("--operation", help='Only that of this operation, like "POST payments/".')
        parser.add_argument(
            "--body",
            action="store_true",
            help="Show stored bodies, which may hold personal data or secrets. Whoever may run this command may read"
            " the table: there is no permission to ask for.",
        )
        parser.add_argument(
            "--json",
            action="store_true",
            help="Write a JSON list of records. With --body, the exact bytes are in body.base64.",
        )
        add_database(parser)

    def handle(self, **options: Any) -> None:
        key, scope, operation = options["key"], options["scope"], options["operation"]
        wanted = _key(key)
        for name, value in {"--scope": scope, "--operation": operation}.items():
            if value is not None and UNSTORABLE.search(value):
                raise CommandError(f"{name} has a character that no database stores: '{visible(value)}'.")
        databases = chosen_databases(options["database"], self.warn)
        found = []
        for using in databases:
            records = _records(using, wanted)
            if scope is not None:
                records = records.filter(scope=scope[:COLUMN])
            if operation is not None:
                records = records.filter(operation=operation[:COLUMN])
            try:
                found += [(using, record) for record in records]
            except Error as error:
                raise CommandError(told(using, error)) from error
        if not found:
            narrowed = " in this scope or operation" if scope is not None or operation is not None else ""
            where = " or ".join(repr(using) for using in databases) or "any database"
            raise CommandError(
                f"No record of '{visible(key)}'{narrowed} in {where}: it was never used, was freed, or is purged."
            )
        shown = [(using, record, present(record, limit=None)) for using, record in found]
        if options["json"]:
            described = [_described(*each, body=options["body"]) for each in shown]
            self.write(json.dumps(described, indent=2))
        else:
            for number, (using, _, presented) in enumerate(shown, 1):
                title = f"Record {number} of {len(shown)}, in database {using!r}"
                self.write("\n".join([title, *_lines(presented, body=options["body"]), ""]))

    def write(self, text: str) -> None:
        """To a terminal or a pipe of any encoding: what it does not have is spelled out."""
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        self.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def warn(self, line: str) -> None:
        self.stderr.write(self.style.WARNING(line))


def _key(text: str) -> str:
    """The key, as requests may have it. Raises `CommandError` for what no request can have used."""
    try:
        return check_key(text)
    except KeyInvalid:
        raise CommandError(
            f"'{visible(text)}' can be no idempotency key: one has 1 to {MAX_KEY} printable ASCII characters."
        ) from None


def _records(using: str, key: str) -> RecordQuerySet:
    """The records of *key*, or of the identity that it spells, the oldest first."""
    records = timed(IdempotencyRecord.objects.using(using))
    found = records.for_key(key).order_by("executed_at", "pk")
    if IDENTITY.fullmatch(key):
        # Two look-ups by an index each: an OR of them could read the whole table. A key may look like an identity.
        by_identity = records.filter(pk=bytes.fromhex(key))
        return by_identity if by_identity.exists() else found
    return found


def _lines(record: Presented, *, body: bool) -> Iterator[str]:
    status = "unknown" if record.status is None else f"{record.status} {record.reason}".strip()
    asked = " ".join(filter(None, (record.method, record.host, record.route)))
    rows = {
        "identity": record.identity,
        "key": record.key,
        "scope": record.scope,
        "operation": record.operation,
        "state": str(record.state.label),
        "asked": asked or "without a request",
        "fingerprint": record.fingerprint,
        "request id": record.request_id or "none",
        "executed": f"{record.executed_at:%Y-%m-%d %H:%M:%S %Z}",
        "expires": f"{record.expires_at:%Y-%m-%d %H:%M:%S %Z}",
        "status": status,
    }
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


def _summary(content: Body, *, body: bool) -> str:
    if not content.size:
        return "empty"
    media_type = f", {content.media_type}" if content.media_type else ""
    more = "" if body else "; --body shows it"
    if body and not content.text:
        more = "; --json --body has its bytes"
    return f"{content.kind.value}, {content.size} bytes{media_type}{more}"


def _described(using: str, row: IdempotencyRecord, record: Presented, *, body: bool) -> dict[str, Any]:
    answer: dict[str, Any] | None = None
    if record.status is not None:
        answer = {
            "status": record.status,
            "reason": record.reason,
            "headers": None if record.headers is None else [list(pair) for pair in record.headers],
            "body": None if record.body is None else _body(record.body, bytes(row.body) if body else None),
        }
    return {
        "database": using,
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
        "executed_at": record.executed_at.isoformat(),
        "expires_at": record.expires_at.isoformat(),
        "answer": answer,
        "problems": list(record.problems),
    }


def _body(content: Body, exact: bytes | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "kind": content.kind.value,
        "media_type": content.media_type,
        "size": content.size,
    }
    if exact is not None:
        described |= {"text": content.text, "base64": b64encode(exact).decode()}
    return described
