"""
What is said of each decision: a line in the log, a signal to those who asked for it, and a count.

`using` is the database in whose transaction it was decided, or None for a store beside the databases.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from django.dispatch import Signal

from django_idempotency import signals, statistics
from django_idempotency.core.keys import Identity
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import CommittedEarly, OutcomeUncertain, Refusal
from django_idempotency.transactions import after_commit, shielded

logger = logging.getLogger("django_idempotency")


def executed(using: str | None, identity: Identity, record: CompletionRecord) -> None:
    """The handler ran, and its answer is stored: once the transaction around it, if there is one, has committed."""
    logger.info("Executed %s", identity)
    when = shielded if using is None else after_commit
    _announce(using, identity, "executed", signals.operation_executed, when=when, record=record)


def replayed(using: str | None, identity: Identity, record: CompletionRecord) -> None:
    """The record has answered."""
    logger.info("Replayed %s, first executed by request %r", identity, record.request_id)
    _announce(using, identity, "replayed", signals.operation_replayed, record=record)


def refused(using: str | None, identity: Identity, refusal: Refusal) -> None:
    """The handler did not run."""
    logger.info("Refused %s: %s", identity, refusal.code)
    _announce(using, identity, refusal.code, signals.operation_refused, refusal=refusal)


def forgotten(using: str | None, identity: Identity) -> None:
    """The handler ran, and nothing of it is left."""
    logger.info("Forgot %s: %s", identity, "its work was rolled back" if using is not None else "its key is free")
    _announce(using, identity, "forgotten", signals.operation_forgotten)


def unsettled(using: str | None, identity: Identity, error: CommittedEarly | OutcomeUncertain) -> None:
    """A claim is left without an outcome: its handler ended the transaction by itself, or has not answered."""
    logger.error("Unsettled %s: %s", identity, error.reason)
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
    database = using or statistics.usual_database()
    if signal.receivers:
        when(database, partial(signal.send_robust, Identity, identity=identity, using=using, **about))
    # Not by a receiver of the signal, whose savepoint inside an outer transaction would cost statements.
    statistics.count(database, identity.operation, decision, after_commit=when is after_commit)
