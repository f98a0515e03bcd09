"""What a probe is asked, and what it may answer (option `uncertain`)."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from django_idempotency.core.keys import Attempt, Identity


@dataclass(frozen=True, slots=True)
class Found:
    """
    The other system has done it, and this *answer* is what the handler would have given: for a view a response, or JSON
    and its *status*; for `@once` the function's result. It is stored, and replayed.
    """

    answer: Any = None
    status: int = 200


class Verdict(Enum):
    """A probe's answer without a result."""

    NOT_DONE = "not done"  # the handler runs
    UNSURE = "unsure"  # the outcome stays unknown: 409


NOT_DONE, UNSURE = Verdict.NOT_DONE, Verdict.UNSURE


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsettledOperation:
    """
    What a probe gets: an operation whose outcome is unknown. It began at *executed_at*, in UTC and by the store's
    clock; nothing was done for it before.
    """

    executed_at: datetime
    attempt: Attempt = field(repr=False)

    @property
    def identity(self) -> Identity:
        return self.attempt.identity

    @property
    def scope(self) -> str:
        """The tenant or user to whom the key belongs."""
        return self.identity.scope

    @property
    def operation(self) -> str:
        """What the key was sent to."""
        return self.identity.operation

    @property
    def key(self) -> str:
        """The client's idempotency key, unquoted."""
        return self.identity.key

    @property
    def request(self) -> str:
        """Method, host and route; empty for `@once`."""
        return self.attempt.request

    def derive_key(self, name: str) -> str:
        """The key for the downstream system *name*, as `request.idempotency.derive_key` gave it to the handler."""
        return self.attempt.derive_key(name)
