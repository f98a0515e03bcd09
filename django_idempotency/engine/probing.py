"""
Asks a probe what became of an operation whose outcome is unknown.

The caller holds the identity meanwhile, so that a probe is asked once at a time. Outside the databases it holds the
unsettled claim with a token and a lease of its own, which is not renewed: a probe that takes longer loses its turn, and
its answer counts only if nobody else has taken it. In a database the transaction holds the identity.

If the process is killed before the probe's answer is stored, the outcome is as unknown as before, as soon as the lease
has run out or the database has rolled back, and the next retry asks again.
"""

import logging
from collections.abc import Callable

from django_idempotency.core.decision import Answer
from django_idempotency.core.policy import Probe
from django_idempotency.core.probe import UNSURE, Found, UnsettledOperation, Verdict
from django_idempotency.core.record import CompletionRecord

logger = logging.getLogger("django_idempotency")


def ask(
    probe: Probe, operation: UnsettledOperation, capture: Callable[[Found], Answer[object]]
) -> CompletionRecord | Verdict:
    """
    Ask *probe* about *operation*. Returns the record that *capture* makes of what it found, or its verdict. If the
    probe or *capture* raises, or returns anything else, that is logged and UNSURE.
    """
    identity = operation.identity
    try:
        found = probe(operation)
        if isinstance(found, Verdict):
            return found
        record = capture(found).record if isinstance(found, Found) else None
    except Exception:  # the project's probe
        logger.exception("The probe of %s failed: its outcome stays unknown", identity)
        return UNSURE
    if record is None:
        logger.error("The probe of %s returned no answer that can be stored: its outcome stays unknown", identity)
        return UNSURE
    logger.info("The probe of %s has found its answer, of status %d", identity, record.status)
    return record
