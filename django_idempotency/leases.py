"""
The leases of this process, renewed by one thread for all of them while their handlers run.

The thread starts with the first lease, and anew in a forked process. It also frees the keys that could not be freed
when their handlers ended, as the store was away then.
"""

import logging
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from django_idempotency.core.decision import Claimed
from django_idempotency.core.keys import Attempt
from django_idempotency.stores.base import LeasedStore

logger = logging.getLogger("django_idempotency")

RENEWALS = 3  # within the time of one lease, so that two may fail
RETRY = 1.0  # seconds from a call that failed to its next try, at most: a tenth of the lease where that is shorter
MAX_RELEASES = 10_000  # that wait for a store that is away
PATIENCE = 600.0  # seconds that a release is tried for: who comes later finds the outcome uncertain


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


@dataclass(slots=True)
class _Release:
    lease: Lease
    abandoned: bool
    gives_up: float  # monotonic


class LeaseKeeper:
    """Holds leases until they are dropped, and renews them meanwhile. For any number of threads."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all leases: they are another process's, which this one was forked from."""
        self._changed = threading.Condition()
        self._held: set[Lease] = set()
        self._releases: deque[_Release] = deque(maxlen=MAX_RELEASES)
        self._release_at = float("inf")
        self._thread: threading.Thread | None = None
        self._wakes = float("inf")  # when the thread looks again by itself

    def hold(self, lease: Lease) -> None:
        """Renew *lease* from now on."""
        with self._changed:
            self._held.add(lease)
            self._attend(lease.due)

    def drop(self, lease: Lease) -> None:
        """Let *lease* be. Of one that is being renewed at this moment the store knows by its token."""
        with self._changed:
            self._held.discard(lease)

    def release(self, lease: Lease, *, abandoned: bool = False) -> None:
        """Free its key as soon as the store answers; *abandoned* is a claim of which nobody knows whether it is one."""
        now = time.monotonic()
        with self._changed:
            self._held.discard(lease)
            self._releases.append(_Release(lease, abandoned, now + PATIENCE))
            self._release_at = min(self._release_at, now + RETRY)
            self._attend(self._release_at)

    def _attend(self, moment: float) -> None:
        """Let the thread be there, and look at this *moment* at the latest."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="django_idempotency leases", daemon=True)
            self._thread.start()
        elif moment < self._wakes:
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                due = [lease for lease in self._held if lease.due <= now]
                releases = [self._releases.popleft() for _ in self._releases] if self._release_at <= now else []
                if not due and not releases:
                    self._wakes = min((lease.due for lease in self._held), default=float("inf"))
                    self._wakes = min(self._wakes, self._release_at)
                    self._changed.wait(None if self._wakes == float("inf") else self._wakes - now)
                    continue
                if releases:
                    self._release_at = float("inf")
            for lease in due:
                self._renew(lease)
            for release in releases:
                self._try_release(release)

    def _renew(self, lease: Lease) -> None:
        if lease not in self._held:  # dropped meanwhile
            return
        now = time.monotonic()
        identity = lease.attempt.identity
        try:
            ours = lease.store.renew(lease.attempt, lease.claim, lease.seconds)
        except Exception as error:  # whatever it is, the other leases want their renewal
            lost = "its lease has run out meanwhile" if now >= lease.ends else "it is tried again"
            logger.warning("The lease of %s could not be renewed, %s: %s", identity, lost, error)
            lease.due = time.monotonic() + min(RETRY, lease.seconds / 10)
            return
        if ours:
            lease.begin(now)
        elif lease in self._held:
            logger.warning("The claim of %s is not this process's any more", identity)
            self.drop(lease)

    def _try_release(self, release: _Release) -> None:
        lease = release.lease
        try:
            if release.abandoned:
                lease.store.abandon(lease.attempt, lease.claim, lease.seconds)
            else:
                lease.store.release(lease.attempt, lease.claim)
        except Exception as error:
            now = time.monotonic()
            if now >= release.gives_up:
                logger.error("The key of %s could not be freed: %s", lease.attempt.identity, error)
                return
            with self._changed:
                self._releases.append(release)
                self._release_at = min(self._release_at, now + RETRY)


keeper = LeaseKeeper()
os.register_at_fork(after_in_child=keeper.reset)
