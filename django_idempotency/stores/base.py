"""
The contract of a store, for whoever writes one.

There are two kinds. A `TransactionalStore` keeps claims and records in the database that the handler writes to, and
holds the law: work and record commit together. A `LeasedStore` is for work that no transaction covers: its claims are
leases, and an execution that does not answer leaves an uncertain outcome. A store derives from one of them, takes the
`OPTIONS` of its entry in the setting, and holds no connection of its own, as it serves all threads of its process.

`django_idempotency.testing.store_contract` has the tests that any store has to pass.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from datetime import datetime
from enum import Enum, auto
from typing import Any, ClassVar

from django.core.checks import CheckMessage

from django_idempotency.core.decision import Claimed, ClaimResult
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import CompletionRecord
from django_idempotency.stores.stored import StoredRecord


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


class Store(ABC):
    """
    Where claims and completion records live: what both kinds have, most of it for operators.

    *options* is the dict `OPTIONS` of the store's entry in the setting; a name that the store does not know is an
    error, and so is a bad value: `PolicyError`.
    """

    commits_with_handler: ClassVar[bool] = False
    """Do its claims and records commit in the transaction that the handler writes in?"""

    has_table: ClassVar[bool] = False
    """Are its records rows of `IdempotencyRecord`?"""

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        self.alias = alias
        self.options = options

    @abstractmethod
    def find(self, using: str | None, digest: bytes) -> StoredRecord | None:
        """What is stored for the identity *digest*, a claim in flight excepted."""

    @abstractmethod
    def unsettled(self, using: str | None, limit: int) -> list[StoredRecord]:
        """At most *limit* unsettled outcomes, the oldest first."""

    @abstractmethod
    def free(self, using: str | None, digest: bytes, executed_at: datetime | None, *, unsettled: bool = False) -> bool:
        """
        Forget the execution of *executed_at* (as it was read) that is stored for the identity *digest*: the next
        request runs again. With *unsettled* only while its outcome is not known: an answer that has come since it was
        read stays. A transactional store does so in the caller's transaction.

        Waits for no rival where that can be had. Returns False where nothing is stored. Raises `RequestInProgress`
        where the identity is in flight, or another execution of it, or an answer that was not meant, is stored. None
        for *executed_at* is, beside the databases, whichever execution is stored. The freed execution's own claim
        changes nothing any more.
        """

    @abstractmethod
    def settle(self, using: str | None, digest: bytes, executed_at: datetime | None, record: CompletionRecord) -> bool:
        """
        Store *record* as the answer of the execution of *executed_at* whose outcome is not known; its lifetime begins
        anew. Returns False where no such execution is stored. Raises as `free` does, and where it has a record by now.
        """

    @abstractmethod
    def classify(self, using: str | None, error: Exception) -> Fault:
        """What *error*, raised before the handler has run, means."""

    def database(self) -> str | None:
        """The alias of the database that the store itself chooses; None for a store outside the databases."""
        return None

    def check(self, databases: Collection[str] = ()) -> list[CheckMessage]:
        """What `manage.py check` says of this store, and of the *databases* that options `using` name for it."""
        return []

    def check_database(self, using: str, max_body: int) -> list[CheckMessage]:
        """What `manage.py check --database` says of the server behind *using*, for responses of *max_body* bytes."""
        return []

    def check_servers(self) -> list[CheckMessage]:
        """What `manage.py check --deploy` says of the servers that are not databases."""
        return []


class TransactionalStore(Store):
    """
    A store inside the database on *using* that will hold the handler's effects.

    It claims an identity inside the transaction there, and writes the record there last. It opens no transaction and
    commits none: the engine does. Where that transaction is the engine's own, its beginning may travel with the claim,
    and its COMMIT with the record.
    """

    commits_with_handler = True

    @abstractmethod
    def database(self) -> str:
        """The alias of the database in whose transaction all happens, where no option `using` names it."""

    @abstractmethod
    def look_up(self, using: str, attempt: Attempt) -> ClaimResult | None:
        """
        What can be known before the transaction begins, or None where the claim itself finds out as cheaply.

        Never `Claimed`.
        """

    def begin(self, using: str, attempt: Attempt) -> ClaimResult | None:
        """
        Claim the identity in a statement that begins the transaction, or None where `claim` is to be called inside it.

        Only with `Claimed` a transaction is open afterwards, and the engine enters its atomic block at once. Where it
        raises `LostRace`, none is; after any other exception the engine closes the connection.
        """
        return None

    @abstractmethod
    def claim(self, using: str, attempt: Attempt) -> ClaimResult:
        """
        Claim the identity for the open transaction, without waiting for a rival where the database allows it.

        Raises `LostRace` where only a new transaction can tell.
        """

    @abstractmethod
    def complete(self, using: str, attempt: Attempt, claim: Claimed, record: CompletionRecord) -> None:
        """
        Write the record on the claim's own row, in the claim's own transaction.

        Raises `TransactionBroken` where the claim is gone, `CommittedEarly` where the handler committed it.
        """

    @abstractmethod
    def is_unsettled(self, using: str, attempt: Attempt) -> bool:
        """Is the identity's claim committed without an outcome? Asked when the transaction is over."""

    @abstractmethod
    def executed_at(self, using: str, digest: bytes) -> datetime | None:
        """When what is stored for the identity *digest* was executed: it tells one execution from the next."""


class LeasedStore(Store):
    """
    A store beside all databases, for work that is not in one. `using` is None in all its calls.

    Each claim has an owner token, made by the engine, and a lease, which a thread renews while the handler runs. Every
    change asks for the token first: what comes with another one changes nothing.
    """

    @abstractmethod
    def claim(self, attempt: Attempt, token: str, lease: float, *, take_over: bool) -> ClaimResult:
        """
        Claim the identity for *token*, for *lease* seconds, in one atomic step.

        `Claimed` where nothing is stored or what is has expired; the same again where *token* holds the claim already,
        as its reply may have been lost. `InFlight` while another's lease lasts. After it `Unsettled`, whose `found_out`
        says why to the first token that asks; with *take_over* and the same fingerprint `Claimed` instead. What cannot
        be read is `Unsettled` too, and never taken over. A claim without an outcome is kept for `attempt.ttl` from its
        last lease on.

        A token that was abandoned is not let in any more: that is `InFlight`.
        """

    @abstractmethod
    def complete(self, attempt: Attempt, claim: Claimed, record: CompletionRecord) -> CompletionRecord | None:
        """
        Write *record*, to be kept for `attempt.ttl` seconds, if the claim is still its token's, whether or not its
        lease has run out, or if the store itself has forgotten it.

        Returns the record that answers from now on: *record* itself, the same object; or that of another request with
        the same fingerprint which has taken the claim over; or None where there is no such record.
        """

    @abstractmethod
    def release(self, attempt: Attempt, claim: Claimed) -> None:
        """Free the key, if the claim is still its token's."""

    @abstractmethod
    def abandon(self, attempt: Attempt, claim: Claimed, lease: float) -> None:
        """`release` a claim of *lease* seconds that may still be on its way to the store, and is not let in then."""

    @abstractmethod
    def renew(self, attempt: Attempt, claim: Claimed, lease: float) -> bool:
        """
        Let the claim last *lease* seconds from now on. Returns False if it is not its token's any more, or was marked
        unsettled: a renewal may arrive late.
        """

    @abstractmethod
    def mark_unsettled(self, attempt: Attempt, claim: Claimed) -> None:
        """Let the claim's lease end now, without an outcome, of which everybody has been told."""
