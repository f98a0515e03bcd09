"""What an operator decides about a run in phases that nobody works on."""

import secrets

from django.db import connections

from django_idempotency.exceptions import RequestInProgress
from django_idempotency.models import NO_DOUBT, UNSETTLED
from django_idempotency.stores.database.dialect import RUNS, TABLE
from django_idempotency.stores.database.dialects import clock_of
from django_idempotency.stores.database.phased import Runs
from django_idempotency.stores.stored import StoredRun


def decide(
    runs: Runs,
    using: str,
    digest: bytes,
    run: StoredRun,
    *,
    doubt: int,
    resume_for: float | None = None,
    uncertain_ttl: float | None = None,
) -> None:
    """
    Give the *run*, as it was read, this *doubt*, in the caller's transaction. With *resume_for* its doubt is over, its
    attempts count anew, the resumer tries for that many seconds, and it does not expire. With *uncertain_ttl* it
    expires after so many seconds.

    The run gets a new token, so that nothing has an effect any more that a former owner, a retry or another operator
    does about the run as it was.

    Raises `RequestInProgress`, to be rolled back, if the run has gone on or was decided about since it was read.
    """
    sql = runs.statements(using)
    now, later, seconds = clock_of(connections[using].vendor)
    token = str(secrets.randbits(63))
    change, values, of_record = "doubt = %s", (doubt,), ""
    until = () if uncertain_ttl is None else (seconds(uncertain_ttl),)
    if until:
        of_record = f", uncertain_until = {later}"
    if resume_for is not None:
        change = f"doubt = {NO_DOUBT}, attempts = 0, resume_at = executed_at, resume_until = {later}"
        values, of_record = (seconds(resume_for),), ", uncertain_until = NULL"
    with connections[using].cursor() as cursor:
        if sql.HOLD:
            cursor.execute(sql.HOLD, (digest,))
            if cursor.fetchone() is None:
                raise RequestInProgress("A former owner of the run is in the middle of a phase, or the key was freed.")
        cursor.execute(
            f"UPDATE {TABLE} SET body = %s{of_record} WHERE digest = %s AND status = {UNSETTLED} AND body = %s",
            (token.encode(), *until, digest, run.token.encode()),
        )
        if cursor.rowcount == 1:
            cursor.execute(
                f"UPDATE {RUNS} SET token = %s, {change}"
                f" WHERE digest = %s AND token = %s AND doubt = %s AND ends_at <= {now}",
                (int(token), *values, digest, int(run.token), run.doubt),
            )
        if cursor.rowcount != 1:
            raise RequestInProgress("The run has gone on since you looked, or somebody else has decided about it.")
