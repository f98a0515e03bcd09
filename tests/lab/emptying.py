"""
Tables emptied after a test that commits.

Django's `flush` makes every content type and permission anew each time, and PostgreSQL's TRUNCATE makes the files of
every table anew: of the suite's time that was a third.
"""

from typing import Any

from django.core.management.color import no_style
from django.db import connections
from django.db.transaction import atomic
from django.test import TransactionTestCase

KEPT = ("auth_permission", "django_content_type")  # filled by `migrate`
set_up, flush = TransactionTestCase._fixture_setup, TransactionTestCase._fixture_teardown
filled: dict[str, tuple[int, ...]] = {}  # how many rows those have, by the alias of the database


def install() -> None:
    """Empty the tables ourselves from now on."""
    TransactionTestCase._fixture_setup = classmethod(fixture_setup)
    TransactionTestCase._fixture_teardown = fixture_teardown


def fixture_setup(case: type[TransactionTestCase]) -> None:
    set_up.__func__(case)
    for alias in set(case._databases_names(include_mirrors=False)) - filled.keys():
        filled[alias] = rows_of_kept(connections[alias])


def fixture_teardown(self: TransactionTestCase) -> None:
    if not all(empty(connections[alias]) for alias in self._databases_names(include_mirrors=False)):
        flush(self)


def empty(connection: Any) -> bool:
    """Delete all rows but those of `migrate`. Returns False if the test has changed these."""
    tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
    if not set(KEPT) <= set(tables) or rows_of_kept(connection) != filled[connection.alias]:
        return False
    tables = sorted(set(tables) - set(KEPT))
    statements = connection.ops.sql_flush(no_style(), tables, reset_sequences=False)
    if connection.vendor == "postgresql":
        quoted = [connection.ops.quote_name(table) for table in tables]
        # As TRUNCATE, it waits for the end of whoever writes: of processes that were killed, too.
        locked = f"LOCK TABLE {', '.join(quoted)} IN SHARE ROW EXCLUSIVE MODE"
        statements = ["; ".join([locked, *(f"DELETE FROM {table}" for table in quoted)])]
    with atomic(using=connection.alias), connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    return True


def rows_of_kept(connection: Any) -> tuple[int, ...]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT " + ", ".join(f"(SELECT COUNT(*) FROM {table})" for table in KEPT))
        return tuple(cursor.fetchone())
