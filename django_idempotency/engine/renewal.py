"""
One thread renews all leases of this process while their handlers run.

It starts with the first lease, and again in a forked process. It also works through the queue of `endings`, for the
last time when the process ends.
"""

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from django_idempotency.core.decision import Claimed
from django_idempotency.core.keys import Attempt
from django_idempotency.engine import endings
from django_idempotency.engine.endings import Ending, Endings
from django_idempotency.stores.base import LeasedStore

logger = logging.getLogger("django_idempotency")

RENEWALS = 3  # in the time of one lease, so that two may fail
LAST_PATIENCE = 2.0  # seconds by which the end of a process is delayed at most


@dataclass(slots=True, eq=False)
class Lease:
    """A claim that lasts *seconds* from its last renewal."""

    store: Any  # a `LeasedStore`, or the `RunLeases` of a run in phases, which can only renew
    attempt: Attempt
    claim: Claimed
    seconds: float
    due: float = field(init=False)  # monotonic
    ends: float = field(init=False)  # monotonic; earlier than in the store

    def __post_init__(self) -> None:
        self.begin(time.monotonic())

    def begin(self, now: float) -> None:
        """Begin at *now*, a moment before the store claims or renews it."""
        self.due = now + self.seconds / RENEWALS
        self.ends = now + self.seconds


class LeaseKeeper:
    """Renews leases until they are dropped. Safe for any number of threads."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all leases, which belong to the process that this one was forked from."""
        self._made: dict[str, threading.Condition] = {}
        self._held: set[Lease] = set()
        self._away: set[Any] = set()  # whose last renewal failed
        self._endings = Endings()
        self._thread: threading.Thread | None = None
        self._wakes = float("inf")  # when the thread wakes by itself; monotonic

    @property
    def _changed(self) -> threading.Condition:
        """
        The lock, made at its first use.

        With a preloaded application, gunicorn's worker is forked first and then patches `threading` for gevent. An
        older lock could not tell one greenlet from another.
        """
        made = self._made.get("changed")
        return made if made is not None else self._made.setdefault("changed", threading.Condition())

    def hold(self, lease: Lease) -> None:
        """Start to renew *lease*. Raises `RuntimeError`, and holds nothing, if no thread can be started."""
        with self._changed:
            self._held.add(lease)
            try:
                self._wake_thread(lease.due)
            except RuntimeError:
                self._held.discard(lease)
                raise

    def drop(self, lease: Lease) -> None:
        """Stop to renew *lease*. The store rejects a renewal that is on its way when the claim ends, by its token."""
        with self._changed:
            self._held.discard(lease)

    def release(self, lease: Lease) -> None:
        """Free the lease's key as soon as its store answers."""
        self._end(lease, partial(lease.store.release, lease.attempt, lease.claim))

    def release_late(self, lease: Lease) -> None:
        """Like `release`, for a claim whose reply was lost: it may or may not exist in the store."""
        self._end(lease, partial(lease.store.abandon, lease.attempt, lease.claim, lease.seconds))

    def mark_unsettled(self, lease: Lease) -> None:
        """Mark the outcome as unknown as soon as the store answers. The caller has announced it."""
        self._end(lease, partial(lease.store.mark_unsettled, lease.attempt, lease.claim))

    def _end(self, lease: Lease, send: Callable[[], None]) -> None:
        with self._changed:
            self._held.discard(lease)
            self._endings.add(Ending(lease.store, lease.attempt, send))
            try:
                self._wake_thread(self._endings.next_try)
            except RuntimeError as error:  # the next lease starts a thread
                logger.warning("Cannot start the thread that ends claims: %s", error)

    def finish(self) -> None:
        """Try the waiting endings once more, when the process ends. Takes `LAST_PATIENCE` seconds at most."""
        with self._changed:
            if self._endings.waiting and self._thread is not None and self._thread.is_alive():
                self._endings.next_try = time.monotonic()
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._endings.waiting, LAST_PATIENCE)

    def _wake_thread(self, moment: float) -> None:
        """Make sure that the thread runs, and wakes at this *moment* at the latest."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="django_idempotency leases", daemon=True)
            self._thread.start()
        elif moment < self._wakes:
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            try:
                self._wait()
                self._renew_due()
                self._try_endings()
            except Exception:  # of the project's logging, say; reported as if it had ended the thread
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))

    def _wait(self) -> None:
        """Wait until a lease or an ending is due."""
        with self._changed:
            while True:
                due = min((lease.due for lease in self._held), default=float("inf"))
                self._wakes = min(due, self._endings.next_try)
                left = self._wakes - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(None if left == float("inf") else left)

    def _renew_due(self) -> None:
        """
        Renew each due lease once.

        A call that fails may have lasted until a timeout; then leases of other stores that became due go first.
        """
        tried: set[Lease] = set()
        while True:
            with self._changed:
                now = time.monotonic()
                due = [lease for lease in self._held if lease.due <= now and lease not in tried]
            due.sort(key=lambda lease: (lease.store in self._away, lease.due))
            for lease in due:
                tried.add(lease)
                if not self._renew(lease):
                    break
            else:
                return

    def _renew(self, lease: Lease) -> bool:
        """Renew *lease* if it is still held. Returns False if its store does not answer."""
        if lease not in self._held:
            return True
        now = time.monotonic()
        identity = lease.attempt.identity
        try:
            ours = lease.store.renew(lease.attempt, lease.claim, lease.seconds)
        except Exception as error:  # any error: the other leases need their renewal
            self._away.add(lease.store)
            lease.due = time.monotonic() + min(endings.RETRY, lease.seconds / 10)
            consequence = "its lease has run out meanwhile" if now >= lease.ends else "it is tried again"
            logger.warning("The lease of %s could not be renewed, %s: %s", identity, consequence, error)
            return False
        self._away.discard(lease.store)
        lease.begin(now)
        if not ours and lease in self._held:
            self.drop(lease)
            logger.warning("The claim of %s does not belong to this process any more", identity)
        return True

    def _try_endings(self) -> None:
        """Try each due ending once, but skip a store that has just failed. Due leases go first."""
        with self._changed:
            due = self._endings.take_due()
        away: set[LeasedStore] = set()
        try:
            for ending in due:
                if ending.store in away:
                    continue
                is_over = ending.attempt_call()
                if not is_over:
                    away.add(ending.store)
                with self._changed:
                    self._endings.note_result(ending, is_over=is_over)
                    if not self._endings.waiting:
                        self._changed.notify_all()
                self._renew_due()
        finally:
            with self._changed:
                self._endings.schedule()


keeper = LeaseKeeper()
os.register_at_fork(after_in_child=keeper.reset)
atexit.register(keeper.finish)
