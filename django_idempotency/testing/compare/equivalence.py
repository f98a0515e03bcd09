"""
Two runs of the same work compared by what they changed, "modulo" what differs by itself: the numbers and random keys
that new rows get, references to them, and the time of day.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any
from uuid import UUID

from django_idempotency.testing.arguments import texts
from django_idempotency.testing.compare.snapshots import Changes, Place, Row, TableChanges, Window, shown

NEW, NOW, KEY = "(new)", "(now)", "(key)"

Content = tuple[Any, ...]


def equivalent(changes: Changes, others: Changes, **more: Any) -> bool:
    """Did two runs change the same? *more* as `differences` takes it."""
    return not differences(changes, others, **more)


def differences(
    found: Changes, expected: Changes, *, keys: str | Iterable[str] = (), ignore: str | Iterable[str] = ()
) -> list[str]:
    """
    In words, what one run changed otherwise than the run that is *expected*; nothing where the two are equivalent.

    New rows compare by content, and where one refers to another new row, that one's content counts, not its number.
    Numbers and random keys that a row got, and times of the run itself, are not compared. Of a row that was there
    before both runs, numbers compare by how much they changed. *keys* are the idempotency keys of the two runs, which
    may stand in a text. *ignore* names tables or columns (`"audit_*"`, `"shop_payment.gateway_id"`) to leave out.
    """
    places = {str(place): place for place in (*expected.tables, *found.tables)}
    patterns, known = texts(ignore), texts(keys)
    first, other = _Run(expected, known, patterns), _Run(found, known, patterns)
    told = []
    for name in sorted(places):
        place = places[name]
        if _is_ignored(place.table, patterns):
            continue
        wanted, seen = Counter(first.contents(place)), Counter(other.contents(place))
        for content in [*wanted, *(content for content in seen if content not in wanted)]:
            if wanted[content] != seen[content]:
                told.append(f"{place}: {spelt(content)}: {_times(seen[content])} instead of {_times(wanted[content])}")
    return told


def contents(
    changes: Changes, *, keys: str | Iterable[str] = (), ignore: str | Iterable[str] = ()
) -> dict[Place, list[Content]]:
    """What one run changed: for each row a value, equal to another run's where `differences` finds none."""
    run = _Run(changes, texts(keys), texts(ignore))
    places = [place for place in changes.tables if not _is_ignored(place.table, run.ignored)]
    return {place: rows for place in places if (rows := [*run.contents(place)])}


def _is_ignored(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def spelt(content: Content) -> str:
    """What happened to a row, in words."""
    verb, *columns = content
    return f"{verb} {', '.join(f'{name}={_value(value)}' for name, value in columns)}"


def _value(value: Any) -> str:
    if isinstance(value, tuple) and value[:1] == (NEW,):
        return "(a new row)" if len(value) > 1 else NEW
    if isinstance(value, tuple) and len(value) == 3 and value[1] == "->":
        return f"{shown(value[0])} -> {_value(value[2])}"
    return shown(value)


class _Run:
    """What one run changed, in a form that another run can be compared with."""

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

    def contents(self, place: Place) -> Iterator[Content]:
        """A value for each row of *place* that was added, removed or changed; equal where the rows are equivalent."""
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

    def _leaves_out(self, place: Place, column: str) -> bool:
        return _is_ignored(f"{place.table}.{column}", self.ignored)

    def _content(
        self, place: Place, change: TableChanges, row: Row, trail: tuple[Any, ...]
    ) -> Iterator[tuple[str, Any]]:
        for column, value in row.items():
            if not self._leaves_out(place, column):
                yield column, self._plain(place, change, column, value, trail)

    def _plain(self, place: Place, change: TableChanges, column: str, value: Any, trail: tuple[Any, ...] = ()) -> Any:
        """A value that a run has written, without what differs from run to run."""
        if value is None:
            return None
        shape = change.shape
        if column in shape.references:
            table, target = shape.references[column]
            there = Place(place.using, table)
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

    def _step(self, place: Place, change: TableChanges, column: str, before: Any, after: Any) -> Any:
        """How a value of a row that was there before has changed."""
        if _is_number(before) and _is_number(after) and column not in change.shape.references:
            return f"{after - before:+}"
        after = self._plain(place, change, column, after)
        return NOW if after == NOW else (before, "->", after)


def _spellings(value: Any) -> set[str]:
    """*value* as a text; a UUID, which databases keep in two ways, as both."""
    try:
        told = UUID(str(value))
    except ValueError:
        return {str(value)}
    return {str(told), told.hex}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
