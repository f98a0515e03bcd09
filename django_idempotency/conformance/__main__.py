"""
Examine a server: `python -m django_idempotency.conformance URL --request FILE`.

Exit codes: 0 if no MUST fails (with --strict: if nothing fails), 1 if one does, 2 if the server could not be examined.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from django_idempotency.conformance import report
from django_idempotency.conformance.checks.base import DRAFT, Level, Result
from django_idempotency.conformance.requests_file import FileError, load
from django_idempotency.conformance.run import examine, planned
from django_idempotency.conformance.session import NotReady, Session
from django_idempotency.conformance.wire import Wire

CONFORMS, FAILS, NOT_EXAMINED = 0, 1, 2
LARGEST_RACE = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine the server that *arguments* (by default the command line's) name, and return the exit code."""
    options = parser().parse_args(arguments)
    try:
        wire = Wire(options.url, timeout=options.timeout)
        session = Session(wire, load(options.request), racers=options.race)
        plan = planned(session)
        total = sum(requests for _, requests in plan)
        if total > options.max_requests:
            raise NotReady(f"It would send up to {total} requests: raise --max-requests, or lower --race.")
        say(f"{wire.url}: {DRAFT}, at most {total} requests.")
        if options.dry_run:
            for sends, requests in plan:
                say(f"{requests:4}  {sends}")
            return CONFORMS
        findings = list(examine(session))
    except (ValueError, FileError, NotReady) as error:
        sys.stderr.write(f"{error}\n")
        return NOT_EXAMINED
    say(f"{report.table(findings)}\n\n{report.summary(findings)}\n{wire.sent} requests.")
    try:
        if options.json:
            options.json.write_text(report.as_json(findings, url=wire.url, requests=wire.sent) + "\n", encoding="utf-8")
        if options.junit:
            options.junit.write_text(report.as_junit(findings, url=wire.url), encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"The report cannot be written: {error}\n")
        return NOT_EXAMINED
    deciding = Level if options.strict else (Level.MUST,)
    wrong = any(each.verdict.result is Result.FAIL and each.check.level in deciding for each in findings)
    return FAILS if wrong else CONFORMS


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m django_idempotency.conformance",
        description="Send real requests to a server, and say how it treats their idempotency keys.",
        allow_abbrev=False,
    )
    made.add_argument("url", metavar="URL", help="where the server is, like http://127.0.0.1:8000")
    made.add_argument("--request", metavar="FILE", type=Path, required=True, help="JSON that describes the request")
    made.add_argument("--strict", action="store_true", help="fail for a SHOULD or an expectation, too")
    made.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")
    made.add_argument("--json", metavar="FILE", type=Path, help="write the result as JSON")
    made.add_argument("--junit", metavar="FILE", type=Path, help="write the result as JUnit XML")
    made.add_argument("--timeout", metavar="SECONDS", type=positive, default=10.0, help="for an answer (10)")
    made.add_argument("--race", metavar="N", type=racers, default=8, help="copies that are sent at once (8)")
    made.add_argument("--max-requests", metavar="N", type=int, default=300, help="send nothing if it may be more (300)")
    return made


def positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("must be more than 0")
    return number


def racers(text: str) -> int:
    number = int(text)
    if not 2 <= number <= LARGEST_RACE:
        raise argparse.ArgumentTypeError(f"must be from 2 to {LARGEST_RACE}")
    return number


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
