"""Rows of the table as operators see them, whichever store wrote them."""

from typing import Any

from django_idempotency.models import UNSETTLED, RecordQuerySet
from django_idempotency.stores.database.clock import in_utc
from django_idempotency.stores.stored import Location, StoredRecord

ASKED = ("digest", "scope", "operation", "key", "fingerprint", "request", "request_id", "status")
ANSWERED = ("head", "body")
TIMES = ("executed_at", "expires_at", "uncertain_until")


def read_rows(location: Location, records: RecordQuerySet, *, response: bool = True) -> list[StoredRecord]:
    """The *records* of *location*, in their order. Without *response* headers and bodies are not read, and empty."""
    columns = [*ASKED, *(ANSWERED if response else ())]
    rows: list[dict[str, Any]] = list(records.with_state().values(*columns, *TIMES, "now", "ended", "is_in_flight"))
    for row in rows:
        row |= {name: row[name] and in_utc(records.db, row[name]) for name in (*TIMES, "now")}
        uncertain_until = row.pop("uncertain_until")
        if row["status"] == UNSETTLED:
            row["expires_at"] = uncertain_until
        row |= {name: bytes(row[name]) for name in columns if isinstance(row[name], memoryview)}  # psycopg2's
    return [StoredRecord(**row, location=location) for row in rows]
