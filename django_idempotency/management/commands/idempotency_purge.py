"""`manage.py idempotency_purge`: delete the records that have expired, or turn them into tombstones."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from django_idempotency.exceptions import PolicyError
from django_idempotency.management.arguments import add_databases, choose_databases, seconds, whole_number
from django_idempotency.management.interruption import interruptible
from django_idempotency.management.output import explain, progress_bar
from django_idempotency.operations import purging
from django_idempotency.stores.stored import Location

ENDED_EARLY = 3  # 2 is argparse's, for a bad argument

Progress = Callable[[int], object]


class Command(BaseCommand):
    """Calls `purging.purge` for each table."""

    requires_system_checks: tuple[str, ...] = ()  # cron would mail their warnings after every run

    help = (
        "Delete the records that have expired, the oldest first, in small batches beside which requests go on. Several"
        " purges may run at once. Exit codes: 0 all that had expired is deleted; 1 an error; 2 a bad argument; 3 ended"
        " early, by --max-seconds, SIGINT or SIGTERM."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--batch-size",
            type=whole_number(1, purging.LARGEST_BATCH),
            default=purging.BATCH_SIZE,
            metavar="ROWS",
            help="Rows of one transaction. A request whose key has just expired waits for one batch at most."
            " Default: %(default)s.",
        )
        parser.add_argument(
            "--max-seconds", type=seconds, metavar="SECONDS", help="Begin no further batch after this time."
        )
        parser.add_argument("--dry-run", action="store_true", help="Count what has expired, and delete nothing.")
        add_databases(parser)

    def handle(self, **options: Any) -> None:
        self.verbosity: int = options["verbosity"]
        self.dry_run: bool = options["dry_run"]
        tables = choose_databases(options, self.warn)
        limit: float | None = options["max_seconds"]
        deadline = None if limit is None else time.monotonic() + limit
        finished = True
        with interruptible() as is_interrupted:
            for table in tables:
                left = None if deadline is None else deadline - time.monotonic()
                if is_interrupted() or (left is not None and left <= 0):
                    finished = False
                    break
                with table.selected():
                    finished &= self.purge(table, options["batch_size"], left, is_interrupted)
        if not finished:
            sys.exit(ENDED_EARLY)

    def purge(self, table: Location, batch_size: int, max_seconds: float | None, stop: Callable[[], bool]) -> bool:
        """Purge one table, and report it in one line. Returns whether it was finished."""
        began = time.monotonic()
        where = str(table).removeprefix("database ")
        count = 0

        def add(rows: int) -> None:
            nonlocal count
            count += rows
            show(rows)

        try:
            with self.progress(table) as show:
                purged = purging.purge(
                    table.using,
                    batch_size=batch_size,
                    max_seconds=max_seconds,
                    dry_run=self.dry_run,
                    progress=add,
                    stop=stop,
                )
        except (Error, PolicyError, RuntimeError, ValueError) as error:
            before = f" {_records(count)} had been purged before." if count else ""
            raise CommandError(f"{explain(str(table), error)}{before}") from error
        if self.dry_run:
            kept = f", and keep {_tombstones(purged.tombstones)}" if purged.tombstones else ""
            self.say(f"Would delete {_records(purged.count)} from {where}{kept}.")
        else:
            early = "" if purged.finished else " Ended before all were deleted."
            kept = f", and kept {_tombstones(purged.tombstones)}" if purged.tombstones else ""
            self.say(f"Deleted {_records(purged.count)} from {where}{kept} in {time.monotonic() - began:.1f} s.{early}")
        return purged.finished

    @contextmanager
    def progress(self, table: Location) -> Iterator[Progress]:
        """A progress bar, on a terminal with tqdm installed (the extra `progress`)."""
        if not self.verbosity or not self.stderr.isatty() or self.dry_run:
            yield lambda rows: None
            return

        def total() -> int:
            due = purging.purge(table.using, dry_run=True)
            return due.count + due.tombstones

        with progress_bar(f"Purging {table.schema or table.using}", total) as update:
            yield update

    def say(self, line: str) -> None:
        if self.verbosity:
            self.stdout.write(line)

    def warn(self, line: str) -> None:
        if self.verbosity:
            self.stderr.write(self.style.WARNING(line))


def _records(count: int) -> str:
    return f"{count} expired record{'' if count == 1 else 's'}"


def _tombstones(count: int) -> str:
    return f"{count} as {'a tombstone' if count == 1 else 'tombstones'}"
