"""
Observe mode's book-keeping: compares each run with the first one of its identity, counts it, and logs it.

That takes one statement, or two, in autocommit, when the response has been sent and the request's transactions have
ended: on the thread of the request, or of the event, where the counts are written too. So nobody waits for it, nothing
of it is rolled back with a request, and a process that is killed before loses that run.

What is kept of a run is in a table of its own (`ObservedRun`), from which no request is answered: after the mode has
become atomic, the first request of each key executes.
"""

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_finished
from django.db import Error, connections, transaction
from django.dispatch import receiver

from django_idempotency.core.keys import Attempt
from django_idempotency.core.observation import Run, judge
from django_idempotency.engine.announcements import name
from django_idempotency.engine.transactions import in_transaction
from django_idempotency.models import DatabaseNow, ObservedRun
from django_idempotency.operations import counts
from django_idempotency.protection.observing import Observation
from django_idempotency.stores.base import Fault
from django_idempotency.stores.database.clock import in_utc
from django_idempotency.stores.database.dialects import dialect_for
from django_idempotency.stores.database.observed import TABLE, keep_first
from django_idempotency.stores.schemas import in_schema, schema_of

logger = logging.getLogger("django_idempotency")

MAX_PENDING = 1000  # runs of a thread that cannot be written yet; more are lost
TRIES = 3
PAUSE = 60.0  # seconds after a statement that failed, in which runs are lost: each try may wait for a server

WOULD = {
    "would_replay": "would have answered it from the first run's record",
    "would_conflict": "would have refused it with 409 request-in-progress",
    "would_mismatch": "would have refused it with 422 key-reused",
}


class _Thread(threading.local):
    """The runs of this thread that wait for the end of their request, each with its tenant's schema."""

    def __init__(self) -> None:
        self.pending: deque[tuple[Observation, str | None]] = deque(maxlen=MAX_PENDING)


_thread = _Thread()
_resumes_at = 0.0  # monotonic
_failed: set[str] = set()  # databases whose failure is logged


def note(observation: Observation) -> None:
    """Take *observation* in: an observer of `observing`. Nothing is observed under test, as nothing is counted."""
    if counts.is_under_test():
        return
    if observation.attempt is None:
        counts.count(observation.using, observation.operation, "would_refuse")
        logger.info("Observed %s: atomic mode would have refused it: %s", observation.operation, observation.refusal)
        return
    _thread.pending.append((observation, schema_of(observation.using)))
    if counts.counter.serves_requests:
        return
    if connections[observation.using].in_atomic_block:
        transaction.on_commit(write, using=observation.using, robust=True)
    else:
        write()


@receiver(request_finished)
def write(**kwargs: object) -> None:
    """Write what this thread has observed, unless it is in a transaction. Raises nothing: an error is logged."""
    pending = _thread.pending
    if not pending:
        return
    while pending and not counts.in_any_atomic_block():
        _write(*pending.popleft())
    counts.counter.flush_if_due()  # whose own turn after this request is over


def _write(observation: Observation, schema: str | None) -> None:
    global _resumes_at
    using = observation.using
    if time.monotonic() < _resumes_at or observation.attempt is None:
        return
    try:
        with counts.close_if_opened(using), in_schema(using, schema):
            if in_transaction(using):
                raise ImproperlyConfigured("observations are written in autocommit, and its AUTOCOMMIT is False")
            _settle_despite_races(observation, observation.attempt)
    except Exception as error:  # no error here is worth failing a request
        _resumes_at = time.monotonic() + PAUSE
        if using not in _failed:
            _failed.add(using)
            remedy = " Has `manage.py migrate` created its table?" if TABLE in str(error) else ""
            reason = str(error).split("\n")[0]
            logger.error("Requests are not observed in database %r; their handlers run: %s.%s", using, reason, remedy)
    else:
        _failed.discard(using)


def _settle_despite_races(observation: Observation, attempt: Attempt) -> None:
    """Settle again after a deadlock, and above READ COMMITTED after a run of the same key was written meanwhile."""
    token = secrets.randbits(63)
    connection = connections[observation.using]
    for tries_left in reversed(range(TRIES)):
        try:
            return _settle(observation, attempt, token)
        except Error as error:
            dialect = dialect_for(connection, connect=False)
            if not tries_left or dialect.classify(connection, error) is not Fault.RACE:
                raise


def _settle(observation: Observation, attempt: Attempt, token: int) -> None:
    """Keep the run if it is its identity's first; otherwise say what atomic mode would have done."""
    using, operation = observation.using, observation.operation
    has_effect = observation.is_answer and observation.is_committed
    is_first: bool | None = False
    if has_effect:
        now = time.monotonic()
        is_first = keep_first(
            connections[using], attempt.identity.digest, token, attempt.fingerprint, observation.status,
            began=observation.began - now, ended=observation.ended - now, expires=attempt.ttl,
        )  # fmt: skip
    found = None if is_first else _find(observation, attempt, token)
    counts.count(using, operation, "observed")
    if found is None:
        if observation.refusal:
            counts.count(using, operation, "would_refuse")
            logger.info(
                "Observed %s: in atomic mode it would have failed: %s", name(attempt.identity), observation.refusal
            )
        return
    first, this = found
    verdict = judge(first, this, observation.patience)
    counts.count(using, operation, verdict)
    ran_twice = has_effect and first.fingerprint == this.fingerprint
    if ran_twice:
        counts.count(using, operation, "ran_twice")
    logger.log(
        logging.WARNING if ran_twice else logging.INFO,
        "Observed %s: it %s, and atomic mode %s (status %s then, %s now; request %r)",
        name(attempt.identity), "ran twice" if ran_twice else "came again", WOULD[verdict], first.status, this.status,
        attempt.request_id,
    )  # fmt: skip


def _find(observation: Observation, attempt: Attempt, token: int) -> tuple[Run, Run] | None:
    """The first run of the identity, and this one, by the database's clock; None if this one is the first."""
    using = observation.using
    rows: Any = ObservedRun.objects.using(using).live().filter(digest=attempt.identity.digest)
    columns = ("token", "fingerprint", "status", "began_at", "ended_at", "now")
    row = rows.annotate(now=DatabaseNow()).values_list(*columns).first()
    if row is None or row[0] == token:
        return None
    _token, fingerprint, status, *times = row
    began, ended, now = (in_utc(using, moment).timestamp() for moment in times)
    first = Run(fingerprint=bytes(fingerprint), status=status, began=began, ended=ended)
    since = time.monotonic()
    this = Run(
        fingerprint=attempt.fingerprint,
        status=observation.status,
        began=now - (since - observation.began),
        ended=now - (since - observation.ended),
    )
    return first, this


def purge(using: str, batch_size: int, may_continue: Callable[[], bool]) -> int:
    """
    Delete the expired runs in the database *using*, in batches, as long as *may_continue* allows another one. Returns
    their number. Raises what the database raises.
    """
    count = 0
    runs = ObservedRun.objects.using(using).expired()
    while may_continue():
        digests = list(runs.order_by("expires_at").values_list("digest", flat=True)[:batch_size])
        if not digests:
            break
        count += runs.filter(digest__in=digests)._raw_delete(using)
    return count
