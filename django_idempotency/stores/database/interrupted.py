"""
What the resumer finds and writes: the interrupted runs of phased mode in one database, and what came of them.

Each change is one statement under the run's token, so it changes nothing if somebody has taken the run over meanwhile.
"""

from typing import Any

from django.db import connections
from django.db.models import Exists, OuterRef, QuerySet

from django_idempotency.models import (
    GIVEN_UP,
    REFUSED,
    UNSETTLED,
    DatabaseNow,
    IdempotencyRecord,
    PhasedRun,
)
from django_idempotency.stores.database.dialect import RUNS
from django_idempotency.stores.database.dialects import clock_of
from django_idempotency.stores.database.phased import storable


def interrupted(using: str) -> "QuerySet[PhasedRun]":
    """The runs that nobody holds, and that no operator has to decide on, the one that ended first in front."""
    runs = PhasedRun.objects.using(using).annotate(now=DatabaseNow())
    return runs.filter(Exists(_record()), ends_at__lte=DatabaseNow(), doubt__lt=GIVEN_UP).order_by("ends_at", "digest")


def due(using: str) -> "QuerySet[PhasedRun]":
    """The interrupted runs that a resumer may try now."""
    now = DatabaseNow()
    return _stored(using).filter(resume_at__lte=now, resume_until__gt=now, doubt__lt=REFUSED)


def overdue(using: str) -> "QuerySet[PhasedRun]":
    """The interrupted runs that a resumer has tried, or could have tried, for long enough."""
    return _stored(using).filter(resume_until__lte=DatabaseNow())


def without_request(using: str, *, is_call: bool) -> "QuerySet[PhasedRun]":
    """
    The interrupted runs that a resumer cannot send: requests that are not stored, or calls of `@once` functions.
    """
    calls = Exists(_record().filter(request=""))
    return interrupted(using).filter(calls if is_call else ~calls, sent=b"")


def find(using: str, digest: bytes) -> Any:
    """The run of the identity *digest* that has not ended, whoever holds it, with the database's time as `now`."""
    runs = PhasedRun.objects.using(using).annotate(now=DatabaseNow()).filter(Exists(_record()), digest=digest)
    return runs.first()


def record_of(using: str, run: PhasedRun) -> IdempotencyRecord | None:
    """The record of *run*."""
    return IdempotencyRecord.objects.using(using).filter(digest=run.digest, status=UNSETTLED).first()


def postpone(using: str, run: PhasedRun, seconds: float, error: str = "") -> None:
    """Let no resumer try *run* again for so many *seconds*. An *error* replaces what is kept of the last attempt."""
    _now, later, parameter = clock_of(connections[using].vendor)
    _change(using, run, f"resume_at = {later}", [parameter(seconds)], error)


def refuse(using: str, run: PhasedRun, error: str) -> bool:
    """Leave *run* to its client, and its outcome unsettled. Returns False if it has changed since it was read."""
    return _change(using, run, f"doubt = {REFUSED}", [], error)


def give_up(using: str, run: PhasedRun, error: str) -> bool:
    """Leave *run* to an operator. Returns False if it has changed since it was read."""
    return _change(using, run, f"doubt = {GIVEN_UP}", [], error)


def orphans(using: str) -> "QuerySet[PhasedRun]":
    """The rows of runs whose record is gone, was answered, or is of a later execution."""
    return PhasedRun.objects.using(using).filter(~Exists(_record()))


def sweep(using: str, limit: int) -> int:
    """
    Delete at most *limit* orphans, and return how many there were. A row that belongs to a new run by now stays,
    because that has another token.
    """
    found = list(orphans(using).values_list("digest", "token")[:limit])
    with connections[using].cursor() as cursor:
        for digest, token in found:
            cursor.execute(f"DELETE FROM {RUNS} WHERE digest = %s AND token = %s", [bytes(digest), token])
    return len(found)


def _record() -> "QuerySet[IdempotencyRecord]":
    return IdempotencyRecord.objects.filter(
        digest=OuterRef("digest"), executed_at=OuterRef("executed_at"), status=UNSETTLED
    )


def _stored(using: str) -> "QuerySet[PhasedRun]":
    return interrupted(using).exclude(sent=b"")


def _change(using: str, run: PhasedRun, change: str, values: list[Any], error: str) -> bool:
    now, _later, _parameter = clock_of(connections[using].vendor)
    if error:
        change, values = f"{change}, error = %s", [*values, storable(error)]
    with connections[using].cursor() as cursor:
        cursor.execute(
            f"UPDATE {RUNS} SET {change} WHERE digest = %s AND token = %s AND ends_at <= {now} AND doubt < {GIVEN_UP}",
            [*values, bytes(run.digest), run.token],
        )
        return bool(cursor.rowcount == 1)
