"""Arguments that several commands take, and the words for an error of a database."""

from argparse import ArgumentTypeError
from collections.abc import Callable

from django.core.management.base import CommandError, CommandParser
from django.db import connections

from django_idempotency.databases import databases_in_use, some_are_unknown
from django_idempotency.models import IdempotencyRecord
from django_idempotency.presentation import visible


def add_database(parser: CommandParser) -> None:
    """`--database ALIAS`, which can be given several times."""
    parser.add_argument(
        "--database",
        action="append",
        metavar="ALIAS",
        help="A database to work on; can be given several times. Default: each one that the project is known to keep"
        " records in. Name those that a callable option `using` chooses.",
    )


def chosen_databases(named: list[str] | None, warn: Callable[[str], object]) -> tuple[str, ...]:
    """
    The databases that a command works on: those *named*, or all that are known to hold records. *warn* hears of others
    that there may be. Raises `CommandError` for an alias that is not configured.
    """
    if not named:
        if some_are_unknown():
            warn("A callable option `using` chooses databases that are not known here: name them with --database.")
        return databases_in_use()
    for alias in named:
        if alias not in connections.settings:
            known = ", ".join(connections.settings)
            raise CommandError(f"DATABASES has no {visible(alias)!r}; it has {known}.")
    return tuple(dict.fromkeys(named))


def told(using: str, error: Exception) -> str:
    """What *error*, met in the database *using*, is to whoever typed the command."""
    words = f"Database {using!r}: {visible(str(error).strip())}"
    missing = IdempotencyRecord._meta.db_table in words
    return f"{words} Has `manage.py migrate` created its table?" if missing else words


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    """A type for argparse: a whole number from *lowest* to *highest*."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = lowest - 1
        if not lowest <= number <= highest:
            raise ArgumentTypeError(f"must be a whole number from {lowest} to {highest}, not '{visible(text)}'")
        return number

    return parse


def seconds(text: str) -> float:
    """A type for argparse: a time in seconds, more than 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ArgumentTypeError(f"must be a number of seconds, more than 0, not '{visible(text)}'")
    return value
