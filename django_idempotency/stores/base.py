"""
The contract of a store, for authors of one.

A `TransactionalStore` keeps claims and records in the database that the handler writes to, and holds the law: work and
record commit together. A `LeasedStore` is for work that no transaction covers: its claims are leases, and an execution
that does not answer leaves an unknown outcome. A store derives from one of them. It serves all threads of a process, so
it holds no connection of its own.

`django_idempotency.testing.store_contract` has the tests that any store has to pass.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.checks import CheckMessage

from django_idempotency.core.decision import Claimed, ClaimResult
from django_idempotency.core.keys import Attempt
from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import PolicyError
from django_idempotency.stores.stored import StoredRecord

if TYPE_CHECKING:
    from django_idempotency.stores.database.phased import Runs
    from django_idempotency.stores.redis.replay_cache import ReplayCache


class LostRace(Exception):
    """
    A rival was faster, and this transaction cannot see its result: the attempt has to start again in a new one.

    The engine does so, or raises `RequestInProgress` if the transaction is not its own.
    """


class Fault(Enum):
    """The meaning of an error of the store's server."""

    RACE = auto()  # lost to a rival: the whole transaction was rolled back
    UNAVAILABLE = auto()  # the store does not answer; nothing was done
    OTHER = auto()  # a defect or a mis-configuration, which propagates


class Store(ABC):
    """
    The part that both kinds of store have in common, most of it for operators.

    *options* is the dict `OPTIONS` of the store's entry in the setting. Raises `PolicyError` for an unknown option and
    for a bad value.
    """

    commits_with_handler: ClassVar[bool] = False
    """Do its claims and records commit in the handler's transaction?"""

    encrypts: ClassVar[bool] = False
    """Does it pass what it keeps through `encryption.seal_answer`, or keep nothing that outlives the process?"""

    has_table: ClassVar[bool] = False
    """Are its records rows of `IdempotencyRecord`?"""

    keeps_tombstones: ClassVar[bool] = False
    """Does it refuse late retries for `attempt.tombstone_ttl` seconds?"""

    replay_cache: "ReplayCache | None" = None
    """The cache in front of it."""

    runs: "Runs | None" = None
    """Keeps the runs of phased mode."""

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        self.alias = alias
        self.options = options

    def __str__(self) -> str:
        return f"The {type(self).__name__} {self.alias!r}"

    def check_options(self, *allowed: str) -> None:
        """Raise `PolicyError` for an option that is not *allowed*."""
        for name in self.options:
            if name not in allowed:
                takes = " and ".join(repr(option) for option in allowed) or "none"
                raise PolicyError(f"{self} has no option {name!r}: it takes {takes}.")

    @abstractmethod
    def find(self, using: str | None, digest: bytes) -> StoredRecord | None:
        """Find what is stored for the identity *digest*, but not a claim in flight."""

    def peek(self, using: str | None, digest: bytes) -> StoredRecord | None:
        """
        Find what answers for the identity *digest* now: like `find`, without what has expired, and with a claim in
        flight if it can be seen. It waits for nobody, and takes no lock that a claim asks for.
        """
        found = self.find(using, digest)
        return found if found is not None and found.is_live else None

    @abstractmethod
    def unsettled(self, using: str | None, limit: int) -> list[StoredRecord]:
        """List at most *limit* unsettled outcomes, the oldest first."""

    @abstractmethod
    def free(self, using: str | None, digest: bytes, executed_at: datetime | None, *, unsettled: bool = False) -> bool:
        """
        Forget the execution of the identity *digest* that began at *executed_at* (as it was read), so that the next
        request runs again. With *unsettled*, an answer that was stored since stays. A transactional store does this in
        the caller's transaction, without a wait for a rival if possible.

        Returns False if nothing is stored. Raises `RequestInProgress` and changes nothing if the identity is in flight,
        or if another execution, or an answer that must stay, is stored. Outside the databases, None for *executed_at*
        stands for any execution. The claim of the freed execution has no effect any more.
        """

    @abstractmethod
    def settle(self, using: str | None, digest: bytes, executed_at: datetime | None, record: CompletionRecord) -> bool:
        """
        Store *record* as the answer of the unsettled execution that began at *executed_at*; its lifetime begins anew.

        Returns False if no such execution is stored. Raises as `free` does, and if it has a record by now.
        """

    def of_scope(self, using: str | None, scope: str) -> Iterator[StoredRecord]:
        """
        Yield what is stored for the identities of *scope*, in any order and perhaps without its answers: records,
        unsettled outcomes, and the claims in flight that can be seen (`is_in_flight`). The caller may free what it has
        got before it goes on.
        """
        raise NotImplementedError(f"{self} cannot list what it stores for a scope: it has no `of_scope`.")

    @abstractmethod
    def classify(self, using: str | None, error: Exception) -> Fault:
        """
        Say what *error* means: of the store's before the handler has run, and in a transactional store also whether the
        database has cancelled the handler's transaction for a rival's sake.
        """

    def database(self) -> str | None:
        """The alias of the database that the store chooses; None for a store outside the databases."""
        return None

    def check(self, databases: Collection[str] = ()) -> list[CheckMessage]:
        """Check the store's settings, and those of the *databases* that options `using` name, for `manage.py check`."""
        return []

    def check_database(self, using: str, max_body: int) -> list[CheckMessage]:
        """Check the server of *using*, for responses of *max_body* bytes, for `manage.py check --database`."""
        return []

    def check_servers(self) -> list[CheckMessage]:
        """Check the servers that are not databases, for `manage.py check --deploy`."""
        return []


class TransactionalStore(Store):
    """
    A store inside the database on *using* that will hold the handler's effects.

    Claim and record are written in the handler's transaction. The engine opens and commits it; if it is the engine's
    own, the store may begin it with the claim and send COMMIT with the record.
    """

    commits_with_handler = True

    @abstractmethod
    def database(self) -> str:
        """The alias of the database that holds the transaction, if no option `using` names one."""

    @abstractmethod
    def look_up(self, using: str, attempt: Attempt) -> ClaimResult | None:
        """Look for a record before the transaction begins. None if the claim finds out as cheaply. Never `Claimed`."""

    def begin(self, using: str, attempt: Attempt) -> ClaimResult | None:
        """
        Claim the identity by a statement that begins the transaction. None if `claim` is to be called inside it.

        A transaction is open afterwards only with `Claimed`, and the engine enters its atomic block at once.
        """
        return None

    @abstractmethod
    def claim(self, using: str, attempt: Attempt) -> ClaimResult:
        """
        Claim the identity for the open transaction, without a wait for a rival if the database allows it.

        A record answers for `attempt.ttl` seconds. For the `attempt.tombstone_ttl` seconds after that it is `Expired`.
        A claim that was committed without an outcome stays `Unsettled`; with `attempt.uncertain_ttl`, for that many
        seconds from its beginning.

        Raises `LostRace` if only a new transaction can tell.
        """

    @abstractmethod
    def complete(self, using: str, attempt: Attempt, claim: Claimed, record: CompletionRecord) -> None:
        """
        Write the record on the claim's own row, in the claim's own transaction.

        Raises `TransactionBroken` if the claim is gone, and `CommittedEarly` if the handler committed it.
        """

    @abstractmethod
    def is_unsettled(self, using: str, attempt: Attempt) -> bool:
        """Is the identity's claim committed without an outcome? Called after the transaction."""

    @abstractmethod
    def executed_at(self, using: str, digest: bytes) -> datetime | None:
        """When the execution stored for the identity *digest* began, which tells it from the next one."""


class LeasedStore(Store):
    """
    A store outside the databases. `using` is None in all its calls.

    Each claim has an owner token, made by the engine, and a lease, which a thread renews while the handler runs. A
    change with another token has no effect.
    """

    @abstractmethod
    def claim(self, attempt: Attempt, token: str, lease: float, *, take_over: bool) -> ClaimResult:
        """
        Claim the identity for *token*, for *lease* seconds, in one atomic step.

        `Claimed` if nothing is stored, if it has expired, or if *token* already holds the claim (its reply may have
        been lost). `InFlight` while another token's lease lasts, and for an abandoned *token*. Later `Unsettled`, with
        `found_out` for the first token that asks; with *take_over* and the same fingerprint `Claimed` instead.
        Unreadable values are `Unsettled` and never taken over.

        A claim without an outcome stays until it is settled or freed; with `attempt.uncertain_ttl`, for that many
        seconds from its beginning, and while its lease lasts. For `attempt.tombstone_ttl` seconds after its record has
        expired an identity is `Expired`.
        """

    @abstractmethod
    def hold(self, attempt: Attempt, token: str, lease: float) -> datetime | None:
        """
        Take over the unsettled claim of the identity, if it has the same fingerprint, for *token* and for *lease*
        seconds, so that a probe can be asked. It stays the claim of the same execution: `complete` ends it with an
        answer, and `mark_unsettled` gives it back. If the lease runs out, its outcome is as unknown as before; then
        `claim` says so to the next caller, unless another one than *token* was told before.

        Returns when the execution began, or None if there is no such claim or its value cannot be read.
        """

    @abstractmethod
    def begin(self, attempt: Attempt, claim: Claimed, lease: float) -> bool:
        """
        Let an execution begin under a claim that was taken by `hold`, for *lease* seconds: nothing was done before.
        Returns False and changes nothing if the claim belongs to another token, or is gone.
        """

    @abstractmethod
    def complete(self, attempt: Attempt, claim: Claimed, record: CompletionRecord) -> CompletionRecord | None:
        """
        Write *record*, to be kept for `attempt.ttl` seconds, if the claim still belongs to its token, even if its lease
        has run out, or if the store itself has lost the claim.

        Returns the record that answers from now on: *record* itself, the same object; or that of another request of
        the same fingerprint which took the claim over; or None if there is none.
        """

    @abstractmethod
    def release(self, attempt: Attempt, claim: Claimed) -> None:
        """Free the key, if the claim still belongs to its token."""

    @abstractmethod
    def abandon(self, attempt: Attempt, claim: Claimed, lease: float) -> None:
        """Like `release`, and refuse this token for *lease* seconds, because the claim may still be on its way."""

    @abstractmethod
    def renew(self, attempt: Attempt, claim: Claimed, lease: float) -> bool:
        """
        Extend the lease to *lease* seconds from now. Returns False if the claim belongs to another token, or was marked
        unsettled (a renewal may arrive late).
        """

    @abstractmethod
    def mark_unsettled(self, attempt: Attempt, claim: Claimed) -> None:
        """End the lease now and leave the outcome unknown. The caller announces it; `claim` does not again."""
