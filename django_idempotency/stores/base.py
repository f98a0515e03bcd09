"""The contract of a store."""

from collections.abc import Collection, Mapping
from datetime import datetime
from enum import Enum, auto
from typing import Any

from django.core.checks import CheckMessage

from django_idempotency.core.decision import Claimed, ClaimResult
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import CompletionRecord


class LostRace(Exception):
    """
    A rival was faster in a way that this transaction cannot see: the whole attempt starts again, in a new one.

    Not a public error: the engine turns it into a restart, or into `RequestInProgress` where the transaction is not its
    own.
    """


class Fault(Enum):
    """What an error of the store means before the handler has run."""

    RACE = auto()  # lost to a rival
    UNAVAILABLE = auto()  # the store does not answer; nothing was done
    OTHER = auto()  # a defect or a mis-configuration: it propagates


class Store:
    """
    Where claims and completion records live.

    A store claims an identity inside the transaction on *using* that will hold the handler's effects, and writes the
    record there last. It opens no transaction and commits none: the engine does.

    *options* is the dict `OPTIONS` of the store's entry in the setting; a name that the store does not know is an
    error.
    """

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        self.alias = alias
        self.options = options

    def database(self) -> str:
        """The alias of the database in whose transaction all happens, where no option `using` names it."""
        raise NotImplementedError

    def look_up(self, using: str, attempt: Attempt) -> ClaimResult | None:
        """
        What can be known before the transaction begins, or None where the claim itself finds out as cheaply.

        Never `Claimed`.
        """
        raise NotImplementedError

    def claim(self, using: str, attempt: Attempt) -> ClaimResult:
        """
        Claim the identity for the open transaction, without waiting for a rival where the database allows it.

        Raises `LostRace` where only a new transaction can tell.
        """
        raise NotImplementedError

    def complete(self, using: str, attempt: Attempt, claim: Claimed, record: CompletionRecord) -> None:
        """
        Write the record on the claim's own row, in the claim's own transaction.

        Raises `TransactionBroken` where the claim is gone, `CommittedEarly` where the handler committed it.
        """
        raise NotImplementedError

    def is_unsettled(self, using: str, attempt: Attempt) -> bool:
        """Is the identity's claim committed without an outcome? Asked when the transaction is over."""
        raise NotImplementedError

    def executed_at(self, using: str, digest: bytes) -> datetime | None:
        """When what is stored for the identity *digest* was executed: it tells one execution from the next."""
        raise NotImplementedError

    def free(self, using: str, digest: bytes, executed_at: datetime | None) -> bool:
        """
        Forget the execution of *executed_at* (as it was read, before the transaction) that is stored for the identity
        *digest*, in the caller's transaction: the next request runs again.

        Takes the claim's own lock, without waiting for it where the database allows it. Returns False where nothing is
        stored. Raises `RequestInProgress` where the identity is in flight, or another execution of it is stored.
        """
        raise NotImplementedError

    def classify(self, using: str, error: Exception) -> Fault:
        """What *error*, raised before the handler has run, means."""
        raise NotImplementedError

    def check(self, databases: Collection[str] = ()) -> list[CheckMessage]:
        """What `manage.py check` says of this store, and of the *databases* that options `using` name for it."""
        return []

    def check_database(self, using: str, max_body: int) -> list[CheckMessage]:
        """What `manage.py check --database` says of the server behind *using*, for responses of *max_body* bytes."""
        return []
