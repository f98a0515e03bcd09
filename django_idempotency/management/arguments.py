"""Arguments that several commands take, and the words for an error of a server."""

import re
from argparse import ArgumentTypeError
from collections.abc import Callable

from django.core.management.base import CommandError, CommandParser
from django.db import connections

from django_idempotency import conf
from django_idempotency.exceptions import PolicyError
from django_idempotency.models import IdempotencyRecord
from django_idempotency.operations import locations
from django_idempotency.operations.inventory import databases_in_use, some_are_unknown
from django_idempotency.operations.locations import Place
from django_idempotency.operations.presentation import visible

IDENTITY = re.compile(r"[0-9a-fA-F]{64}")


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


def add_places(parser: CommandParser) -> None:
    """`--store ALIAS` and `--database ALIAS`, which can be given several times."""
    parser.add_argument(
        "--store",
        action="append",
        metavar="ALIAS",
        help="A store to ask; can be given several times. Default: all of them, or with --database those of the"
        " databases.",
    )
    add_database(parser)


def chosen_places(
    named_stores: list[str] | None, named_databases: list[str] | None, warn: Callable[[str], object]
) -> list[Place]:
    """
    The databases and the other stores that a command asks: all that are known, or those named. Raises `CommandError`
    for an alias that is not configured, and for a store that cannot be made.
    """
    try:
        for alias in named_stores or ():
            if alias not in conf.stores():
                raise CommandError(f"STORES has no {visible(alias)!r}; it has {', '.join(conf.stores())}.")
        others = locations.others()
        if named_stores:
            chosen = [others[alias] for alias in dict.fromkeys(named_stores) if alias in others]
            in_databases = bool(named_databases) or any(alias not in others for alias in named_stores)
        else:
            chosen = [] if named_databases else list(others.values())
            in_databases = True
        databases = chosen_databases(named_databases, warn) if in_databases else ()
        return [*locations.tables(databases), *chosen]
    except PolicyError as error:
        raise CommandError(visible(str(error))) from error


def told(place: str | Place, error: Exception) -> str:
    """What *error*, met in a database (or its alias) or a store, is to whoever typed the command."""
    name = f"database {place!r}" if isinstance(place, str) else str(place)
    words = f"{name[0].upper()}{name[1:]}: {visible(str(error).strip()) or type(error).__name__}"
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


def identity(text: str) -> bytes:
    """A type for argparse: an identity, as logs show it; its digest."""
    if not IDENTITY.fullmatch(text):
        raise ArgumentTypeError(f"must be an identity of 64 hexadecimal digits, as logs show it, not '{visible(text)}'")
    return bytes.fromhex(text)
