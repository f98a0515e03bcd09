"""A request that fails when its handler has done all its work: nothing of it may be left."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.engine.run import run
from django_idempotency.protection import functions, views
from django_idempotency.stores import stores
from django_idempotency.stores.base import TransactionalStore


class Interrupted(Exception):
    """Raised by the testing kit after the handler, in its transaction: everything is to be rolled back."""


@dataclass(slots=True)
class Interruption:
    """What became of the request that was to be interrupted."""

    protected: bool = False  # did it come to an operation at all?
    kept: bool = False  # was its answer one to keep?
    happened: bool = False
    policy: ResolvedPolicy | None = None


@contextmanager
def interruption() -> Iterator[Interruption]:
    """
    Let the first operation that is executed meanwhile fail after its handler, if its answer is one to keep.

    The error is what a failed COMMIT or a bug at the handler's last line would be. It is not logged. Of a store outside
    the database nothing is rolled back, so the operation is left alone.
    """
    seen = Interruption()

    def failing(attempt: Any, policy: Any, using: Any, execute: Any, capture: Any, *more: Any, **named: Any) -> Any:
        if seen.protected:  # an operation inside the one that is to fail
            return run(attempt, policy, using, execute, capture, *more, **named)
        seen.protected = True
        seen.policy = policy

        rolls_back = isinstance(stores[policy.store], TransactionalStore)

        def capture_and_fail(value: Any) -> Any:
            answer = capture(value)
            seen.kept = answer.record is not None
            if seen.kept and rolls_back:
                seen.happened = True
                raise Interrupted("The testing kit lets this request fail at its end: nothing of it may be left.")
            return answer

        return run(attempt, policy, using, execute, capture_and_fail, *more, **named)

    logger = logging.getLogger("django.request")
    logger.addFilter(_not_ours)
    vars(views)["run"] = vars(functions)["run"] = failing
    try:
        yield seen
    finally:
        vars(views)["run"] = vars(functions)["run"] = run
        logger.removeFilter(_not_ours)


def _not_ours(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], Interrupted))
