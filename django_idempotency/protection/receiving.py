"""
What became of a key is asked of the view that it was sent to: behind its guards, in the place of its handler.

The handler does not run: the request of a receipt has no body, and `views.call` answers it with the `Receipt` that it
carries.
"""

from typing import Any

from django.http import HttpRequest, HttpResponse

from django_idempotency import conf
from django_idempotency.adapters.plain import PlainAdapter
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import KeyReused, Refusal, StoreUnavailable
from django_idempotency.protection.resumption import RESUMPTION
from django_idempotency.stores import stores
from django_idempotency.stores.base import Fault
from django_idempotency.stores.stored import StoredRecord

NEVER_SEEN, IN_FLIGHT, INTERRUPTED = "never_seen", "in_flight", "interrupted"
DONE, UNKNOWN, EXPIRED = "done", "unknown", "expired"


class Receipt:
    """
    What became of a key: its *state*, which is empty while the view's guards have not let the request through, and
    what is *stored*, and if it is done the *record* of the answer.
    """

    def __init__(self) -> None:
        self.state = ""
        self.stored: StoredRecord | None = None
        self.record: CompletionRecord | None = None

    def answer(self, adapter: PlainAdapter) -> Any:
        """
        Find out what became of the key of *adapter*'s request. Returns what a retry would get: a replay or a refusal;
        or an empty response. Raises what `replay_guard` raises.
        """
        names = adapter.read_names()
        if isinstance(names, Refusal):
            return adapter.refuse(names)
        store = stores[adapter.policy.store]
        using = conf.database(adapter.policy, adapter.request) if store.commits_with_handler else None
        stored = None
        for identity, url in names:
            try:
                stored = store.peek(using, identity.digest)
            except Exception as error:
                if store.classify(using, error) is not Fault.UNAVAILABLE:
                    raise
                return adapter.refuse(StoreUnavailable())
            if stored is not None:
                if not stored.fingerprint.startswith(url) and stored.fingerprint:
                    return adapter.refuse(KeyReused())  # whose guards have seen another URL
                break
        state, record = _read(stored)
        response = HttpResponse()
        if record is not None:
            adapter.check_replay(record)
            response = adapter.replay(record)
        self.state, self.stored, self.record = state, stored, record
        return response


def is_receipt(request: HttpRequest) -> bool:
    """Does *request* ask for a receipt, and has not reached its protected handler?"""
    return isinstance(vars(request).get(RESUMPTION), Receipt)


def _read(stored: StoredRecord | None) -> tuple[str, CompletionRecord | None]:
    if stored is None:
        return NEVER_SEEN, None
    if stored.is_in_flight:
        return IN_FLIGHT, None
    if stored.is_interrupted:
        return INTERRUPTED, None
    try:
        record = stored.record
    except (RecursionError, TypeError, ValueError):  # its row was changed, and a retry is refused
        return UNKNOWN, None
    if record is None:
        return (EXPIRED if stored.is_tombstone else UNKNOWN), None
    return DONE, record
