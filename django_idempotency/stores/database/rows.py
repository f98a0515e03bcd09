"""Rows of the table as operators see them, whichever store wrote them."""

import logging
from typing import Any

from django_idempotency.exceptions import StoreUnavailable
from django_idempotency.models import RUN_COLUMNS, UNSETTLED, IdempotencyRecord, RecordQuerySet
from django_idempotency.stores.database.clock import in_utc
from django_idempotency.stores.database.phased import UNREADABLE, read_progress
from django_idempotency.stores.stored import Location, StoredRecord, StoredRun, open_fields

logger = logging.getLogger("django_idempotency")

ASKED = ("digest", "scope", "operation", "key", "fingerprint", "request", "request_id", "status")
ANSWERED = ("head", "body")
TIMES = ("executed_at", "expires_at", "uncertain_until")
STATE = ("now", "ended", "is_in_flight", "is_interrupted")
OF_RUN = (*(f"run_{name}" for name in RUN_COLUMNS), *(f"claim_{name}" for name in ANSWERED))
MANY = 500  # digests in one statement; SQLite takes no more than 999


def read_rows(location: Location, records: RecordQuerySet, *, response: bool = True) -> list[StoredRecord]:
    """
    The *records* of *location*, in their order. Without *response* headers and bodies are not read, and empty, and the
    results of phases are left out.
    """
    columns = (*ASKED, *(ANSWERED if response else ()), *TIMES, *STATE)
    rows: list[dict[str, Any]] = list(records.with_state().values(*columns))
    claims = [row["digest"] for row in rows if row["status"] == UNSETTLED]
    found: dict[bytes, dict[str, Any]] = {}
    for first in range(0, len(claims), MANY):
        # A statement of its own, which reads claims whole, because most records are no claims.
        again = IdempotencyRecord.objects.using(records.db).filter(digest__in=claims[first : first + MANY])
        found |= {bytes(row["digest"]): row for row in again.with_state().with_run().values(*columns, *OF_RUN)}
    stored = []
    for row in rows:
        read = found.get(bytes(row["digest"])) if row["status"] == UNSETTLED else row
        if read is not None:  # it may have been freed between the two
            stored.append(_stored(location, records.db, read, response=response))
    return stored


def _stored(location: Location, using: str, row: dict[str, Any], *, response: bool) -> StoredRecord:
    row |= {name: bytes(value) for name, value in row.items() if isinstance(value, memoryview)}  # psycopg2's
    run = {name: row.pop(f"run_{name}", None) for name in RUN_COLUMNS}
    claim = {name: row.pop(f"claim_{name}", b"") for name in ANSWERED}
    row |= {name: row[name] and in_utc(using, row[name]) for name in (*TIMES, "now")}
    uncertain_until = row.pop("uncertain_until")
    row["run"] = None
    if row["status"] == UNSETTLED:
        row["expires_at"] = uncertain_until
        row["run"] = _read_run(using, row, run, claim, response=response)
    elif response:
        row |= open_fields(*(row[name] for name in ("scope", "digest", "status", *ANSWERED)))
    row["is_interrupted"] = row["is_interrupted"] and row["run"] is not None
    return StoredRecord(**row, location=location)


def _read_run(
    using: str, row: dict[str, Any], run: dict[str, Any], claim: dict[str, bytes], *, response: bool
) -> StoredRun | None:
    """The run of a claim. None without one, or if its row was changed: then retries are refused, as without one."""
    if run["token"] is None:
        return None
    token = str(run["token"])
    try:
        progress = read_progress(row["scope"], row["digest"], claim["head"])
        if claim["body"] != token.encode():
            raise ValueError("it names another owner than its run")
    except (RecursionError, StoreUnavailable, TypeError, ValueError) as error:
        logger.error(UNREADABLE, row["digest"].hex(), error)
        return None
    return StoredRun(
        token=token,
        ends_at=in_utc(using, run["ends_at"]),
        attempts=run["attempts"],
        doubt=run["doubt"],
        phase=run["phase"],
        error=run["error"],
        resume_until=in_utc(using, run["resume_until"]),
        is_sent=bool(run["sent"]),
        finished=tuple(name for name, _result in progress.phases),
        results=tuple(result for _name, result in progress.phases) if response else None,
    )
