"""The statement of observe mode that keeps the first run of an identity, whoever comes later."""

from functools import cache

from django.db.backends.base.base import BaseDatabaseWrapper

from django_idempotency.models import ObservedRun
from django_idempotency.stores.database.dialects import clock_of

TABLE = ObservedRun._meta.db_table
VALUES = ("token", "fingerprint", "status", "began_at", "ended_at", "expires_at")  # the last one decides the others


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
    seconds = clock_of(connection.vendor)[2]
    returning = bool(connection.features.can_return_columns_from_insert)  # not on MySQL
    times = map(seconds, (began, ended, expires))
    with connection.cursor() as cursor:
        cursor.execute(_statement(connection.vendor, returning), (digest, token, fingerprint, status, *times))
        return bool(cursor.fetchone()[0] == token) if returning else None


@cache
def _statement(vendor: str, returning: bool) -> str:
    now, later, _seconds = clock_of(vendor)
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
