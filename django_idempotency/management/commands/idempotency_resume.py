"""`manage.py idempotency_resume`: finishes what was interrupted, where no client comes back."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error, close_old_connections

from django_idempotency.exceptions import PolicyError
from django_idempotency.management.arguments import add_locations, choose_locations, seconds, whole_number
from django_idempotency.management.interruption import interruptible
from django_idempotency.management.output import explain, progress_bar
from django_idempotency.operations import locations
from django_idempotency.operations.presentation import visible
from django_idempotency.operations.probing import Outcome
from django_idempotency.operations.resuming import Result, Resumed, Resumer, resumable
from django_idempotency.stores.stored import Location

ENDED_EARLY = 3  # as for idempotency_purge
AT_ONCE = 1000
MOST = 100_000
EVERY = 10.0  # seconds
QUESTIONS_EVERY = 60.0  # seconds: for unsettled outcomes the whole table is read
NAP = 0.2  # seconds, after which a signal is noticed at the latest


class Command(BaseCommand):
    """Calls `operations.resuming` for each table, and each store with probes."""

    requires_system_checks: tuple[str, ...] = ()  # cron would mail their warnings after every run

    help = (
        "Finish the runs of phased mode that were interrupted: send the stored request of each to its view again, as"
        " the same user. Call the probes of other outcomes that are unsettled. Any number may work at once. Exit codes:"
        " 0 what was due has been tried, or a watch was ended by SIGINT or SIGTERM; 1 an error; 2 a bad argument; 3"
        " ended early, by SIGINT or SIGTERM."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--watch",
            type=seconds,
            nargs="?",
            const=EVERY,
            metavar="SECONDS",
            help=f"Go on until a signal ends it, and look for runs every so many SECONDS. Default: {EVERY:g}.",
        )
        parser.add_argument(
            "--limit",
            type=whole_number(1, MOST),
            default=AT_ONCE,
            metavar="NUMBER",
            help="The largest number of runs to resume, and of probes to call, in each place and at each look."
            " Default: %(default)s.",
        )
        add_locations(parser)

    def handle(self, **options: Any) -> None:
        self.verbosity: int = options["verbosity"]
        self.limit: int = options["limit"]
        self.resumer = Resumer()
        self.reported: dict[str, tuple[int, int]] = {}
        places = choose_locations(options, self.warn)
        self.options = options
        every: float | None = options["watch"]
        with interruptible(exits=True) as is_interrupted:
            if every is None:
                errors = [*self.resume(places, is_interrupted), *self.ask(places, is_interrupted)]
                if errors:
                    raise CommandError("\n".join(errors))
                if is_interrupted():
                    sys.exit(ENDED_EARLY)
            else:
                self.watch(places, every, is_interrupted)

    def watch(self, places: list[Location], every: float, is_interrupted: Callable[[], bool]) -> None:
        """Look again and again. A server that does not answer is asked at the next look."""
        next_questions = 0.0
        while not is_interrupted():
            next_look = time.monotonic() + every
            errors = self.resume(places, is_interrupted)
            if time.monotonic() >= next_questions:
                errors += self.ask(places, is_interrupted)
                next_questions = time.monotonic() + QUESTIONS_EVERY
            while not is_interrupted() and (left := next_look - time.monotonic()) > 0:
                time.sleep(min(left, NAP))
            try:
                places = choose_locations(self.options, lambda warning: None)  # there may be a new tenant
            except CommandError as error:
                errors.append(str(error))
            for line in errors:
                self.warn(line)

    def resume(self, places: list[Location], is_interrupted: Callable[[], bool]) -> list[str]:
        """Resume what is due in *places*, and report it. Returns the errors of those that do not answer."""
        errors = []
        for place in resumable(places):
            if is_interrupted():
                break
            close_old_connections()
            try:
                with self.progress(place) as update:
                    resumed = []
                    for each in self.resumer.resume_each(place, self.limit):
                        resumed.append(each)
                        update(1)
                        if is_interrupted():
                            break
                self.report(place, resumed, self.resumer.give_up_overdue(place, self.limit))
            except (Error, PolicyError) as error:
                errors.append(explain(str(place), error))
        return errors

    def ask(self, places: list[Location], is_interrupted: Callable[[], bool]) -> list[str]:
        """Call the probes of unsettled outcomes, and report what came of it. Returns errors as `resume` does."""
        if is_interrupted():
            return []
        close_old_connections()
        try:
            asked, failed = self.resumer.ask_each(places, self.limit)
        except PolicyError as error:
            return [f"No probe was called: {visible(str(error))}"]
        errors = [explain(str(place), error) for place, error in failed]
        counts: Counter[Outcome] = Counter()
        while not is_interrupted():
            try:
                found = next(asked, None)
            except Exception as error:  # of any store; a defect propagates
                if not any(locations.is_away(place, error) for place in places):
                    raise
                errors.append(f"The probes were not all called: {visible(str(error).strip())}")
                break
            if found is None:
                break
            counts[found.outcome] += 1
        if counts:
            words = ", ".join(f"{count} {outcome.value}" for outcome, count in counts.items())
            self.say(f"Called {_many(counts.total(), 'probe')} of unsettled outcomes: {words}.")
        return errors

    def report(self, place: Location, resumed: list[Resumed], given_up: list[Resumed]) -> None:
        where = str(place).removeprefix("database ")
        counts: Counter[Result] = Counter(each.result for each in resumed if each.result is not Result.BUSY)
        if counts:
            words = ", ".join(f"{counts[result]} {result.value}" for result in Result if counts[result])
            self.say(f"Resumed {_many(counts.total(), 'run')} in {where}: {words}.")
        if given_up:
            self.say(f"Gave up {_many(len(given_up), 'run')} in {where}, after `resume_for`.")
        for each in (*resumed, *given_up):
            if each.result in (Result.UNSETTLED, Result.LATER):
                self.say(f"  {each.digest.hex()} is {each.result.value}: {visible(each.reason)}")
        requests, calls = self.resumer.count_without_request(place)
        if (requests, calls) != self.reported.get(str(place), (0, 0)):
            if requests:
                self.say(
                    f"{_many(requests, 'interrupted request')} in {where} cannot be sent again, because it is not"
                    " stored (`store_request`, `max_body`): its client's retry resumes it."
                )
            if calls:
                self.say(
                    f"{_many(calls, 'interrupted call')} of @once functions in {where} cannot be made again: a"
                    " redelivery resumes it."
                )
        self.reported[str(place)] = requests, calls

    @contextmanager
    def progress(self, place: Location) -> Iterator[Callable[[int], object]]:
        """A progress bar, on a terminal with tqdm installed (the extra `progress`)."""
        if not self.verbosity or not self.stderr.isatty():
            yield lambda runs: None
            return
        with progress_bar(
            f"Resuming {place.schema or place.using}", lambda: min(self.resumer.count_due(place), self.limit)
        ) as update:
            yield update

    def say(self, line: str) -> None:
        if self.verbosity:
            self.stdout.write(line)
            self.stdout.flush()  # a service's lines are read while it runs

    def warn(self, line: str) -> None:
        if self.verbosity:
            self.stderr.write(self.style.WARNING(line))


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
