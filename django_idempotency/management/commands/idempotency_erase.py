"""`manage.py idempotency_erase`: erase what is stored for a scope, for example for a person."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_idempotency.core.keys import check_string
from django_idempotency.encryption import drop_keys
from django_idempotency.exceptions import PolicyError
from django_idempotency.management.arguments import add_locations, choose_locations
from django_idempotency.management.output import RecordCommand, progress_bar
from django_idempotency.operations.erasing import Erased, erase
from django_idempotency.operations.presentation import visible
from django_idempotency.stores.stored import Location

BAD_ARGUMENT = 2  # argparse's exit code
LEFT = 3


class Command(RecordCommand):
    """Calls `erasing.erase` for each database, schema and store."""

    help = (
        "Erase what is stored for one scope, in every database and store, replay caches included. The keys are new"
        " then, so let no request of the scope run any more. Exit codes: 0 all is erased; 1 an error; 2 a bad argument;"
        " 3 something was left: an unknown outcome, or a request in flight. If it is killed, run it again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--scope",
            required=True,
            help="The exact scope, as idempotency_show shows it, like auth.user:42.",
        )
        parser.add_argument("--dry-run", action="store_true", help="Count what is stored, and erase nothing.")
        parser.add_argument(
            "--include-unsettled",
            action="store_true",
            help="Erase unknown outcomes, too. Their keys run again, although the first request may have taken effect.",
        )
        parser.add_argument(
            "--by-key",
            action="store_true",
            help="Destroy the scope's encryption keys in the place of its records, if it has keys of its own. Nobody"
            " can read what is stored for it any more, backups included, and no key of it is new: retries are refused.",
        )
        add_locations(parser)

    def handle(self, **options: Any) -> None:
        scope, dry_run = options["scope"], options["dry_run"]
        try:
            check_string("scope", scope)
        except PolicyError:
            raise CommandError(f"--scope: '{visible(scope)}' cannot be a scope.", returncode=BAD_ARGUMENT) from None
        if options["by_key"]:
            self.destroy_keys(scope, options)
            return
        look = partial(erase, scope=scope, include_unsettled=options["include_unsettled"])
        shows_bar = options["verbosity"] > 0 and self.stderr.isatty() and not dry_run
        finished, errors = True, []
        for location in choose_locations(options, self.warn):
            counted = Counted()
            try:
                if shows_bar:
                    with progress_bar(f"Erasing {location}", lambda: look(location, dry_run=True).count) as update:  # noqa: B023 called at once
                        counted.update = update
                        erased = look(location, progress=counted)
                else:
                    erased = look(location, dry_run=dry_run, progress=counted)
            except Exception as error:  # the others are still erased
                errors.append((location, error))
                if counted.count:
                    self.write(f"Erased {_records(counted.count)} from {location} before an error.")
                continue
            finished = finished and erased.finished
            self.write("\n".join(_lines(location, erased, dry_run=dry_run)))
        self.fail_for(errors)
        if not finished and not dry_run:
            sys.exit(LEFT)

    def destroy_keys(self, scope: str, options: dict[str, Any]) -> None:
        """Raises `CommandError` if the scope has no keys of its own, or they cannot be asked."""
        for name in ("dry_run", "include_unsettled", "store", "database", "schema"):
            if options[name]:
                raise CommandError(
                    f"--by-key is for all records at once, without --{name.replace('_', '-')}.", returncode=2
                )
        try:
            dropped = drop_keys(scope)
        except Exception as error:  # of the project's own keys, and of the service behind them
            raise CommandError(f"The scope's keys could not be destroyed: {visible(str(error))}") from error
        if not dropped:
            raise CommandError("--by-key needs keys by scope: ENCRYPTION['KEYS'] with a method `drop`.", returncode=2)
        self.write(
            "Destroyed the keys of the scope: what is stored for it cannot be read, and its retries are refused."
        )


class Counted:
    """Counts what is erased, for the bar and for an error."""

    count = 0
    update: Callable[[int], object] | None = None

    def __call__(self, number: int) -> None:
        self.count += number
        if self.update is not None:
            self.update(number)


def _lines(location: Location, erased: Erased, *, dry_run: bool) -> Iterator[str]:
    yield f"{'Would erase' if dry_run else 'Erased'} {_records(erased.count)} from {location}."
    if erased.unsettled:
        yield (
            f"  Left: {erased.unsettled} of unknown outcome. Settle them (idempotency_unsettled), or erase them with"
            " --include-unsettled."
        )
    if erased.in_flight:
        yield f"  Left: {erased.in_flight} in flight. Run this again when their requests have ended."


def _records(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"
