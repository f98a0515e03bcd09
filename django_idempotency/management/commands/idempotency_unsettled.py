"""`manage.py idempotency_unsettled`: the executions whose outcome is not known, and what becomes of one."""

import json
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_idempotency import conf
from django_idempotency.core.operator_answer import HIGHEST, JSON, LOWEST, AnswerError, written
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import PolicyError, Refusal
from django_idempotency.management.arguments import add_places, chosen_places, identity, told, whole_number
from django_idempotency.management.describing import described, lines
from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations import locations
from django_idempotency.operations.locations import Place
from django_idempotency.operations.presentation import State, present, state, visible

LISTED = 100
MOST = 10_000
BAD_ARGUMENT = 2  # argparse's exit code


class Command(BaseCommand):
    """Thin over `places`."""

    requires_system_checks: tuple[str, ...] = ()  # their warnings are not what was asked for

    help = (
        "List the executions whose outcome is not known, the oldest first, or settle one: --run-again lets the next"
        " request with its key run, --answer stores what retries get. Look for what the first request did before you"
        " do either. Exit codes: 0 listed (perhaps none), or settled; 1 nothing to settle, or an error; 2 a bad"
        " argument."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--run-again",
            type=identity,
            metavar="IDENTITY",
            help="Free its key: the next request with it runs.",
        )
        what.add_argument(
            "--answer",
            type=identity,
            metavar="IDENTITY",
            help="Store an answer for it: --status, and --body or --body-file.",
        )
        parser.add_argument(
            "--status",
            type=whole_number(LOWEST, HIGHEST),
            metavar="NUMBER",
            help=f"The answer's status, {LOWEST} to {HIGHEST}.",
        )
        parser.add_argument("--body", metavar="TEXT", help="The answer's body. Default: none.")
        parser.add_argument("--body-file", metavar="FILE", help="A file with the body, in UTF-8; - is standard input.")
        parser.add_argument("--content-type", metavar="TYPE", help=f"The body's content type. Default: {JSON}.")
        parser.add_argument(
            "--limit",
            type=whole_number(1, MOST),
            default=LISTED,
            metavar="NUMBER",
            help="How many are listed at most. Default: %(default)s.",
        )
        parser.add_argument("--json", action="store_true", help="Write the list as JSON.")
        add_places(parser)

    def handle(self, **options: Any) -> None:
        run_again, answer = options["run_again"], options["answer"]
        for name in ("status", "body", "body_file", "content_type"):
            if answer is None and options[name] is not None:
                raise CommandError(f"--{name.replace('_', '-')} is for --answer.", returncode=BAD_ARGUMENT)
        if answer is not None and options["status"] is None:
            raise CommandError("--answer needs the answer's --status.", returncode=BAD_ARGUMENT)
        if options["json"] and (answer or run_again):
            raise CommandError("--json is for the list.", returncode=BAD_ARGUMENT)
        chosen = chosen_places(options["store"], options["database"], self.warn)
        if run_again is not None:
            self.run_again(*self.found(chosen, run_again))
        elif answer is not None:
            body = _body(options["body"], options["body_file"])
            self.answer(*self.found(chosen, answer), options["status"], options["content_type"], body)
        else:
            self.write_list(chosen, options["limit"], as_json=options["json"])

    # --- the list ---

    def write_list(self, chosen: list[Place], limit: int, *, as_json: bool) -> None:
        found, errors = locations.unsettled(chosen, limit + 1)
        more = len(found) > limit
        shown = [(place, row, present(row)) for place, row in found[:limit]]
        if as_json:
            self.write(json.dumps([described(*each, body=False) for each in shown], indent=2))
        else:
            for number, (place, _, presented) in enumerate(shown, 1):
                title = f"Unsettled {number} of {len(shown)}, in {place}"
                self.write("\n".join([title, *lines(presented, body=False), ""]))
            if not shown and not errors:
                where = " and ".join(map(str, chosen)) or "any database or store"
                self.write(f"No outcome is unknown in {where}.")
        if more:
            self.warn(f"There are more: these are the oldest {limit}. --limit shows others.")
        if errors:
            raise CommandError("\n".join(told(*each) for each in errors)) from errors[0][1]

    # --- what becomes of one ---

    def found(self, chosen: list[Place], digest: bytes) -> tuple[Place, IdempotencyRecord]:
        """The unsettled execution of *digest*. Raises `CommandError` where there is none, or more than one."""
        answers, errors = locations.asked(chosen, lambda place: place.find(digest))
        stored = [(place, record) for place, record in answers if record is not None]
        unsettled = [(place, record) for place, record in stored if state(record) is State.UNSETTLED]
        if len(unsettled) == 1:
            for each in errors:
                self.warn(told(*each))
            return unsettled[0]
        if errors:
            raise CommandError("\n".join(told(*each) for each in errors)) from errors[0][1]
        if unsettled:
            where = " and ".join(str(place) for place, _ in unsettled)
            raise CommandError(f"{digest.hex()} is unsettled in {where}: name one with --store or --database.")
        if stored:
            place, record = stored[0]
            raise CommandError(f"There is nothing to settle: {digest.hex()} is {state(record).label} in {place}.")
        where = " or ".join(map(str, chosen)) or "any database or store"
        raise CommandError(
            f"There is nothing to settle: no outcome of {digest.hex()} is unknown in {where}. It is in flight, or was"
            " settled, freed or purged."
        )

    def run_again(self, place: Place, record: IdempotencyRecord) -> None:
        if not self.change(place, record, lambda: place.free(record)):
            raise CommandError(f"Nothing was done: {record} was freed in {place} meanwhile.")
        self.write(f"Freed {record} in {place}: the next request with its key runs.")

    def answer(
        self, place: Place, record: IdempotencyRecord, status: int, content_type: str | None, body: bytes
    ) -> None:
        answer = _answer(record, status, content_type, body)
        if present(record).is_foreign:
            raise CommandError(
                f"No answer can be stored for {record}: what {place} has there was not written by this package."
                " --run-again frees its key."
            )
        if not self.change(place, record, lambda: place.settle(record, answer)):
            raise CommandError(f"Nothing was done: {record} was freed in {place} meanwhile.")
        self.write(f"Stored an answer of status {status} for {record} in {place}: retries get it.")

    def change(self, place: Place, record: IdempotencyRecord, change: Any) -> bool:
        """Make the *change*. Raises `CommandError` where it was not made, and where nobody can know."""
        try:
            return bool(change())
        except Refusal as refusal:
            raise CommandError(f"Nothing was done: {visible(place.meanwhile(record) or refusal.message)}") from refusal
        except Exception as error:  # of whatever store; a defect propagates
            if not place.is_away(error):
                raise
            raise CommandError(f"{told(place, error)} Whether it was done is not known: list again.") from error

    def write(self, text: str) -> None:
        """To a terminal or a pipe of any encoding: what it does not have is spelled out."""
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        self.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def warn(self, line: str) -> None:
        self.stderr.write(self.style.WARNING(line))


def _body(text: str | None, file: str | None) -> bytes:
    if text is not None and file is not None:
        raise CommandError("Give --body or --body-file, not both.", returncode=BAD_ARGUMENT)
    if file is None:
        return (text or "").encode(errors="surrogateescape")
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise CommandError(f"--body-file: {visible(str(error))}", returncode=BAD_ARGUMENT) from error


def _answer(record: IdempotencyRecord, status: int, content_type: str | None, body: bytes) -> CompletionRecord:
    try:
        largest = conf.resolved().max_body
        return written(status, content_type or JSON, body, max_body=largest, is_event=not record.request)
    except AnswerError as error:
        part = error.part.replace("_", "-")
        raise CommandError(f"--{part}: {visible(str(error))}", returncode=BAD_ARGUMENT) from error
    except PolicyError as error:
        raise CommandError(visible(str(error))) from error
