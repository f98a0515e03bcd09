"""
The leases of this process, renewed by one thread for all of them while their handlers run.

The thread starts with the first lease, and anew in a forked process. It also ends the claims that could not be ended
with their handlers, as the store was away then: a last time when the process ends.
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

from django_idempotency.core.decision import Claimed
from django_idempotency.core.keys import Attempt
from django_idempotency.stores.base import LeasedStore

logger = logging.getLogger("django_idempotency")

RENEWALS = 3  # within the time of one lease, so that two may fail
RETRY = 1.0  # seconds from a call that failed to its next try, at most: a tenth of the lease where that is shorter
MAX_ENDINGS = 10_000  # that wait for a store that is away
PATIENCE = 600.0  # seconds that an ending is tried for: who comes later finds the outcome uncertain
LAST_PATIENCE = 2.0  # seconds that the end of a process is held up


@dataclass(slots=True, eq=False)
class Lease:
    """A claim that is ours for *seconds* from its last renewal on."""

    store: LeasedStore
    attempt: Attempt
    claim: Claimed
    seconds: float
    due: float = field(init=False)  # monotonic
    ends: float = field(init=False)  # monotonic, by our clock: before the store's

    def __post_init__(self) -> None:
        self.begin(time.monotonic())

    def begin(self, now: float) -> None:
        """It was claimed or renewed not before *now*."""
        self.due = now + self.seconds / RENEWALS
        self.ends = now + self.seconds


@dataclass(slots=True, eq=False)
class _Ending:
    """What is still to be told to the store of a claim that is ours no longer."""

    lease: Lease
    tell: Callable[[], None]
    gives_up: float  # monotonic


class LeaseKeeper:
    """Holds leases until they are dropped, and renews them meanwhile. For any number of threads."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all leases: they are another process's, which this one was forked from."""
        self._made: dict[str, threading.Condition] = {}
        self._held: set[Lease] = set()
        self._away: set[LeasedStore] = set()  # whose last renewal failed
        self._endings: dict[_Ending, None] = {}  # in the order in which they are tried
        self._end_at = float("inf")
        self._thread: threading.Thread | None = None
        self._wakes = float("inf")  # when the thread looks again by itself

    @property
    def _changed(self) -> threading.Condition:
        """
        Made at its first use: a worker of gunicorn's with a preloaded application is forked first, and patches
        `threading` for gevent then. What was made before would not tell one greenlet from another.
        """
        made = self._made.get("changed")
        return made if made is not None else self._made.setdefault("changed", threading.Condition())

    def hold(self, lease: Lease) -> None:
        """Renew *lease* from now on. Raises `RuntimeError`, and holds nothing, where no thread is to be had."""
        with self._changed:
            self._held.add(lease)
            try:
                self._attend(lease.due)
            except RuntimeError:
                self._held.discard(lease)
                raise

    def drop(self, lease: Lease) -> None:
        """Let *lease* be. Of one that is being renewed at this moment the store knows by its token."""
        with self._changed:
            self._held.discard(lease)

    def release(self, lease: Lease) -> None:
        """Free its key as soon as the store answers."""
        self._end(lease, partial(lease.store.release, lease.attempt, lease.claim))

    def abandon(self, lease: Lease) -> None:
        """The same for a claim of which nobody knows whether it is one."""
        self._end(lease, partial(lease.store.abandon, lease.attempt, lease.claim, lease.seconds))

    def doubt(self, lease: Lease) -> None:
        """Let its outcome be unknown as soon as the store answers. Everybody has been told."""
        self._end(lease, partial(lease.store.doubt, lease.attempt, lease.claim))

    def _end(self, lease: Lease, tell: Callable[[], None]) -> None:
        now = time.monotonic()
        with self._changed:
            self._held.discard(lease)
            self._endings[_Ending(lease, tell, now + PATIENCE)] = None
            if len(self._endings) > MAX_ENDINGS:
                oldest = next(iter(self._endings))
                del self._endings[oldest]
                logger.error("The claim of %s could not be ended: too many wait", oldest.lease.attempt.identity)
            self._end_at = min(self._end_at, now + RETRY)
            try:
                self._attend(self._end_at)
            except RuntimeError as error:  # the next lease brings a thread
                logger.warning("There is no thread to end claims: %s", error)

    def finish(self) -> None:
        """Try what waits a last time, as the process ends. Takes `LAST_PATIENCE` seconds at most."""
        with self._changed:
            if self._endings and self._thread is not None and self._thread.is_alive():
                self._end_at = time.monotonic()
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._endings, LAST_PATIENCE)

    def _attend(self, moment: float) -> None:
        """Let the thread be there, and look at this *moment* at the latest."""
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
                self._end_all()
            except Exception:  # the project's logging: its filters, say. Told as if it had ended the thread
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))

    def _wait(self) -> None:
        """Until something is due."""
        with self._changed:
            while True:
                due = min((lease.due for lease in self._held), default=float("inf"))
                self._wakes = min(due, self._end_at)
                left = self._wakes - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(None if left == float("inf") else left)

    def _renew_due(self) -> None:
        """
        Try each lease that is due once. A call that fails may have lasted until a timeout, so what is due by then in
        other stores comes first.
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
        """Has the store answered, if it had to be asked?"""
        if lease not in self._held:  # dropped meanwhile
            return True
        now = time.monotonic()
        identity = lease.attempt.identity
        try:
            ours = lease.store.renew(lease.attempt, lease.claim, lease.seconds)
        except Exception as error:  # whatever it is, the other leases want their renewal
            self._away.add(lease.store)
            lease.due = time.monotonic() + min(RETRY, lease.seconds / 10)
            lost = "its lease has run out meanwhile" if now >= lease.ends else "it is tried again"
            logger.warning("The lease of %s could not be renewed, %s: %s", identity, lost, error)
            return False
        self._away.discard(lease.store)
        lease.begin(now)
        if not ours and lease in self._held:
            self.drop(lease)
            logger.warning("The claim of %s is not this process's any more", identity)
        return True

    def _end_all(self) -> None:
        """Try each ending once, but none of a store that did not answer before; leases that are due go first."""
        with self._changed:
            if self._end_at > time.monotonic():
                return
            self._end_at = float("inf")
            waiting = list(self._endings)
        away: set[LeasedStore] = set()
        try:
            for ending in waiting:
                if ending.lease.store not in away:
                    is_over = self._try_ending(ending)
                    if not is_over:
                        away.add(ending.lease.store)
                    with self._changed:
                        if ending in self._endings:  # else too many waited
                            del self._endings[ending]
                            if not is_over:
                                self._endings[ending] = None  # last: of a cluster, one node may be away
                        if not self._endings:
                            self._changed.notify_all()
                    self._renew_due()
        finally:
            with self._changed:
                if self._endings:
                    self._end_at = min(self._end_at, time.monotonic() + RETRY)

    def _try_ending(self, ending: _Ending) -> bool:
        """Is it over? One that has waited too long is."""
        try:
            ending.tell()
        except Exception as error:  # whatever it is, it is tried again, and then told
            if time.monotonic() < ending.gives_up:
                return False
            logger.error("The claim of %s could not be ended: %s", ending.lease.attempt.identity, error)
        return True


keeper = LeaseKeeper()
os.register_at_fork(after_in_child=keeper.reset)
atexit.register(keeper.finish)
