"""`manage.py idempotency_import`: copy the records of another package, so that its keys are answered after a move."""

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import connections

from django_idempotency.core.keys import check_string
from django_idempotency.exceptions import PolicyError
from django_idempotency.management.arguments import add_locations, choose_locations
from django_idempotency.management.interruption import interruptible
from django_idempotency.management.output import RecordCommand, explain, progress_bar
from django_idempotency.operations.houses.base import CannotRead, House, Source
from django_idempotency.operations.importing import HOUSES, Imported, import_records
from django_idempotency.operations.presentation import visible
from django_idempotency.stores.stored import Location

BAD_ARGUMENT = 2  # argparse's exit code
LEFT = 3
ANYONE, NOBODY = "anyone", "nobody"


class Command(RecordCommand):
    """Calls `importing.import_records`."""

    help = (
        "Copy the records of another idempotency package into the store, so that the retries of its time are answered"
        " after the move. The option `moved_from` lets requests find them. What is here already stays as it is: run it"
        " as often as you like. Exit codes: 0 all is here; 1 an error; 2 a bad argument; 3 something was left that a"
        " retry may ask for."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--from", required=True, choices=sorted(HOUSES), dest="package", help="The package's name.")
        parser.add_argument(
            "--source",
            default="default",
            metavar="ALIAS",
            help="The database that the package keeps its records in. Default: %(default)s.",
        )
        parser.add_argument("--table", metavar="NAME", help="The package's table, if idemkit was told another name.")
        parser.add_argument("--redis", metavar="URL", help="The Redis that the package keeps its records in.")
        parser.add_argument("--prefix", help="What its keys in Redis begin with. Default: the package's own default.")
        whose = parser.add_mutually_exclusive_group()
        whose.add_argument(
            "--answer",
            choices=(ANYONE, NOBODY),
            help="Who gets the answers of a package that does not know whose its keys are: anyone who sends the same"
            " key with the same request, as that package did it; or nobody, so that a retry is refused and not run.",
        )
        whose.add_argument("--scope", help="The scope of all of them, if all are of one caller, like auth.user:42.")
        parser.add_argument(
            "--ahead",
            action="store_true",
            help="Leave claims without an answer, because the package still serves: the last import, when it serves no"
            " more, finds most records here.",
        )
        parser.add_argument("--dry-run", action="store_true", help="Count what would be copied, and write nothing.")
        add_locations(parser)

    def handle(self, **options: Any) -> None:
        house = HOUSES[options["package"]]
        source = self.source(house, options)
        self.check_whose(house, options)
        location = self.location(options)
        dry_run: bool = options["dry_run"]
        shows_bar = options["verbosity"] > 0 and self.stderr.isatty() and not dry_run
        try:
            with interruptible() as is_interrupted:
                copy = partial(
                    import_records,
                    house,
                    source,
                    location,
                    scope=options["scope"],
                    answers=options["answer"] != NOBODY,
                    ahead=options["ahead"],
                    dry_run=dry_run,
                    stop=is_interrupted,
                )
                if shows_bar:
                    with progress_bar(f"Importing from {house.package}", lambda: house.count(source)) as update:
                        imported = copy(progress=update)
                else:
                    imported = copy()
        except CannotRead as error:
            raise CommandError(f"{house.package}: {visible(str(error))}.") from error
        except Exception as error:  # of either server
            raise CommandError(explain(f"{house.package}, into {location}", error)) from error
        self.write("\n".join(_lines(house, location, imported, dry_run=dry_run)))
        if not imported.finished and not dry_run:
            sys.exit(LEFT)

    def source(self, house: House, options: dict[str, Any]) -> Source:
        if options["source"] not in connections.settings:
            names = ", ".join(connections.settings)
            raise CommandError(f"--source: DATABASES has no {visible(options['source'])!r}; it has {names}.")
        if options["redis"] and not house.in_redis:
            raise CommandError(f"--redis: {house.package} keeps its records in a database.", returncode=BAD_ARGUMENT)
        return Source(using=options["source"], redis=options["redis"], prefix=options["prefix"], table=options["table"])

    def check_whose(self, house: House, options: dict[str, Any]) -> None:
        """Raise `CommandError` unless it is known whose the records are, or said who may get them."""
        if house.knows_caller:
            if options["scope"]:
                raise CommandError(f"--scope: {house.package} knows whose its keys are.", returncode=BAD_ARGUMENT)
        elif options["scope"] is not None:
            try:
                check_string("scope", options["scope"])
            except PolicyError:
                text = visible(options["scope"])
                raise CommandError(f"--scope: '{text}' cannot be a scope.", returncode=BAD_ARGUMENT) from None
        elif options["answer"] is None:
            raise CommandError(
                f"{house.package} does not store whose its keys are. Say who gets the answers: --answer anyone, if keys"
                " cannot be guessed and each caller keeps theirs secret; --answer nobody, to refuse retries until the"
                " keys expire; or --scope, if all keys are of one caller.",
                returncode=BAD_ARGUMENT,
            )

    def location(self, options: dict[str, Any]) -> Location:
        """The one store and database to write to. Raises `CommandError` if there is not exactly one."""
        if not any(options[name] for name in ("store", "database", "schema")):
            options["store"] = ["default"]
        found = choose_locations(options, self.warn)
        if len(found) != 1:
            names = ", ".join(map(str, found)) or "none"
            raise CommandError(f"Name one place to write to, with --store, --database or --schema; these are {names}.")
        return found[0]


def _lines(house: House, location: Location, imported: Imported, *, dry_run: bool) -> Iterator[str]:
    what = f"{_count(imported.answers, 'answer')} and {_count(imported.unknown, 'unknown outcome')}"
    yield f"{'Would import' if dry_run else 'Imported'} {what} from {house.package} into {location}."
    for reason, number in sorted(imported.left.items()):
        if number:
            yield f"  Left: {_count(number, 'record')}, {reason}."
    if not imported.ended:
        yield "  Ended early: run it again."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
