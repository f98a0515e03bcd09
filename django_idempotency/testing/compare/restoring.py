"""Undoes the changes between two snapshots of a test's database, row by row."""

from collections.abc import Iterable, Mapping
from typing import Any

from django.db import connections

from django_idempotency.engine.transactions import atomic_phase
from django_idempotency.testing.compare.snapshots import Changes, Row, TableChanges, TableName


def restore(changes: Changes) -> None:
    """
    Undo *changes*, which must be the latest ones of their tables.

    Each database has one transaction, which checks constraints at its end. Sequences of new primary keys stay where
    they are. Raises Django's database errors if a table prevents it, by a trigger or a generated column.
    """
    for using in sorted({place.using for place in changes.tables}):
        tables = {place: change for place, change in changes.tables.items() if place.using == using}
        connection = connections[using]
        with connection.constraint_checks_disabled():
            atomic_phase(using, lambda using=using, tables=tables: _undo(using, tables))  # type: ignore[misc]


def _undo(using: str, tables: Mapping[TableName, TableChanges]) -> None:
    connection = connections[using]
    quote = connection.ops.quote_name
    # An identity column gets its old number back.
    overriding = " OVERRIDING SYSTEM VALUE" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET CONSTRAINTS ALL DEFERRED")
        for place, change in tables.items():
            for row in change.added:
                where, values = _condition(change, row, quote)
                cursor.execute(f"DELETE FROM {quote(place.table)} WHERE {where}", values)  # noqa: S608 quoted names
        for place, change in tables.items():
            for before, after in change.changed:
                columns = [column for column in before if before[column] != after[column]]
                settings = ", ".join(f"{quote(column)} = %s" for column in columns)
                where, values = _condition(change, after, quote)
                cursor.execute(
                    f"UPDATE {quote(place.table)} SET {settings} WHERE {where}",  # noqa: S608 quoted names
                    [*_sendable(before[column] for column in columns), *values],
                )
        for place, change in tables.items():
            for row in change.removed:
                columns = [*row]
                cursor.execute(
                    f"INSERT INTO {quote(place.table)} ({', '.join(map(quote, columns))})"  # noqa: S608 quoted names
                    f"{overriding} VALUES ({', '.join(['%s'] * len(columns))})",
                    _sendable(row.values()),
                )


def _condition(change: TableChanges, row: Row, quote: Any) -> tuple[str, list[Any]]:
    """The condition that finds *row*: by its primary key, or by all of its values if the table has none."""
    columns = change.shape.key or tuple(row)
    terms = [f"{quote(column)} IS NULL" if row[column] is None else f"{quote(column)} = %s" for column in columns]
    return " AND ".join(terms), _sendable(row[column] for column in columns if row[column] is not None)


def _sendable(values: Iterable[Any]) -> list[Any]:
    # Arrays are kept as tuples, which drivers send as something else.
    return [list(value) if isinstance(value, tuple) else value for value in values]
