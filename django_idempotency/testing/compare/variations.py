"""
Finds what differs in every run of a call (random values, copies of a number, salted passwords) by two undisturbed runs,
and explains how a third run differs apart from that.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from django_idempotency.testing.compare.equivalence import (
    Content,
    Difference,
    contents,
    count_differences,
    format_content,
)
from django_idempotency.testing.compare.snapshots import Changes, Row, TableChanges, TableName

BEFORE, VARIES = "(before)", "(varies)"
STEP = re.compile(r"[+-]\d+(\.\d+)?(e[+-]?\d+)?", re.IGNORECASE)  # by how much a number has changed

Column = tuple[TableName, str]


def find_varying(first: Changes, second: Changes, **more: Any) -> frozenset[Column]:
    """
    The columns in which two runs from the same state differ. *more* are the options of `differences`.

    A table of which the runs changed different numbers of rows has none. A reference counts only if the rows that it
    leads to differ in more than the columns found so far.
    """
    found: set[Column] = set()
    while True:
        one, other = contents(mask(first, found), **more), contents(mask(second, found), **more)
        differing = {
            (place, column)
            for place in one.keys() & other.keys()
            for column in _columns(*_unmatched(one[place], other[place]))
        } - found
        new = {(place, column) for place, column in differing if column not in first.tables[place].shape.references}
        if not differing:
            return frozenset(found)
        found |= new or differing


def mask(changes: Changes, columns: Iterable[Column]) -> Changes:
    """*changes* with the values of *columns* masked. All rows stay."""
    tables = {}
    for place, change in changes.tables.items():
        names = {column for there, column in columns if there == place}
        tables[place] = TableChanges(
            change.shape,
            added=tuple(_mask_row(row, names, VARIES) for row in change.added),
            removed=tuple(_mask_row(row, names, VARIES) for row in change.removed),
            changed=tuple(
                (_mask_row(before, names, BEFORE), _mask_row(after, names, VARIES)) for before, after in change.changed
            ),
        )
    return Changes(tables, changes.since, changes.until)


def explain_differences(found: Changes, expected: Changes, **more: Any) -> list[Difference]:
    """
    As `differences`, but more is said of rows that come in pairs: a number that changed by a multiple was changed more
    than once, and other rows differ in a column and are neither missing nor doubled.
    """
    wanted, seen = contents(expected, **more), contents(found, **more)
    places = sorted({*wanted, *seen}, key=str)
    return [each for place in places for each in _explain(place, wanted.get(place, []), seen.get(place, []))]


def _explain(place: TableName, wanted: list[Content], seen: list[Content]) -> Iterator[Difference]:
    missing, extra = _unmatched(wanted, seen)
    columns = _columns(missing, extra)
    if not columns:
        yield from count_differences(place, wanted, seen)
        return
    for one, other in zip(missing, extra, strict=True):
        again = _how_often(one, other)
        if again:
            yield Difference(place=str(place), what=format_content(one), found=again)
            continue
        for column in sorted(columns):
            how = f"differs in column {column}: name `{place.table}.{column}` in `ignore` if it may"
            yield Difference(place=str(place), what=format_content(one), how=how)


def _mask_row(row: Row, columns: set[str], mask: str) -> Row:
    return {column: mask if column in columns else value for column, value in row.items()}


def _unmatched(wanted: list[Content], seen: list[Content]) -> tuple[list[Content], list[Content]]:
    """The contents that only one of the two has, in the same order, so that similar rows pair up."""
    one, other = Counter(wanted), Counter(seen)
    return sorted((one - other).elements(), key=repr), sorted((other - one).elements(), key=repr)


def _columns(missing: list[Content], extra: list[Content]) -> set[str]:
    """The columns in which the rows differ, if they come in pairs."""
    if Counter(verb for verb, *_ in missing) != Counter(verb for verb, *_ in extra):
        return set()
    one, other = (Counter(pair for _, *pairs in rows for pair in pairs) for rows in (missing, extra))
    differing = {column for column, _ in (*(one - other), *(other - one))}
    if differing:
        return differing
    # The same values, but in other rows.
    paired = zip(missing, extra, strict=True)
    return {column for (_, *mine), (_, *others) in paired for column, _ in {*mine} ^ {*others}}


def _how_often(wanted: Content, seen: Content) -> int:
    """How many times *seen* does what *wanted* does once, if both only change numbers; or 0."""
    if wanted[0] != "changed" or len(wanted) != len(seen):
        return 0
    ratios = set()
    for one, other in zip(wanted[1:], seen[1:], strict=True):
        if one == other:
            continue
        (column, value), (same, found) = one, other
        if column != same or not (_is_step(value) and _is_step(found)) or not Decimal(value):
            return 0
        ratios.add(Decimal(found) / Decimal(value))
    ratio = ratios.pop() if len(ratios) == 1 else Decimal(0)
    return int(ratio) if ratio == int(ratio) and ratio > 1 else 0


def _is_step(value: Any) -> bool:
    return isinstance(value, str) and STEP.fullmatch(value) is not None
