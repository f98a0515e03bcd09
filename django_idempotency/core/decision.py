"""What to do with an attempt, and with its handler's answer: pure functions over values."""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, assert_never

from django_idempotency.core.record import CompletionRecord
from django_idempotency.exceptions import KeyExpired, KeyReused, OutcomeUnknown, Refusal

# --- what a store answers to a claim ---


@dataclass(frozen=True, slots=True)
class Claimed:
    """
    The identity is ours to execute. The store recognises its claim by *token* when the record is written, for which it
    may have *kept* something.
    """

    token: str = ""
    taken_over: bool = False  # from a request whose outcome is unknown
    kept: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class InFlight:
    """Another request holds the claim. Its *fingerprint* is None if its open transaction hides it."""

    fingerprint: bytes | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """A completion record exists; its request had this *fingerprint*."""

    record: CompletionRecord
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A claim whose outcome is unknown, because its handler ended the transaction by itself or never answered."""

    fingerprint: bytes
    found_out: str = ""  # the reason, if it has not been announced before


@dataclass(frozen=True, slots=True)
class Expired:
    """A tombstone: the record of a request of this *fingerprint* has expired, and its key is not new again."""

    fingerprint: bytes


ClaimResult = Claimed | InFlight | Completed | Unsettled | Expired

# --- what is done with the attempt ---


@dataclass(frozen=True, slots=True)
class Execute:
    """Run the handler under this claim."""

    claim: Claimed


@dataclass(frozen=True, slots=True)
class Replay:
    """Answer from the record."""

    record: CompletionRecord


@dataclass(frozen=True, slots=True)
class Wait:
    """The identity is in flight: ask again later, or refuse."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with an error; nothing is done."""

    refusal: Refusal


Decision = Execute | Replay | Wait | Refuse


def decide(found: ClaimResult, fingerprint: bytes) -> Decision:
    """Decide what to do with a request of this *fingerprint*, given what the store *found* for its identity."""
    match found:
        case Claimed():
            return Execute(found)
        case InFlight(original):
            return Wait() if original in (None, fingerprint) else Refuse(KeyReused())
        case Completed(record, original):
            return Replay(record) if original == fingerprint else Refuse(KeyReused())
        case Unsettled(original):
            return Refuse(OutcomeUnknown() if original == fingerprint else KeyReused())
        case Expired(original):
            return Refuse(KeyExpired() if original == fingerprint else KeyReused())
        case _:
            assert_never(found)


# --- what becomes of an execution ---


Value = TypeVar("Value", covariant=True)


@dataclass(frozen=True, slots=True)
class Answer(Generic[Value]):
    """A handler's answer: the *value* is for this caller, the *record* for the next; None if it is not to be stored."""

    value: Value
    record: CompletionRecord | None
    summary: str = "a result"  # for logs: "status 201"
    rule: str = ""  # why there is no record, if a handler may not expect that its writes are rolled back
    only_if_written: bool = False  # without a write it is a refusal
    is_promise: bool = True  # False if it may be sent although the work is lost


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep the work and the record: commit them together."""

    record: CompletionRecord


@dataclass(frozen=True, slots=True)
class Forget:
    """Roll the work back and free the key, by this *rule*."""

    rule: str = ""


def settle(answer: Answer[object], *, rollback_requested: bool, has_written: bool) -> Remember | Forget:
    """Decide whether the work and the record commit together, or neither does."""
    if answer.record is None:
        return Forget(answer.rule)
    if rollback_requested:
        return Forget("the handler called `transaction.set_rollback(True)`")
    if answer.only_if_written and not has_written:
        return Forget()
    return Remember(answer.record)
