"""
Snapshots of the content of databases, and the changes between two of them, row by row.

Every table is read, also those without a model: so effects are found that a test's author has forgotten.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from json import dumps
from typing import Any

from django.db import connections
from django.test.testcases import DatabaseOperationForbidden  # type: ignore[attr-defined]  # not in the stubs
from django.utils import timezone

from django_idempotency.testing.arguments import texts
from django_idempotency.testing.compare.shapes import UNSEEN, Shape, own_tables, shapes

LARGEST_TABLE = 20_000  # rows
JSON_OID = 114  # on PostgreSQL a column of type json, of which drivers make an object; of jsonb Django has the text
MARGIN = timedelta(minutes=1)  # by which the database's clock may differ from this process's

Row = Mapping[str, Any]  # by column


class TableTooLarge(ValueError):
    """A table has more rows than a snapshot reads. Name it in `ignore`, or raise `limit`."""

    def __init__(self, using: str, table: str, limit: int) -> None:
        super().__init__(
            f"Table {table} of database {using!r} has more than {limit} rows, too many to compare by content: name it"
            " in `ignore`, or raise `limit`."
        )
        self.table = table


@dataclass(frozen=True, slots=True)
class TableName:
    """A table of a database."""

    using: str
    table: str

    def __str__(self) -> str:
        return f"database {self.using!r}, table {self.table}"


@dataclass(frozen=True, slots=True)
class Table:
    """The content of a table: rows by their primary key; without one, by their content and a number."""

    shape: Shape
    rows: Mapping[Any, Row]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The content of databases at one time."""

    tables: Mapping[TableName, Table]
    taken_at: datetime

    def changes(self, after: "Snapshot") -> "Changes":
        """The changes from this snapshot to the one *after* it."""
        tables = {}
        for place in sorted({*self.tables, *after.tables}, key=str):
            change = _table_changes(self.tables.get(place), after.tables.get(place))
            if change:
                tables[place] = change
        return Changes(tables, self.taken_at, after.taken_at)


def snapshot(
    using: str | Iterable[str] | None = None,
    *,
    ignore: str | Iterable[str] = (),
    own: bool = False,
    limit: int = LARGEST_TABLE,
) -> Snapshot:
    """
    Read all rows of the databases *using*: one alias, several, none, or by default all that the test may use.

    It leaves out the tables of sessions, content types and migrations, the tables and columns that *ignore* names
    (`"audit_*"`, `"auth_user.last_seen"`), and without *own* the package's own tables. It sends one statement for each
    table and keeps all rows in memory.

    Raises `TableTooLarge` for a table of more than *limit* rows, and Django's database errors.
    """
    tables: dict[TableName, Table] = {}
    patterns = [*texts(ignore), *UNSEEN, *(() if own else own_tables())]
    for alias in _aliases(using):
        try:
            tables |= _tables(alias, patterns, limit)
        except DatabaseOperationForbidden:
            if using is not None:
                raise
            # The test may not use it, so its requests do not either.
    return Snapshot(tables, datetime.now(UTC))


def _aliases(using: str | Iterable[str] | None) -> list[str]:
    if using is not None:
        return list(texts(using))
    seen: dict[tuple[str, ...], str] = {}
    for alias in connections:
        if connections[alias].vendor == "unknown":  # the project has no database
            continue
        settings = connections[alias].settings_dict
        # In a test a replica is its primary under another name.
        seen.setdefault(tuple(str(settings[name]) for name in ("ENGINE", "NAME", "HOST", "PORT")), alias)
    return list(seen.values())


def _tables(alias: str, ignored: list[str], limit: int) -> dict[TableName, Table]:
    connection = connections[alias]
    tables = {}
    with connection.cursor() as cursor:
        names = connection.introspection.table_names(cursor)
        names = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in ignored)]
        for name, shape in shapes(connection, cursor, names).items():
            quoted = connection.ops.quote_name(name)
            cursor.execute(f"SELECT * FROM {quoted} LIMIT {limit + 1}")  # noqa: S608 a name of the database's own
            columns = [column[0] for column in cursor.description]
            left_out = {
                column
                for column in columns
                if column not in shape.key and any(fnmatchcase(f"{name}.{column}", pattern) for pattern in ignored)
            }
            rows = cursor.fetchall()
            is_json = [connection.vendor == "postgresql" and column[1] == JSON_OID for column in cursor.description]
            if len(rows) > limit:
                raise TableTooLarge(alias, name, limit)
            tables[TableName(alias, name)] = Table(
                shape, _index_rows(_rows(columns, is_json, rows, left_out), shape.key)
            )
    return tables


def _rows(columns: list[str], is_json: list[bool], rows: Iterable[Any], left_out: set[str]) -> Iterator[Row]:
    for values in rows:
        cells = zip(columns, values, is_json, strict=True)
        yield {column: _plain(value, json) for column, value, json in cells if column not in left_out}


def _index_rows(found: Iterable[Row], columns: tuple[str, ...]) -> dict[Any, Row]:
    if columns:
        return {tuple(row[column] for column in columns): row for row in found}
    alike: Counter[Any] = Counter()
    keyed: dict[Any, Row] = {}
    for row in found:
        content = tuple(row.values())
        keyed[content, alike[content]] = row
        alike[content] += 1
    return keyed


def _plain(value: Any, is_json: bool = False) -> Any:
    """A driver's value as one that can be compared, hashed and written again."""
    if isinstance(value, dict) or (is_json and value is not None):
        return dumps(value, default=str)
    if isinstance(value, (memoryview, bytearray)):
        return bytes(value)
    if isinstance(value, list):
        return tuple(map(_plain, value))
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value


# --- changes ---


@dataclass(frozen=True, slots=True)
class TableChanges:
    """The rows of a table that were added, removed, and changed (before and after)."""

    shape: Shape
    added: tuple[Row, ...] = ()
    removed: tuple[Row, ...] = ()
    changed: tuple[tuple[Row, Row], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes between two snapshots, table by table; false if there are none."""

    tables: Mapping[TableName, TableChanges] = field(default_factory=dict)
    since: datetime = field(default_factory=partial(datetime.now, UTC))
    until: datetime = field(default_factory=partial(datetime.now, UTC))

    def __bool__(self) -> bool:
        return bool(self.tables)

    def __str__(self) -> str:
        """A line for each row. New primary keys and random values are marked (new), times of the run (now)."""
        return "\n".join(_lines(self.tables, Window(self.since, self.until))) or "nothing changed"

    def without_times(self) -> "Changes":
        """These changes without the rows in which only a time of the run has changed."""
        window = Window(self.since, self.until)
        tables = {}
        for place, change in self.tables.items():
            changed = tuple(
                (before, after)
                for before, after in change.changed
                if any(
                    before[column] != after[column]
                    and column not in change.shape.stamps
                    and not window.has(after[column])
                    for column in after
                )
            )
            less = TableChanges(change.shape, change.added, change.removed, changed)
            if less:
                tables[place] = less
        return Changes(tables, self.since, self.until)


def _table_changes(before: Table | None, after: Table | None) -> TableChanges:
    shape = (after or before).shape  # type: ignore[union-attr]  # one of the two is there
    old = before.rows if before is not None else {}
    new = after.rows if after is not None else {}
    return TableChanges(
        shape,
        added=tuple(row for key, row in new.items() if key not in old),
        removed=tuple(row for key, row in old.items() if key not in new),
        changed=tuple((old[key], row) for key, row in new.items() if key in old and old[key] != row),
    )


MOST_ROWS = 5  # of a table that are shown
LONGEST_VALUE = 60  # characters


def _lines(tables: Mapping[TableName, TableChanges], window: "Window") -> Iterator[str]:
    for place, change in tables.items():
        lines = [f"  + {_row(row, change.shape, window)}" for row in change.added]
        lines += [f"  - {_row(row)}" for row in change.removed]
        lines += [f"  ~ {_change(change.shape, before, after)}" for before, after in change.changed]
        counts = {"added": change.added, "removed": change.removed, "changed": change.changed}
        yield f"{place}: " + ", ".join(f"{rows(len(what))} {verb}" for verb, what in counts.items() if what)
        yield from lines[:MOST_ROWS]
        if len(lines) > MOST_ROWS:
            yield f"  … and {len(lines) - MOST_ROWS} more"


def rows(count: int) -> str:
    """*count* with its noun."""
    return "1 row" if count == 1 else f"{count} rows"


def _row(row: Row, shape: Shape | None = None, window: "Window | None" = None) -> str:
    parts = []
    for column, value in row.items():
        new = shape is not None and column in shape.made
        now = window is not None and window.has(value)
        parts.append(f"{column}={shown(value)}{' (new)' if new else ' (now)' if now else ''}")
    return ", ".join(parts)


def _change(shape: Shape, before: Row, after: Row) -> str:
    what = ", ".join(f"{column}={shown(before[column])}" for column in shape.key) or "row"
    columns = [column for column in after if before.get(column) != after[column]]
    return f"{what}: " + ", ".join(f"{name} {shown(before.get(name))} -> {shown(after[name])}" for name in columns)


def shown(value: Any) -> str:
    """A value as a message shows it."""
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = str(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


@dataclass(frozen=True, slots=True)
class Window:
    """The time between two snapshots, in which a run has happened."""

    since: datetime
    until: datetime

    def has(self, value: Any) -> bool:
        """Is *value* a time of the run? A naive one may be in UTC or in the project's own zone."""
        if not isinstance(value, datetime):
            return False
        zones = [timezone.get_default_timezone(), UTC]
        times = [value.replace(tzinfo=zone) for zone in zones] if value.tzinfo is None else [value]
        return any(self.since - MARGIN <= each <= self.until + MARGIN for each in times)
