"""Counts in memory until they are written: bounded, and exact over all threads of a process."""

import threading
import time

from django_idempotency.core.keys import MAX_STRING

HOUR = 3600  # seconds
MAX_OPERATIONS = 256  # named by one process in one hour; a callable may make up a new one for each request
MAX_ROWS = 1024  # kept in memory while they cannot be written
OTHER = "(other)"  # the operation of what is counted past MAX_OPERATIONS

DECISIONS = (
    "executions",
    "replays",
    "conflicts",
    "mismatches",
    "unknown_outcomes",
    "unavailable",
    "other_refusals",
    "forgotten",
    "unsettled",
    "ignored",
)
OF_DECISION = {
    "executed": "executions",
    "replayed": "replays",
    "forgotten": "forgotten",
    "unsettled": "unsettled",
    # refusals, by their code
    "request-in-progress": "conflicts",
    "key-reused": "mismatches",
    "outcome-unknown": "unknown_outcomes",
    "store-unavailable": "unavailable",
    "key-ignored": "ignored",  # where it is warned of, too
}
# Of observe mode. The others are some of those that are `observed`, but for `would_refuse`.
OBSERVATIONS = ("observed", "would_replay", "would_conflict", "would_mismatch", "would_refuse", "ran_twice")
COLUMNS = (*DECISIONS, *OBSERVATIONS)

Table = tuple[str, str | None]  # database alias, schema of a tenant
Row = tuple[Table, int, str]  # table, hour, operation
Rows = dict[Row, list[int]]  # the numbers in the order of COLUMNS


class Tally:
    """The counts of all threads. MAX_OPERATIONS and MAX_ROWS bound its size."""

    def __init__(self) -> None:
        self.rows: Rows = {}
        self._lock = threading.Lock()
        self._hour = 0
        self._names: set[tuple[Table, str]] = set()  # with their operations, of this hour
        self._dropped = 0

    def add(self, table: Table, operation: str, position: int) -> None:
        hour = int(time.time()) // HOUR
        with self._lock:
            row = self.rows.get((table, hour, operation))
            if row is None:
                row = self._new_row(table, hour, operation)
            row[position] += 1

    def _new_row(self, table: Table, hour: int, operation: str) -> list[int]:
        if hour != self._hour:
            self._hour = hour
            self._names.clear()
        operation = operation[:MAX_STRING]
        if (table, operation) not in self._names:
            if len(self._names) < MAX_OPERATIONS:
                self._names.add((table, operation))
            else:
                operation = OTHER
        return self._row((table, hour, operation))

    def _row(self, key: Row, additions: int = 1) -> list[int]:
        row = self.rows.get(key)
        if row is not None:
            return row
        row = [0] * len(COLUMNS)
        if len(self.rows) < MAX_ROWS:
            self.rows[key] = row
        else:
            self._dropped += additions
        return row

    def take(self) -> tuple[Rows, int]:
        """Take all numbers out. Returns them, and how many additions found no room."""
        with self._lock:
            rows, self.rows = self.rows, {}
            dropped, self._dropped = self._dropped, 0
        return rows, dropped

    def put_back(self, rows: Rows) -> None:
        """Add *rows*, which could not be written, to the counts since."""
        with self._lock:
            for key, numbers in rows.items():
                row = self._row(key, sum(numbers))
                row[:] = map(sum, zip(row, numbers, strict=True))
