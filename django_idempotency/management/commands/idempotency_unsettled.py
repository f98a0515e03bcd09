"""`manage.py idempotency_unsettled`: lists unsettled outcomes, and settles one."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_idempotency import conf
from django_idempotency.core.operator_answer import HIGHEST, JSON, LOWEST, AnswerError, operator_record
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import PolicyError, Refusal
from django_idempotency.management.arguments import add_locations, choose_locations, identity, whole_number
from django_idempotency.management.output import RecordCommand, as_json, explain, format_lines
from django_idempotency.operations import locations, records
from django_idempotency.operations.policies import Policies
from django_idempotency.operations.presentation import State, present, state, visible
from django_idempotency.stores.stored import Location, StoredRecord

logger = logging.getLogger("django_idempotency")

LISTED = 100
MOST = 10_000
BAD_ARGUMENT = 2  # argparse's exit code


class Command(RecordCommand):
    """Lists what `operations.locations` finds, and changes it by `operations.records`."""

    help = (
        "List the executions whose outcome is unsettled, the oldest first, or settle one: --run-again lets the next"
        " request with its key run, --answer stores what retries get, --resume lets a run in phases go on. Look for the"
        " effects of the first request before you do any of these. Exit codes: 0 listed (perhaps none), or settled; 1"
        " nothing to settle, or an error; 2 a bad argument."
    )
    reason: str | None = None

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
        what.add_argument(
            "--resume",
            type=identity,
            metavar="IDENTITY",
            help="Let its run in phases go on: the next retry, or the resumer, goes on after the last finished phase.",
        )
        what.add_argument(
            "--give-up",
            type=identity,
            metavar="IDENTITY",
            help="Give an interrupted run in phases up: nothing goes on with it, and its outcome is unsettled.",
        )
        what.add_argument(
            "--interrupted",
            action="store_true",
            help="List interrupted runs in phases instead, which a retry or the resumer goes on with.",
        )
        parser.add_argument("--reason", metavar="TEXT", help="Why you decide so. It is kept in the log.")
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
            help="The largest number to list. Default: %(default)s.",
        )
        parser.add_argument("--json", action="store_true", help="Write the list as JSON.")
        add_locations(parser)

    def handle(self, **options: Any) -> None:
        run_again, answer, resume, give_up = (options[n] for n in ("run_again", "answer", "resume", "give_up"))
        for name in ("status", "body", "body_file", "content_type"):
            if answer is None and options[name] is not None:
                raise CommandError(f"--{name.replace('_', '-')} is for --answer.", returncode=BAD_ARGUMENT)
        if answer is not None and options["status"] is None:
            raise CommandError("--answer needs the answer's --status.", returncode=BAD_ARGUMENT)
        decides = (run_again, answer, resume, give_up) != (None,) * 4
        if options["json"] and decides:
            raise CommandError("--json is for the list.", returncode=BAD_ARGUMENT)
        self.reason = options["reason"]
        if self.reason is not None and not decides:
            raise CommandError("--reason is for a decision.", returncode=BAD_ARGUMENT)
        chosen = choose_locations(options, self.warn)
        if resume is not None:
            self.resume(self.find(chosen, resume))
        elif give_up is not None:
            self.give_up(self.find(chosen, give_up, State.INTERRUPTED))
        elif run_again is not None:
            self.run_again(self.find(chosen, run_again))
        elif answer is not None:
            body = _body(options["body"], options["body_file"])
            self.answer(self.find(chosen, answer), options["status"], options["content_type"], body)
        else:
            listed = State.INTERRUPTED if options["interrupted"] else State.UNSETTLED
            self.write_list(chosen, listed, options["limit"], in_json=options["json"])

    # --- the list ---

    def write_list(self, chosen: list[Location], listed: State, limit: int, *, in_json: bool) -> None:
        look = locations.find_interrupted if listed is State.INTERRUPTED else locations.find_unsettled
        found, errors = look(chosen, limit + 1)
        policies = Policies()
        shown = [(record, present(record, policies=policies)) for record in found[:limit]]
        if in_json:
            self.write(json.dumps([as_json(*each, body=False) for each in shown], indent=2))
        else:
            for number, (record, presented) in enumerate(shown, 1):
                title = f"{listed.value.capitalize()} {number} of {len(shown)}, in {record.location}"
                self.write("\n".join([title, *format_lines(presented, body=False), ""]))
            if not shown and not errors:
                where = " and ".join(map(str, chosen)) or "any database or store"
                what = "No run is interrupted" if listed is State.INTERRUPTED else "No outcome is unsettled"
                self.write(f"{what} in {where}.")
        if len(found) > limit:
            self.warn(f"There are more: these are the oldest {limit}. --limit shows others.")
        self.fail_for(errors)

    # --- one of them ---

    def find(self, chosen: list[Location], digest: bytes, wanted: State = State.UNSETTLED) -> StoredRecord:
        """The execution of *digest* in the state *wanted*. Raises `CommandError` if there is none, or more than one."""
        answers, errors = locations.ask(chosen, lambda location: location.find(digest))
        stored = [record for _location, record in answers if record is not None]
        unsettled = [record for record in stored if state(record) is wanted]
        if len(unsettled) == 1:
            for location, error in errors:
                self.warn(explain(str(location), error))
            return unsettled[0]
        self.fail_for(errors)
        nothing = f"There is nothing to {'give up' if wanted is State.INTERRUPTED else 'settle'}"
        if unsettled:
            where = " and ".join(str(record.location) for record in unsettled)
            raise CommandError(
                f"{digest.hex()} is {wanted.value} in {where}: name one with --store, --database or --schema."
            )
        what = "run" if wanted is State.INTERRUPTED else "outcome"
        for record in stored:
            found = f"{record} is {state(record).label} in {record.location}"
            more = " (--give-up makes it unsettled)" if state(record) is State.INTERRUPTED else ""
            raise CommandError(f"{nothing}: {found}{more}.")
        where = " or ".join(map(str, chosen)) or "any database or store"
        raise CommandError(
            f"{nothing}: no {what} of {digest.hex()} is {wanted.value} in {where}. It is in flight, or was"
            " settled, freed or purged."
        )

    def resume(self, record: StoredRecord) -> None:
        if record.run is None:
            raise CommandError(f"{record} in {record.location} did not run in phases: --run-again frees its key.")
        self.change(record, lambda: records.resume(record))
        after = f"after phase {visible(record.run.finished[-1])!r}" if record.run.finished else "from its beginning"
        self.write(f"Resumed {record} in {record.location}: the next retry, or the resumer, goes on {after}.")

    def give_up(self, record: StoredRecord) -> None:
        self.change(record, lambda: records.give_up(record))
        self.write(f"Gave {record} in {record.location} up: its outcome is unsettled.")

    def run_again(self, record: StoredRecord) -> None:
        self.change(record, lambda: records.free(record))
        finished = ", ".join(map(visible, record.run.finished)) if record.run else ""
        warning = f" Its finished phases run again: {finished}." if finished else ""
        self.write(f"Freed {record} in {record.location}: the next request with its key runs.{warning}")

    def answer(self, record: StoredRecord, status: int, content_type: str | None, body: bytes) -> None:
        answer = _answer(record, status, content_type, body)
        if present(record).is_foreign:
            raise CommandError(
                f"No answer can be stored for {record}: what {record.location} has there was not written by this"
                " package. --run-again frees its key."
            )
        self.change(record, lambda: records.settle(record, answer))
        self.write(f"Stored an answer of status {status} for {record} in {record.location}: retries get it.")

    def change(self, record: StoredRecord, change: Callable[[], bool]) -> None:
        """Make the *change*. Raises `CommandError` if it was not made, or if that is unknown."""
        try:
            if change():
                if self.reason is not None:
                    logger.info("The reason of the decision about %s: %s", record, visible(self.reason))
                return
        except Refusal as refusal:
            why = locations.explain_refusal(record) or refusal.message
            raise CommandError(f"Nothing was done: {visible(why)}") from refusal
        except Exception as error:  # of any store; a defect propagates
            if not locations.is_away(record.location, error):
                raise
            words = explain(str(record.location), error)
            raise CommandError(f"{words} It is not known whether this was done: list again.") from error
        raise CommandError(f"Nothing was done: {record} was freed in {record.location} in the meantime.")


def _body(text: str | None, file: str | None) -> bytes:
    if text is not None and file is not None:
        raise CommandError("Give --body or --body-file, not both.", returncode=BAD_ARGUMENT)
    if file is None:
        return (text or "").encode(errors="surrogateescape")
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise CommandError(f"--body-file: {visible(str(error))}", returncode=BAD_ARGUMENT) from error


def _answer(record: StoredRecord, status: int, content_type: str | None, body: bytes) -> CompletionRecord:
    try:
        largest = conf.resolved().max_body
        return operator_record(status, content_type or JSON, body, max_body=largest, is_event=not record.request)
    except AnswerError as error:
        part = error.part.replace("_", "-")
        raise CommandError(f"--{part}: {visible(str(error))}", returncode=BAD_ARGUMENT) from error
    except PolicyError as error:
        raise CommandError(visible(str(error))) from error
