"""
Compares the changes of two runs of the same work, except for what differs in every run: numbers and random keys of new
rows, references to them, and times.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any
from uuid import UUID

from django_idempotency.testing.arguments import texts
from django_idempotency.testing.compare.snapshots import Changes, Row, TableChanges, TableName, Window, shown

NEW, NOW, KEY = "(new)", "(now)", "(key)"

Content = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """*what* happened *found* times at *place* instead of *expected* times; or it differs as *how* says."""

    place: str
    what: str
    found: int = 1
    expected: int = 1
    how: str = ""

    def __str__(self) -> str:
        how = self.how or f"{format_times(self.found)} instead of {format_times(self.expected)}"
        return ": ".join(filter(None, (self.place, self.what, how)))


def format_times(count: int) -> str:
    """The adverb for *count*: never, once, twice, 3 times."""
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def equivalent(changes: Changes, others: Changes, **more: Any) -> bool:
    """Did two runs make the same changes? *more* are the options of `differences`."""
    return not differences(changes, others, **more)


def differences(
    found: Changes, expected: Changes, *, keys: str | Iterable[str] = (), ignore: str | Iterable[str] = ()
) -> list[Difference]:
    """
    The differences between the changes of one run and the *expected* ones; empty if they are equivalent. `str` makes a
    sentence of each.

    New rows are compared by content; a reference to another new row stands for that row's content, not for its number.
    Numbers and random keys of new rows and times of the run are not compared. In older rows, numbers are compared by
    how much they changed. *keys* are the idempotency keys of the two runs, which may occur in strings. *ignore* names
    tables or columns (`"audit_*"`, `"shop_payment.gateway_id"`) to leave out.
    """
    wanted, seen = (contents(changes, keys=keys, ignore=ignore) for changes in (expected, found))
    places = sorted({*wanted, *seen}, key=str)
    return [each for place in places for each in count_differences(place, wanted.get(place, []), seen.get(place, []))]


def count_differences(place: TableName, expected: list[Content], found: list[Content]) -> Iterator[Difference]:
    """The contents that one table has more or less often than *expected*."""
    wanted, seen = Counter(expected), Counter(found)
    for content in dict.fromkeys([*expected, *found]):
        if wanted[content] != seen[content]:
            yield Difference(
                place=str(place), what=format_content(content), found=seen[content], expected=wanted[content]
            )


def contents(
    changes: Changes, *, keys: str | Iterable[str] = (), ignore: str | Iterable[str] = ()
) -> dict[TableName, list[Content]]:
    """The changes of one run: a value for each row, equal to another run's value if the rows are equivalent."""
    run = _Comparable(changes, texts(keys), texts(ignore))
    places = [place for place in changes.tables if not _is_ignored(place.table, run.ignored)]
    return {place: rows for place in places if (rows := [*run.contents(place)])}


def _is_ignored(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def format_content(content: Content) -> str:
    """Describe what happened to a row."""
    verb, *columns = content
    return f"{verb} {', '.join(f'{name}={_value(value)}' for name, value in columns)}"


def _value(value: Any) -> str:
    if isinstance(value, tuple) and value[:1] == (NEW,):
        return "(a new row)" if len(value) > 1 else NEW
    if isinstance(value, tuple) and len(value) == 3 and value[1] == "->":
        return f"{shown(value[0])} -> {_value(value[2])}"
    return shown(value)


class _Comparable:
    """The changes of one run, in a form that can be compared with another run's."""

    def __init__(self, changes: Changes, keys: Iterable[str], ignored: tuple[str, ...]) -> None:
        self.changes = changes
        self.keys = sorted(keys, key=len, reverse=True)
        self.ignored = ignored
        self.window = Window(changes.since, changes.until)
        self.new_numbers = {
            spelling
            for change in changes.tables.values()
            for row in change.added
            for column in change.shape.key
            if column in change.shape.made
            for spelling in _spellings(row[column])
        }

    def contents(self, place: TableName) -> Iterator[Content]:
        """A value for each row of *place* that was added, removed or changed."""
        change = self.changes.tables.get(place)
        if change is None:
            return
        for row in change.added:
            yield ("added", *self._content(place, change, row, ()))
        for row in change.removed:
            yield ("removed", *((column, row[column]) for column in row if not self._leaves_out(place, column)))
        for before, after in change.changed:
            columns = [
                (column, self._step(place, change, column, before[column], after[column]))
                for column in after
                if before.get(column) != after[column] and not self._leaves_out(place, column)
            ]
            if columns:
                yield ("changed", *((column, before[column]) for column in change.shape.key), *columns)

    def _leaves_out(self, place: TableName, column: str) -> bool:
        return _is_ignored(f"{place.table}.{column}", self.ignored)

    def _content(
        self, place: TableName, change: TableChanges, row: Row, trail: tuple[Any, ...]
    ) -> Iterator[tuple[str, Any]]:
        for column, value in row.items():
            if not self._leaves_out(place, column):
                yield column, self._plain(place, change, column, value, trail)

    def _plain(
        self, place: TableName, change: TableChanges, column: str, value: Any, trail: tuple[Any, ...] = ()
    ) -> Any:
        """A value that a run has written, without what differs in every run."""
        if value is None:
            return None
        shape = change.shape
        if column in shape.references:
            table, target = shape.references[column]
            there = TableName(place.using, table)
            for row in self.changes.tables.get(there, TableChanges(shape)).added:
                if row.get(target) == value:
                    if (there, value) in trail:
                        return (NEW,)  # rows that refer to each other
                    content = self._content(there, self.changes.tables[there], row, (*trail, (there, value)))
                    return (NEW, table, *content)
            return value
        if column in shape.generic and str(value) in self.new_numbers:
            return (NEW,)
        if column in shape.made:
            return (NEW,)
        if column in shape.stamps or self.window.has(value):
            return NOW
        if isinstance(value, str):
            for key in self.keys:
                value = value.replace(key, KEY)
        return value

    def _step(self, place: TableName, change: TableChanges, column: str, before: Any, after: Any) -> Any:
        """How a value of an older row has changed."""
        if _is_number(before) and _is_number(after) and column not in change.shape.references:
            return f"{after - before:+}"
        after = self._plain(place, change, column, after)
        return NOW if after == NOW else (before, "->", after)


def _spellings(value: Any) -> set[str]:
    """*value* as a string; a UUID in both spellings that databases use."""
    try:
        found = UUID(str(value))
    except ValueError:
        return {str(value)}
    return {str(found), found.hex}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
