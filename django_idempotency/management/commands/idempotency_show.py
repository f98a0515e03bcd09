"""`manage.py idempotency_show`: what was asked with a key, and what was answered."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_idempotency.core.keys import MAX_KEY, UNSTORABLE, Identity, check_key
from django_idempotency.exceptions import KeyInvalid
from django_idempotency.management.arguments import IDENTITY, add_places, chosen_places, told
from django_idempotency.management.describing import described, lines
from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations import locations
from django_idempotency.operations.locations import Place
from django_idempotency.operations.presentation import present, timed, visible

COLUMN = 255  # characters of scope and operation that the table keeps


class Command(BaseCommand):
    """Thin over `presentation.present`."""

    requires_system_checks: tuple[str, ...] = ()  # their warnings are not what was asked for

    help = (
        "Show every record of an idempotency key: what was asked, and what was answered. Stores outside the databases"
        " are asked for an identity, or for a key with its --scope and --operation. Exit codes: 0 shown; 1 nothing"
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
        add_places(parser)

    def handle(self, **options: Any) -> None:
        key, scope, operation = options["key"], options["scope"], options["operation"]
        wanted = _key(key)
        for name, value in {"--scope": scope, "--operation": operation}.items():
            if value is not None and UNSTORABLE.search(value):
                raise CommandError(f"{name} has a character that no database stores: '{visible(value)}'.")
        chosen = chosen_places(options["store"], options["database"], self.warn)
        answers, errors = locations.asked(chosen, lambda place: _records(place, wanted, scope, operation))
        shown = [(place, row, present(row, limit=None)) for place, rows in answers for row in rows]
        if shown and options["json"]:
            self.write(json.dumps([described(*each, body=options["body"]) for each in shown], indent=2))
        elif shown:
            for number, (place, _, presented) in enumerate(shown, 1):
                title = f"Record {number} of {len(shown)}, in {place}"
                self.write("\n".join([title, *lines(presented, body=options["body"]), ""]))
        if errors:
            raise CommandError("\n".join(told(*each) for each in errors)) from errors[0][1]
        if not shown:
            raise CommandError(_nothing(key, scope, operation, chosen))

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


def _records(place: Place, key: str, scope: str | None, operation: str | None) -> list[IdempotencyRecord]:
    """The records of *key*, or of the identity that it spells, the oldest first."""
    if place.using is None:
        found = [place.find(digest) for digest in _digests(key, scope, operation)]
        return [
            record
            for record in found
            if record is not None and scope in (None, record.scope) and operation in (None, record.operation)
        ][:1]
    records = timed(IdempotencyRecord.objects.using(place.using))
    if scope is not None:
        records = records.filter(scope=scope[:COLUMN])
    if operation is not None:
        records = records.filter(operation=operation[:COLUMN])
    if IDENTITY.fullmatch(key):
        # Two look-ups by an index each: an OR of them could read the whole table. A key may look like an identity.
        by_identity = list(records.filter(pk=bytes.fromhex(key)))
        if by_identity:
            return by_identity
    return list(records.for_key(key).order_by("executed_at", "pk"))


def _digests(key: str, scope: str | None, operation: str | None) -> list[bytes]:
    """What a store that finds identities alone can be asked for: what *key* spells, and what it is part of."""
    digests = [bytes.fromhex(key)] if IDENTITY.fullmatch(key) else []
    if scope is not None and operation is not None:
        digests.append(Identity(scope, operation, key).digest)
    return digests


def _nothing(key: str, scope: str | None, operation: str | None, asked: list[Place]) -> str:
    narrowed = " in this scope or operation" if scope is not None or operation is not None else ""
    by_key_alone = not _digests(key, scope, operation)
    unasked = [str(place) for place in asked if by_key_alone and place.using is None]
    names = [repr(place.using) if place.using else str(place) for place in asked if str(place) not in unasked]
    where = " or ".join(names) or "any database"
    in_flight = "is in flight, " if any(place.using is None for place in asked) and not by_key_alone else ""
    said = f"No record of '{visible(key)}'{narrowed} in {where}: it was never used, {in_flight}was freed, or is purged."
    if unasked:
        said += f" For {' and '.join(unasked)}, give an identity, or --scope and --operation with the key."
    return said
