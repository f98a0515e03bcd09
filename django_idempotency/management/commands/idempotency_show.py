"""`manage.py idempotency_show`: shows what was asked with a key, and what was answered."""

import json
from functools import partial
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_idempotency.core.keys import MAX_KEY, MAX_STRING, UNSTORABLE, Identity, check_key
from django_idempotency.exceptions import KeyInvalid
from django_idempotency.management.arguments import add_locations, choose_locations
from django_idempotency.management.output import RecordCommand, as_json, format_lines
from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations import locations
from django_idempotency.operations.locations import IDENTITY
from django_idempotency.operations.policies import Policies
from django_idempotency.operations.presentation import present, visible
from django_idempotency.stores.database.rows import read_rows
from django_idempotency.stores.stored import Location, StoredRecord


class Command(RecordCommand):
    """Shows what `presentation.present` makes of records."""

    help = (
        "Show every record of an idempotency key: what was asked, and what was answered. Stores outside the databases"
        " are searched for an identity, or for a key with its --scope and --operation. Exit codes: 0 shown; 1 nothing"
        " found, or an error; 2 a bad argument. Stored headers are shown; stored bodies only with --body."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("key", metavar="KEY", help="The key, or an identity's 64 hexadecimal digits.")
        parser.add_argument("--scope", help="Only the record of this scope, like auth.user:1.")
        parser.add_argument("--operation", help='Only that of this operation, like "POST payments/".')
        parser.add_argument(
            "--body",
            action="store_true",
            help="Show stored bodies, which may hold personal data or secrets. No permission is checked: who can run"
            " this command can read the table.",
        )
        parser.add_argument(
            "--json",
            action="store_true",
            help="Write a JSON list of records. With --body, the exact bytes are in body.base64.",
        )
        add_locations(parser)

    def handle(self, **options: Any) -> None:
        key, scope, operation = options["key"], options["scope"], options["operation"]
        wanted = _key(key)
        for name, value in {"--scope": scope, "--operation": operation}.items():
            if value is not None and UNSTORABLE.search(value):
                raise CommandError(f"{name} has a character that no database stores: '{visible(value)}'.")
        chosen = choose_locations(options, self.warn)
        answers, errors = locations.ask(chosen, lambda location: _find(location, wanted, scope, operation))
        body: bool = options["body"]
        look = partial(present, limit=None if body else 0, policies=Policies())
        shown = [(each, look(each)) for _, found in answers for each in found]
        if shown and options["json"]:
            self.write(json.dumps([as_json(*each, body=body) for each in shown], indent=2))
        elif shown:
            for number, (stored, presented) in enumerate(shown, 1):
                title = f"Record {number} of {len(shown)}, in {stored.location}"
                self.write("\n".join([title, *format_lines(presented, body=body), ""]))
        self.fail_for(errors)
        if not shown:
            raise CommandError(_explain_nothing(key, scope, operation, chosen))


def _key(text: str) -> str:
    """The key. Raises `CommandError` for a string that no request can have used."""
    try:
        return check_key(text)
    except KeyInvalid:
        raise CommandError(
            f"'{visible(text)}' cannot be an idempotency key, which has 1 to {MAX_KEY} printable ASCII characters."
        ) from None


def _find(location: Location, key: str, scope: str | None, operation: str | None) -> list[StoredRecord]:
    """The records of *key*, or of the identity that it spells, the oldest first."""
    if not location.store.has_table:
        found = [location.find(digest) for digest in _digests(key, scope, operation)]
        return [
            record
            for record in found
            if record is not None and scope in (None, record.scope) and operation in (None, record.operation)
        ][:1]
    with location.selected():
        rows = IdempotencyRecord.objects.using(location.using)
        if scope is not None:
            rows = rows.filter(scope=scope[:MAX_STRING])
        if operation is not None:
            rows = rows.filter(operation=operation[:MAX_STRING])
        if IDENTITY.fullmatch(key):
            # Two look-ups, each by its index: an OR could read the whole table. A key may look like an identity.
            by_identity = read_rows(location, rows.filter(pk=bytes.fromhex(key)))
            if by_identity:
                return by_identity
        return read_rows(location, rows.for_key(key).order_by("executed_at", "pk"))


def _digests(key: str, scope: str | None, operation: str | None) -> list[bytes]:
    """
    The digests to look up in a store that finds records by identity only: *key* itself if it is one, and that of
    (scope, operation, key).
    """
    digests = [bytes.fromhex(key)] if IDENTITY.fullmatch(key) else []
    if scope is not None and operation is not None:
        digests.append(Identity(scope, operation, key).digest)
    return digests


def _explain_nothing(key: str, scope: str | None, operation: str | None, asked: list[Location]) -> str:
    narrowed = " in this scope or operation" if scope is not None or operation is not None else ""
    by_key_alone = not _digests(key, scope, operation)
    unasked = [str(each) for each in asked if by_key_alone and each.using is None]
    names = [str(each).removeprefix("database ") for each in asked if str(each) not in unasked]
    where = " or ".join(names) or "any database"
    in_flight = "is in flight, " if any(each.using is None for each in asked) and not by_key_alone else ""
    text = f"No record of '{visible(key)}'{narrowed} in {where}: it was never used, {in_flight}was freed, or is purged."
    if unasked:
        text += f" For {' and '.join(unasked)}, give an identity, or --scope and --operation with the key."
    return text
