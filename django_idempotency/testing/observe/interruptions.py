"""A request that fails after its handler has done all its work: nothing of it may be left."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from django_idempotency import conf
from django_idempotency.core.decision import Claimed
from django_idempotency.core.keys import Attempt
from django_idempotency.stores import stores
from django_idempotency.stores.base import TransactionalStore


class Interrupted(Exception):
    """Raised by the testing kit after the handler, in its transaction: everything is to be rolled back."""


@dataclass(slots=True)
class Interruption:
    """What became of the request that was to be interrupted."""

    identity: bytes | None = None  # the digest of the first claim
    kept: bool = False  # was there an answer to store?
    happened: bool = False

    @property
    def claimed(self) -> bool:
        """Did a store grant a claim?"""
        return self.identity is not None


@contextmanager
def interruption() -> Iterator[Interruption]:
    """
    Let the first operation that claims meanwhile fail when its record is due, as by a failed COMMIT.

    The methods of every configured store are wrapped, so it does not matter how a view reaches the engine. The error is
    not logged. A store outside the database rolls nothing back, so its operation is left alone.
    """
    seen = Interruption()
    logger = logging.getLogger("django.request")
    logger.addFilter(_is_not_ours)
    try:
        with ExitStack() as stack:
            for alias in conf.stores():
                store = stores[alias]
                stack.enter_context(patch.object(store, "claim", _noting_claims(store, seen)))
                stack.enter_context(patch.object(store, "complete", _failing(store, seen)))
            yield seen
    finally:
        logger.removeFilter(_is_not_ours)


def _noting_claims(store: Any, seen: Interruption) -> Callable[..., Any]:
    claim = store.claim

    def claim_and_note(*args: Any, **kwargs: Any) -> Any:
        found = claim(*args, **kwargs)
        if isinstance(found, Claimed) and seen.identity is None:
            seen.identity = _digest(args)
        return found

    return claim_and_note


def _failing(store: Any, seen: Interruption) -> Callable[..., Any]:
    complete = store.complete

    def fail_or_complete(*args: Any) -> Any:
        if seen.identity != _digest(args) or seen.happened:  # an operation inside the one that is to fail
            return complete(*args)
        seen.kept = True
        if not isinstance(store, TransactionalStore):
            return complete(*args)
        seen.happened = True
        raise Interrupted("The testing kit lets this request fail at its end: nothing of it may be left.")

    return fail_or_complete


def _digest(args: tuple[Any, ...]) -> bytes:
    return next(each for each in args if isinstance(each, Attempt)).identity.digest


def _is_not_ours(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], Interrupted))
