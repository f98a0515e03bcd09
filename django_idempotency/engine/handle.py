"""The operation handle: what a protected handler can know of the operation that it carries out."""

from collections.abc import Callable
from typing import Any, Literal

from django.http import HttpRequest

from django_idempotency.core.keys import Attempt, Identity
from django_idempotency.core.probe import Verdict
from django_idempotency.exceptions import PhaseError, Refusal

Probe = Callable[[str], Any] | Literal[Verdict.UNSURE]


class IdempotentRequest(HttpRequest):
    """For annotations: the request as a protected handler gets it; `idempotency` is None if it carries no key."""

    idempotency: "OperationHandle | None"


class OperationHandle:
    """`request.idempotency`: the identity in execution, and keys for the systems that the handler calls."""

    __slots__ = ("_attempt",)

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    @property
    def identity(self) -> Identity:
        return self._attempt.identity

    @property
    def key(self) -> str:
        """The client's idempotency key, unquoted."""
        return self._attempt.identity.key

    @property
    def scope(self) -> str:
        """The tenant or user to whom the key belongs."""
        return self._attempt.identity.scope

    def derive_key(self, name: str) -> str:
        """
        An idempotency key for the downstream system *name*, as a UUID.

        It is the same at every retry of a request, another one for every name and for a corrected payload, and
        independent of `SECRET_KEY`. With `operation_aliases` it is that of the first name.
        """
        return self._attempt.derive_key(name)

    def phase(self, name: str, fn: Callable[..., Any], *, probe: Probe | None = None, was: str | None = None) -> Any:
        """
        Run *fn* as the phase *name*, in one transaction with its recovery point, and return its result, which must be
        JSON (RFC 8259). A retry of the request gets the recorded result, and *fn* does not run again.

        *fn* may take a parameter `key`, an idempotency key for another system: `derive_key(name)`. If a phase may
        have begun in an earlier attempt, *probe* is called with that key before *fn*. It returns the result, `NOT_DONE`
        or `UNSURE` (`django_idempotency.probes`). For a system that knows no keys and cannot be asked, *probe* is
        `UNSURE` itself. *was* is the former name of a phase that was renamed.

        Raises what *fn* raises, and `PhaseError` where a retry could not resume: in another mode than "phased", inside
        another phase or a transaction, for a name that was used before, for a result that is not JSON, and if the
        recorded phases are others.
        """
        raise PhaseError(f'Phase {name!r}: phases need the option mode="phased".')


class DeferredHandle(OperationHandle):
    """The handle of a request that is not observed: its attempt is read if the handler asks for it."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[], Attempt | Refusal | None]) -> None:
        self._read = read

    def __getattr__(self, name: str) -> Any:
        if name != "_attempt":  # which `__init__` has left unset
            raise AttributeError(name)
        found = self._read()
        if isinstance(found, Refusal):
            raise found
        if found is not None:
            self._attempt = found
        return found
