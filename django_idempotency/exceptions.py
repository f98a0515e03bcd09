"""
Every error of the package, in one hierarchy:

    IdempotencyError
    ├── Refusal                 an answer to the client; nothing was done
    │   ├── KeyMissing          400 key-missing
    │   ├── KeyInvalid          400 key-invalid
    │   ├── KeyExpired          400 key-expired
    │   ├── KeyIgnored          400 key-ignored
    │   ├── BodyIncomplete      400 body-incomplete
    │   ├── LengthRequired      411 length-required
    │   ├── KeyReused           422 key-reused
    │   ├── RequestInProgress   409 request-in-progress
    │   ├── OutcomeUnknown      409 outcome-unknown
    │   ├── StoreUnavailable    503 store-unavailable
    │   ├── TryAgain            503 try-again
    │   └── ReceiptUnavailable  404 receipt-unavailable
    ├── HandlerError            the handler ran and broke the law; a 500 that names the remedy
    │   ├── UnstorableResponse      rolled back
    │   ├── TransactionBroken       rolled back
    │   ├── CommittedEarly          committed by the handler itself
    │   ├── PhaseError              phased mode: the phases of the handler are not as they must be
    │   └── OutcomeUncertain        outside the databases: it may have taken effect, and its answer is not stored
    ├── NothingDone             a handler outside the databases says that its work was not done
    ├── NoFinalAnswer           a client has sent a request as often as it may, and does not know what became of it
    ├── BodyUnreadable          other code read the request's body and kept nothing of it
    └── PolicyError             a mis-configuration; also an ImproperlyConfigured

A refusal is data (status, code, title, detail, seconds until a retry), which each adapter formats.
"""

from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured

__all__ = [
    "BodyIncomplete",
    "BodyUnreadable",
    "CommittedEarly",
    "HandlerError",
    "IdempotencyError",
    "KeyExpired",
    "KeyIgnored",
    "KeyInvalid",
    "KeyMissing",
    "KeyReused",
    "LengthRequired",
    "NoFinalAnswer",
    "NothingDone",
    "OutcomeUncertain",
    "OutcomeUnknown",
    "PhaseError",
    "PolicyError",
    "ReceiptUnavailable",
    "Refusal",
    "RequestInProgress",
    "StoreUnavailable",
    "TransactionBroken",
    "TryAgain",
    "UnstorableResponse",
]


class IdempotencyError(Exception):
    """The base of every error that this package raises."""

    identity: object = None  # the identity concerned, if it is known


class Refusal(IdempotencyError):
    """
    The request was not executed and gets no stored answer.

    *detail*, by default the class's docstring, is for the client's developer and reveals nothing of another request.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]
    retry_after: int | None = None  # seconds, at least 1; None if a retry cannot help

    def __init__(self, detail: str | None = None) -> None:
        self.message = detail or " ".join((self.__doc__ or self.title).split())
        super().__init__(self.message)

    def problem(self, docs_url: str | None = None) -> dict[str, Any]:
        """Return problem details (RFC 9457, 3.1); *docs_url* is the page that explains the code."""
        return {
            "type": f"{docs_url}#{self.code}" if docs_url else f"urn:django-idempotency:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.message,
            "code": self.code,
        }


class KeyMissing(Refusal):
    """This action needs an idempotency key: send one in the request, new for each intended action."""

    status = 400
    code = "key-missing"
    title = "An idempotency key is required."


class KeyInvalid(Refusal):
    """The idempotency key is malformed: send one key of 1 to 255 printable ASCII characters."""

    status = 400
    code = "key-invalid"
    title = "The idempotency key is malformed."


class KeyExpired(Refusal):
    """
    The key is too old: what was answered to it is not kept any more. Nothing was done now. Find out what became of the
    action before you send it with a new key.
    """

    status = 400
    code = "key-expired"
    title = "The idempotency key has expired."


class KeyIgnored(Refusal):
    """This action takes no idempotency key, so a retry would be executed again: send the request without one."""

    status = 400
    code = "key-ignored"
    title = "This action takes no idempotency key."


class BodyIncomplete(Refusal):
    """The request's body is shorter than its Content-Length: the connection was cut. Send the same request again."""

    status = 400
    code = "body-incomplete"
    title = "The request's body did not arrive whole."


class LengthRequired(Refusal):
    """This server does not mark the end of a body without a length: send the request with a Content-Length."""

    status = 411
    code = "length-required"
    title = "The request needs a Content-Length."


class KeyReused(Refusal):
    """The key already names another request. A retry cannot help: send a new key with a new request."""

    status = 422
    code = "key-reused"
    title = "This idempotency key was used for a different request."


class RequestInProgress(Refusal):
    """A request with this key is being executed. Send the same request again a little later."""

    status = 409
    code = "request-in-progress"
    title = "A request with this idempotency key is in progress."
    retry_after = 1


class OutcomeUnknown(Refusal):
    """A request with this key may have taken effect, and its answer is not known. It is not run again by itself."""

    status = 409
    code = "outcome-unknown"
    title = "The outcome of the first request with this idempotency key is unknown."


class StoreUnavailable(Refusal):
    """The idempotency store does not answer. Nothing was done: send the same request again later."""

    status = 503
    code = "store-unavailable"
    title = "The idempotency store is unavailable."
    retry_after = 5


class TryAgain(Refusal):
    """
    The database rolled this request's work back, because it was in the way of another one. Send the same request again.
    """

    status = 503
    code = "try-again"
    title = "The request lost to another one in the database."
    retry_after = 1


class ReceiptUnavailable(Refusal):
    """Nothing at this method and path takes a key: name those to which the request with the key was sent."""

    status = 404
    code = "receipt-unavailable"
    title = "There are no receipts for this method and path."


class HandlerError(IdempotencyError):
    """The handler ran, but its work and its answer could not be stored together."""


class UnstorableResponse(HandlerError):
    """The handler's answer cannot be stored, so its work was rolled back."""


class TransactionBroken(HandlerError):
    """The handler broke its transaction and continued, so its work was rolled back."""


class CommittedEarly(HandlerError):
    """
    One of the two ways into an unsettled outcome: the handler ended the transaction by itself. The claim stays, and a
    retry gets 409 `outcome-unknown` until an operator settles it or it expires.
    """

    reason = "its handler ended the transaction by itself"

    def __init__(self) -> None:
        super().__init__(
            "The handler ended the transaction by itself (a raw COMMIT, DDL on MariaDB or MySQL, executescript() on"
            " SQLite), so its work until then is committed. The claim stays without an outcome, and a retry gets 409"
            " outcome-unknown. Remove that statement from the handler, then settle this identity by hand."
        )


class PhaseError(HandlerError):
    """
    In phased mode the handler, or a phase, does what a retry could not resume. The message names the phase. What the
    phase wrote was rolled back; the phases before it stay.
    """


class OutcomeUncertain(HandlerError):
    """
    One of the two ways into an unsettled outcome: the handler ran outside of any transaction, and its answer is not
    stored. By default a retry gets 409 `outcome-unknown` until an operator settles it or it expires.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"The outcome of this request is unknown: {reason}.")


class NothingDone(IdempotencyError):
    """
    A handler whose store is outside the databases raises it, or a subclass, if it knows that nothing was done: the key
    is free again, and a retry runs. Any other exception that is no refusal leaves an unknown outcome.
    """


class NoFinalAnswer(IdempotencyError):
    """
    A client has spent its budget, and no answer was final. The action may have taken effect: send the same request
    again, with the same `key`. `response` is the last answer, or None if the last attempt had none.
    """

    key: str
    response: Any


class BodyUnreadable(IdempotencyError):
    """Other code consumed the request's body before its fingerprint was taken, and kept neither bytes nor data."""


class PolicyError(IdempotencyError, ImproperlyConfigured):
    """An option, a setting or the position of a decorator is wrong. The message names it and shows what is right."""
