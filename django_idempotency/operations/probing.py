"""Asks the probes of unsettled outcomes (option `uncertain`), for clients that never come back."""

import logging
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

from django.http import HttpRequest

from django_idempotency.adapters.plain import PlainAdapter, found_response
from django_idempotency.core.decision import Answer, Claimed
from django_idempotency.core.keys import Attempt, Identity
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.probe import NOT_DONE, UNSURE, Found, UnsettledOperation, Verdict
from django_idempotency.core.record import CompletionRecord
from django_idempotency.engine.probing import ask
from django_idempotency.engine.transactions import atomic_phase, roll_back
from django_idempotency.exceptions import RequestInProgress
from django_idempotency.operations.policies import Policies
from django_idempotency.operations.records import evict
from django_idempotency.protection.functions import result_record
from django_idempotency.stores import stores
from django_idempotency.stores.base import LeasedStore, Store
from django_idempotency.stores.stored import Location, StoredRecord

logger = logging.getLogger("django_idempotency")


class Outcome(Enum):
    """What came of asking the probe of an unsettled outcome."""

    SETTLED = "settled"  # the probe has found the answer, which retries get
    FREED = "freed"  # nothing was done: the next retry runs
    UNSURE = "unsure"  # it stays unsettled
    NO_PROBE = "no probe"  # its operation has none, is not known any more, or was attempted in phases
    BUSY = "busy"  # a retry asks, or it was settled meanwhile


@dataclass(frozen=True, slots=True)
class Asked:
    """An unsettled outcome, and what came of asking its probe."""

    record: StoredRecord
    outcome: Outcome


class Probes(Policies):
    """The probes of the project's operations."""

    def may_know(self, location: Location) -> bool:
        """Does any operation whose records may be in *location* have a probe?"""
        policies = (*self._functions.values(), *(policy for _route, _methods, policy in self._handlers))
        kept = (stores[policy.store] for policy in policies if policy.probe is not None)
        return any(store.has_table if location.using is not None else store is location.store for store in kept)

    def ask_each(self, records: Iterable[StoredRecord]) -> Iterator[Asked]:
        """
        Ask the probe of each of the unsettled *records*, one after the other.

        Raises what the servers of their stores raise; records before that stay settled or freed.
        """
        for record in records:
            with record.location.selected():
                yield Asked(record, self._ask(record))

    def _ask(self, record: StoredRecord) -> Outcome:
        policy = self.policy(record)
        attempt = None if policy is None else _attempt(record, policy)
        if policy is None or policy.probe is None or attempt is None:
            return Outcome.NO_PROBE
        store: Any = record.location.store
        if store.runs is not None and store.runs.has_run(record.location.using, attempt):
            return Outcome.NO_PROBE
        if store.commits_with_handler:
            found = atomic_phase(record.location.using or "", partial(_ask_in_transaction, record, policy, attempt))
        else:
            found = _ask_held(store, policy, attempt)
        if found is not Outcome.BUSY:
            logger.info("Asked the probe of %s: %s", record, found.value)
        return found


def _attempt(record: StoredRecord, policy: ResolvedPolicy) -> Attempt | None:
    """
    The attempt that *record* was made of. None if its identity was cut off (in a database, past 255 characters), or if
    its keys were derived under a former name, whose fingerprint only the request tells.
    """
    identity = Identity(record.scope, record.operation, record.key)
    first = (policy.operation_aliases or (record.operation,))[0]
    if identity.digest != record.digest or first != record.operation:
        return None
    return Attempt(
        identity=identity,
        fingerprint=record.fingerprint,
        ttl=policy.ttl,
        tombstone_ttl=policy.tombstone_ttl or 0.0,
        uncertain_ttl=policy.uncertain_ttl,
        request=record.request,
        request_id=record.request_id,
    )


def _captured(policy: ResolvedPolicy, operation: str, request: str, found: Found) -> Answer[object]:
    """What would be stored of *found*. Without the request, the option `record` cannot make a reference of it."""
    if not request:
        return Answer(found.answer, result_record(found, policy, operation))
    if policy.record is not None:
        return Answer(found.answer, None)
    return PlainAdapter(HttpRequest(), policy).capture(found_response(found))


def _question(policy: ResolvedPolicy, attempt: Attempt, executed_at: Any) -> CompletionRecord | Verdict:
    capture = partial(_captured, policy, attempt.identity.operation, attempt.request)
    probe = policy.probe
    if probe is None:
        return UNSURE
    return ask(probe, UnsettledOperation(executed_at=executed_at, attempt=attempt), capture)


def _ask_held(store: LeasedStore, policy: ResolvedPolicy, attempt: Attempt) -> Outcome:
    """Ask while the unsettled claim is held, as a retry does. If this process is killed, the lease runs out."""
    claim = Claimed(secrets.token_hex(16))
    executed_at = store.hold(attempt, claim.token, policy.lease)
    if executed_at is None:
        return Outcome.BUSY
    answer: CompletionRecord | Verdict = UNSURE
    try:
        answer = _question(policy, attempt, executed_at)
    finally:
        if answer is UNSURE:
            store.mark_unsettled(attempt, claim)
    if isinstance(answer, CompletionRecord):
        return Outcome.BUSY if store.complete(attempt, claim, answer) is not answer else Outcome.SETTLED
    if answer is NOT_DONE:
        # An execution of ours begins and is released: only if nobody else has taken the turn.
        if not store.begin(attempt, claim, policy.lease):
            return Outcome.BUSY
        store.release(attempt, claim)
        return Outcome.FREED
    return Outcome.UNSURE


def _ask_in_transaction(record: StoredRecord, policy: ResolvedPolicy, attempt: Attempt) -> Outcome:
    """Ask while this transaction has the row's lock, as a retry does. If this process is killed, it is rolled back."""
    store: Store = record.location.store
    using = record.location.using or ""
    evict(store, using, record.digest)
    free = partial(store.free, using, record.digest, record.executed_at, unsettled=True)
    try:
        freed = free()
    except RequestInProgress:
        roll_back(using)
        return Outcome.BUSY
    if not freed:
        return Outcome.BUSY
    answer = _question(policy, attempt, record.executed_at)
    if answer is UNSURE:
        roll_back(using)
        return Outcome.UNSURE
    if not isinstance(answer, CompletionRecord):
        return Outcome.FREED
    found = store.claim(using, attempt)  # type: ignore[attr-defined]
    if not isinstance(found, Claimed):
        roll_back(using)
        return Outcome.BUSY
    store.complete(using, attempt, found, answer)  # type: ignore[attr-defined]
    return Outcome.SETTLED
