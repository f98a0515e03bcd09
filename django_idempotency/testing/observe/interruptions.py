"""Makes a request fail after its handler has done all its work: nothing of it may be left."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from django_idempotency import conf
from django_idempotency.core.decision import Claimed
from django_idempotency.core.keys import Attempt
from django_idempotency.stores import stores


class Interrupted(Exception):
    """Raised by the testing kit after the handler, in its transaction, to roll everything back."""


@dataclass(slots=True)
class Interruption:
    """What happened to the request that was to be interrupted."""

    claims: list[bytes] = field(default_factory=list)  # digests; the first operation is the one that is to fail
    kept: bool = False  # was there an answer to store?
    happened: bool = False
    in_phases: bool = False  # What its phases had done stays.


@contextmanager
def interruption() -> Iterator[Interruption]:
    """
    Make the first operation that claims in the block fail instead of storing its record, as a failed COMMIT would.

    It wraps the methods of every configured store, so it does not matter how a view reaches the engine. The error is
    not logged. A store outside the databases rolls nothing back, so its operation does not fail. A run in phases fails
    when its phases are finished.
    """
    logger = logging.getLogger("django.request")
    logger.addFilter(_is_not_ours)
    try:
        with collect_claims() as claims, ExitStack() as stack:
            seen = Interruption(claims)
            for store in _stores():
                stack.enter_context(patch.object(store, "complete", _fail_at_end(store, seen)))
                if store.runs is not None:
                    stack.enter_context(patch.object(store.runs, "finish", _fail_to_finish(store.runs, seen)))
            yield seen
    finally:
        logger.removeFilter(_is_not_ours)


@contextmanager
def collect_claims() -> Iterator[list[bytes]]:
    """Collect the digests of the identities that are claimed in the block, in any store: their handlers run."""
    claims: list[bytes] = []
    with ExitStack() as stack:
        for store in _stores():
            stack.enter_context(patch.object(store, "claim", _note_claims(store, claims)))
            if store.runs is not None:
                for name in ("begin", "take_over"):
                    stack.enter_context(patch.object(store.runs, name, _note_runs(getattr(store.runs, name), claims)))
        yield claims


def _stores() -> list[Any]:
    return [stores[alias] for alias in conf.stores()]


def _note_claims(store: Any, claims: list[bytes]) -> Callable[..., Any]:
    claim = store.claim

    def claim_and_note(*args: Any, **kwargs: Any) -> Any:
        found = claim(*args, **kwargs)
        if isinstance(found, Claimed):
            claims.append(_digest(args))
        return found

    return claim_and_note


def _fail_at_end(store: Any, seen: Interruption) -> Callable[..., Any]:
    complete = store.complete

    def fail_or_complete(*args: Any) -> Any:
        if seen.happened or seen.claims[:1] != [_digest(args)]:  # not the operation that is to fail
            return complete(*args)
        seen.kept = True
        if not store.commits_with_handler:
            return complete(*args)
        seen.happened = True
        raise Interrupted("The testing kit makes this request fail at its end: nothing of it may be left.")

    return fail_or_complete


def _note_runs(claim: Callable[..., bool], claims: list[bytes]) -> Callable[..., bool]:
    def claim_and_note(*args: Any) -> bool:
        claimed = claim(*args)
        if claimed:
            claims.append(_digest(args))
        return claimed

    return claim_and_note


def _fail_to_finish(runs: Any, seen: Interruption) -> Callable[..., Any]:
    finish = runs.finish

    def fail_or_finish(*args: Any) -> Any:
        if seen.happened or seen.claims[:1] != [_digest(args)]:
            return finish(*args)
        seen.kept = seen.happened = seen.in_phases = True
        raise Interrupted("The testing kit makes this request fail at its end: its phases are not to run again.")

    return fail_or_finish


def _digest(args: tuple[Any, ...]) -> bytes:
    return next(each for each in args if isinstance(each, Attempt)).identity.digest


def _is_not_ours(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], Interrupted))
