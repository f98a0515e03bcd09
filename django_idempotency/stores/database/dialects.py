"""Chooses the dialect for a connection's server."""

import logging
from collections.abc import Callable
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from django_idempotency.exceptions import PolicyError
from django_idempotency.stores.database.dialect import Dialect
from django_idempotency.stores.database.engines import other_engine

logger = logging.getLogger("django_idempotency")

SUPPORTED = ("postgresql", "mysql", "sqlite")  # Django's vendors; MariaDB's is "mysql"


def dialect_for(connection: BaseDatabaseWrapper, *, connect: bool = True, fold: bool = True) -> Dialect:
    """
    Make the dialect of this connection's server. Without *connect* no server is asked, and the dialect can only
    classify errors. *fold* allows BEGIN and COMMIT to be sent with our statements, if the driver can.

    Raises `PolicyError` for a database that is not supported.
    """
    if connect:
        connection.ensure_connection()
        _check_engine(connection)
    # Imported here, because a process rarely needs more than one.
    match connection.vendor:
        case "postgresql":
            from django_idempotency.stores.database.folded import FoldedPostgreSQL, can_fold
            from django_idempotency.stores.database.postgresql import PostgreSQL, has_functions

            kind = FoldedPostgreSQL if fold and can_fold(connection) else PostgreSQL
            return kind(by_function=connect and _outlives_requests(connection) and has_functions(connection))
        case "mysql":
            from django_idempotency.stores.database.innodb import FOLDED, PLAIN, found_on
            from django_idempotency.stores.database.mariadb import ON_GALERA, MariaDB
            from django_idempotency.stores.database.mysql import MySQL, has_slots

            if not connect:
                return MySQL()
            # Not asked on Django's cursor, because these are no statements of a request.
            with connection.wrap_database_errors, connection.connection.cursor() as cursor:
                is_mariadb = connection.mysql_is_mariadb  # type: ignore[attr-defined]
                found = found_on(cursor, ON_GALERA if is_mariadb else "")
                by_procedure = found.issuperset(PLAIN)
                begins = fold and by_procedure and found.issuperset(FOLDED)
                if is_mariadb:
                    on_galera = "wsrep_on" in found
                    return MariaDB(by_procedure=by_procedure, begins=begins, on_galera=on_galera)
                slots = has_slots(cursor)
            return MySQL(by_procedure=by_procedure and slots, begins=begins and slots, has_slots=slots)
        case "sqlite":
            from django_idempotency.stores.database.sqlite import SQLite

            return SQLite()
        case vendor:
            raise PolicyError(
                f"The DatabaseStore does not support {vendor!r} (database {connection.alias!r}):"
                " it knows PostgreSQL, MariaDB, MySQL and SQLite."
            )


def _check_engine(connection: BaseDatabaseWrapper) -> None:
    if connection.vendor not in ("postgresql", "mysql"):
        return
    # Not asked on Django's cursor, because it is no statement of a request.
    with connection.wrap_database_errors, connection.connection.cursor() as cursor:
        engine = other_engine(connection.vendor, cursor)
    if engine is None:
        return
    if engine.is_refused:
        raise PolicyError(
            f"The DatabaseStore does not support {engine.name} (database {connection.alias!r}), whose locks or"
            " transactions are other than those of PostgreSQL and MySQL. Let the option `using` name a database of"
            " PostgreSQL, MariaDB, MySQL or SQLite."
        )
    logger.warning(
        "Database %r is %s, on which the package was never run: of two requests with one key both handlers may run,"
        " and one of them fails at COMMIT.", connection.alias, engine.name,
    )  # fmt: skip


def clock_of(vendor: str) -> tuple[str, str, Callable[[float], Any]]:
    """
    The database's clock, a time relative to it, and how its parameter is made of seconds. Raises `PolicyError` for a
    database that is not supported.
    """
    match vendor:
        case "postgresql":
            from django_idempotency.stores.database.postgresql import PostgreSQL

            return PostgreSQL.NOW, PostgreSQL.LATER, float
        case "mysql":
            from django_idempotency.stores.database.innodb import InnoDB

            return InnoDB.NOW, InnoDB.LATER, lambda seconds: round(seconds * 1_000_000)
        case "sqlite":
            from django_idempotency.stores.database.sqlite import SQLite

            return SQLite.NOW, SQLite.LATER, lambda seconds: f"{seconds:+f} seconds"
        case _:
            raise PolicyError(
                f"The database {vendor!r} is not supported: PostgreSQL, MariaDB, MySQL and SQLite are known."
            )


def _outlives_requests(connection: BaseDatabaseWrapper) -> bool:
    """
    Does the connection serve more than one request, so that the server parses a function once for all of them?

    On a connection that is new for each request, PostgreSQL's functions take longer than the statements in them.
    """
    settings = connection.settings_dict
    return settings["CONN_MAX_AGE"] != 0 or bool(settings["OPTIONS"].get("pool"))
