"""
Reports each decision: one log line, one signal if it has receivers, and one call of each observer.

`using` is the database in whose transaction the decision was made; None for a store outside the databases.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import connections, router
from django.dispatch import Signal

from django_idempotency import signals
from django_idempotency.core.keys import Identity
from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine import steps
from django_idempotency.engine.transactions import after_commit, shielded, when_durable
from django_idempotency.exceptions import CommittedEarly, OutcomeUncertain, Refusal

logger = logging.getLogger("django_idempotency")


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """
    One decision, as observers see it.

    *decision* is "executed", "replayed", "forgotten", "unsettled" or a refusal's code. *database* is the alias of its
    database; for a store outside the databases, of the one that has such stores' counts. If it is *pending*, the
    decision holds only if the transaction that is open there commits.
    """

    identity: Identity
    decision: str
    database: str
    pending: bool

    def when_final(self, call: Callable[[], object]) -> None:
        """*call* once the decision holds, and never if it does not."""
        if self.pending:
            when_durable(self.database, call)
        else:
            call()


# Called with each announcement, on the request's thread. Unlike receivers of signals they need no savepoint inside an
# outer transaction, which would cost statements: they send none. What one raises is logged.
observers: list[Callable[[Announcement], None]] = []


def name(identity: Identity) -> str:
    """Format *identity* for logs: its digest and operation, because a forgotten digest is stored nowhere."""
    return f"{identity} ({identity.operation})"


def executed(using: str | None, identity: Identity, record: CompletionRecord) -> None:
    """The handler ran, and its answer is stored. The signal waits for the commit of a transaction around it."""
    logger.info("Executed %s", identity)
    when = shielded if using is None else after_commit
    _announce(using, identity, "executed", signals.operation_executed, when=when, record=record)


def replayed(using: str | None, identity: Identity, record: CompletionRecord) -> None:
    """The *record* answered, and the handler did not run."""
    logger.info("Replayed %s, first executed by request %r", identity, record.request_id)
    _announce(using, identity, "replayed", signals.operation_replayed, record=record)


def refused(using: str | None, identity: Identity, refusal: Refusal) -> None:
    """The handler did not run."""
    logger.info("Refused %s: %s", identity, refusal.code)
    _announce(using, identity, refusal.code, signals.operation_refused, refusal=refusal)


def forgotten(using: str | None, identity: Identity, summary: str) -> None:
    """The handler ran and ended with *summary*, and nothing is stored."""
    consequence = "its work was rolled back" if using is not None else "its key is free"
    logger.info("Forgot %s, which ended with %s: %s", name(identity), summary, consequence)
    _announce(using, identity, "forgotten", signals.operation_forgotten)


def unsettled(using: str | None, identity: Identity, error: CommittedEarly | OutcomeUncertain) -> None:
    """A claim is left without an outcome, for the reason that *error* gives."""
    logger.error("Unsettled %s: %s", name(identity), error.reason)
    _announce(using, identity, "unsettled", signals.operation_unsettled, error=error)


def _announce(
    using: str | None,
    identity: Identity,
    decision: str,
    signal: Signal,
    *,
    when: Callable[[str, Callable[[], Any]], None] = shielded,
    **about: object,
) -> None:
    database = using or usual_database()
    if signal.receivers:
        when(database, partial(signal.send_robust, Identity, identity=identity, using=using, **about))
    if observers:
        announcement = Announcement(
            identity=identity,
            decision=decision,
            database=database,
            pending=when is after_commit and connections[database].in_atomic_block,
        )
        for observe in observers:
            steps.shielded(observe, announcement)


def usual_database() -> str:
    """The database in which decisions of stores outside the databases are counted."""
    from django_idempotency.models import DecisionCount  # models are not ready when this module is imported

    return router.db_for_write(DecisionCount)
