"""The statement of observe mode that keeps the first run of an identity, whoever comes later."""

from collections.abc import Callable
from functools import cache
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from django_idempotency.exceptions import PolicyError
from django_idempotency.models import ObservedRun

TABLE = ObservedRun._meta.db_table
VALUES = ("token", "fingerprint", "status", "began_at", "ended_at", "expires_at")  # the last one decides the others


def _clock(vendor: str) -> tuple[str, str, Callable[[float], Any]]:
    """The database's clock, a time relative to it, and how its parameter is made of seconds."""
    match vendor:  # imported here, because a process rarely needs more than one
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
                f"Observe mode does not support {vendor!r}: it knows PostgreSQL, MariaDB, MySQL and SQLite."
            )


def keep_first(
    connection: BaseDatabaseWrapper,
    digest: bytes,
    token: int,
    fingerprint: bytes,
    status: int,
    *,
    began: float,
    ended: float,
    expires: float,
) -> bool | None:
    """
    Keep this run as the first one of *digest*, unless a live one is there already, in one statement in autocommit.

    *began*, *ended* and *expires* are seconds from now. Returns whether it is the first; None if this server cannot
    tell with the statement, and the row has to be read for its *token*.

    Raises `PolicyError` for a database that is not supported, and the database's errors.
    """
    seconds = _clock(connection.vendor)[2]
    returning = bool(connection.features.can_return_columns_from_insert)  # not on MySQL
    times = map(seconds, (began, ended, expires))
    with connection.cursor() as cursor:
        cursor.execute(_statement(connection.vendor, returning), (digest, token, fingerprint, status, *times))
        return bool(cursor.fetchone()[0] == token) if returning else None


@cache
def _statement(vendor: str, returning: bool) -> str:
    now, later, _seconds = _clock(vendor)
    mysql = vendor == "mysql"
    new, old, action = ("VALUES({})", "{}", "DUPLICATE KEY UPDATE") if mysql else (
        "excluded.{}", "kept.{}", "CONFLICT (digest) DO UPDATE SET"
    )  # fmt: skip
    # MySQL assigns from left to right: `expires_at`, by which each is decided, comes last.
    changes = ", ".join(
        f"{name} = CASE WHEN {old.format('expires_at')} <= {now} THEN {new.format(name)} ELSE {old.format(name)} END"
        for name in VALUES
    )
    return (
        f"INSERT INTO {TABLE}{'' if mysql else ' AS kept'} (digest, {', '.join(VALUES)})"
        f" VALUES (%s, %s, %s, %s, {later}, {later}, {later}) ON {action} {changes}"
        f"{' RETURNING token' if returning else ''}"
    )
