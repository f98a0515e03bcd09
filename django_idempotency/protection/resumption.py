"""
A request that is sent again for a run in phases: it runs its view only as an attempt of that run.

Under any other identity, without a key, or without phases it would have its effects once more.
"""

from dataclasses import replace
from typing import NoReturn

from django_idempotency.adapters.plain import PlainAdapter
from django_idempotency.core.keys import Attempt
from django_idempotency.core.progress import PHASED
from django_idempotency.exceptions import Refusal

RESUMPTION = "_idempotency_resumption"  # the attribute of Django's request that holds it, until a view is reached


class NotResumed(Exception):
    """The request that is sent again is not the run's, so its handler does not run."""


class Resumption:
    """
    Resumes the run whose identity has this *digest*, and whose request had this *fingerprint*.

    `is_reached`: the request has reached its protected handler, as an attempt of the run. `reason`: why it may not.
    """

    def __init__(self, digest: bytes, fingerprint: bytes) -> None:
        self.digest = digest
        self.fingerprint = fingerprint
        self.is_reached = False
        self.reason = ""

    def read(self, adapter: PlainAdapter) -> Attempt:
        """The attempt that *adapter*'s request makes. Raises `NotResumed` if it is none of the run."""
        policy = adapter.policy
        if policy.mode != PHASED or adapter.request.method not in policy.methods:
            self.fail("its view is not protected in phased mode any more")
        adapter.policy = replace(policy, key_max_age=None, store_request=False)  # decided by the first attempt
        attempt = adapter.read()
        if attempt is None:
            self.fail("its stored request has no key")
        if isinstance(attempt, Refusal):
            self.fail(f"its stored request is refused: {attempt.message}")
        if attempt.identity.digest != self.digest:
            self.fail(
                "its stored request has another identity: its caller was known by what is not stored, such as a"
                " credential or a header, or its route or key has changed"
            )
        if callable(policy.store_request):  # it may have changed the body
            attempt = replace(attempt, fingerprint=self.fingerprint)
        elif attempt.fingerprint != self.fingerprint:
            self.fail("its stored request has another fingerprint than it had")
        adapter.policy = replace(adapter.policy, in_flight="reject")  # another resumer, or its client, is at it
        self.is_reached = True
        return attempt

    def fail(self, reason: str) -> NoReturn:
        """Raise `NotResumed`, and keep why, because the project may handle the exception."""
        self.reason = reason
        raise NotResumed(reason)
