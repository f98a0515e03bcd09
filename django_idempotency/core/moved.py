"""What another package knew a request by, so that its records, once they are imported, answer the request's retries."""

from dataclasses import dataclass, replace
from hashlib import sha256

from django_idempotency.core.keys import Attempt, Identity

ANYONE = "anyone"  # the scope of an imported record that answers whoever sends its request


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """
    The request of a record in another *package*: the *name* under which it keeps the record (1 to 255 characters), and
    the *fingerprint* that it compares.

    *scope* is the caller's, if the package keeps its records apart by the user.
    """

    package: str
    name: str
    fingerprint: bytes = b""
    scope: str | None = None

    def attempt(self, scope: str, attempt: Attempt) -> Attempt:
        """*attempt* as it finds, or writes, the imported record of *scope*."""
        identity = Identity(scope, f"moved from {self.package}", self.name)
        return replace(attempt, identity=identity, fingerprint=sha256(self.fingerprint).digest())

    def attempts(self, attempt: Attempt) -> tuple[Attempt, ...]:
        """*attempt* under each identity that the record may have."""
        scopes = (attempt.identity.scope, ANYONE) if self.scope is None else (self.scope,)
        return tuple(self.attempt(scope, attempt) for scope in scopes)
