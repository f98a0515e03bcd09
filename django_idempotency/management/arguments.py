"""Arguments that several commands take."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import Error, connections

from django_idempotency import conf
from django_idempotency.exceptions import PolicyError
from django_idempotency.management.output import explain
from django_idempotency.operations import locations
from django_idempotency.operations.inventory import databases_in_use, some_are_unknown
from django_idempotency.operations.presentation import visible
from django_idempotency.stores.stored import Location


def add_databases(parser: CommandParser) -> None:
    """Add `--database ALIAS` and `--schema NAME`, which can be repeated."""
    parser.add_argument(
        "--database",
        action="append",
        metavar="ALIAS",
        help="A database to work on; can be repeated. Default: each one that the project is known to keep records in."
        " Name those that a callable option `using` chooses.",
    )
    parser.add_argument(
        "--schema",
        action="append",
        metavar="NAME",
        help="A tenant's schema to work in, if the project keeps tenants in schemas (django-tenants); can be repeated."
        " Default: each schema with the table of records, or the one that the command is run in.",
    )


def choose_databases(options: dict[str, Any], warn: Callable[[str], object]) -> list[Location]:
    """
    The tables that a command works on: those that *options* name, or all that are known; *warn* is called if there may
    be others. Raises `CommandError` for an unknown database or schema, and for a database that does not answer.
    """
    for alias in options["database"] or ():
        if alias not in connections.settings:
            raise CommandError(f"DATABASES has no {visible(alias)!r}; it has {', '.join(connections.settings)}.")
    try:
        if not options["database"] and some_are_unknown():
            warn("A callable option `using` chooses databases that are not known here: name them with --database.")
        schemas = tuple(dict.fromkeys(options["schema"] or ()))
        found: list[Location] = []
        for alias in dict.fromkeys(options["database"] or databases_in_use()):
            try:
                found += locations.tables(alias, schemas)
            except LookupError as error:
                raise CommandError(f"--schema: {visible(str(error.args[0]))}") from error
            except Error as error:
                raise CommandError(explain(f"database {alias!r}", error)) from error
        return found
    except PolicyError as error:
        raise CommandError(visible(str(error))) from error


def add_locations(parser: CommandParser) -> None:
    """Add `--store ALIAS` and the arguments of `add_databases`, which can be repeated."""
    parser.add_argument(
        "--store",
        action="append",
        metavar="ALIAS",
        help="A store to ask; can be repeated. Default: all of them, or with --database those of the databases.",
    )
    add_databases(parser)


def choose_locations(options: dict[str, Any], warn: Callable[[str], object]) -> list[Location]:
    """
    The tables and the other stores that a command asks: those that *options* name, or all that are known. Raises as
    `choose_databases` does, and for a store that is not configured or whose setting is wrong.
    """
    named: list[str] | None = options["store"]
    databases_are_named = bool(options["database"] or options["schema"])
    try:
        for alias in named or ():
            if alias not in conf.stores():
                raise CommandError(f"STORES has no {visible(alias)!r}; it has {', '.join(conf.stores())}.")
        others = locations.others()
    except PolicyError as error:
        raise CommandError(visible(str(error))) from error
    if named:
        chosen = [others[alias] for alias in dict.fromkeys(named) if alias in others]
        in_databases = databases_are_named or any(alias not in others for alias in named)
    else:
        chosen = [] if databases_are_named else list(others.values())
        in_databases = True
    return [*(choose_databases(options, warn) if in_databases else ()), *chosen]


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
    """A type for argparse: the digest of an identity as logs show it."""
    if not locations.IDENTITY.fullmatch(text):
        raise ArgumentTypeError(f"must be an identity of 64 hexadecimal digits, as logs show it, not '{visible(text)}'")
    return bytes.fromhex(text)
