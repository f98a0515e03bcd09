"""One call: its key, and its attempts until there is a final answer. The edges send, and wait."""

import logging
import random
import ssl
import time
from collections.abc import Callable, Collection, MutableMapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django_idempotency.client.decisions import RETRIED, Answer, End, Retry, decide
from django_idempotency.client.keys import new_key
from django_idempotency.exceptions import PolicyError

logger = logging.getLogger("django_idempotency.client")

UNKNOWN = (
    "The server cannot know the outcome of the first request with this key, and will not run it again. Ask the people"
    " who run it. The key is this exception's `key`."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPolicy:
    """
    How requests are sent: which get a key, and when one is sent again.

    *within* and *attempts* are the budget of one call. A wait is the server's `Retry-After`, plus a random part
    of an interval that begins with *first_wait* and doubles up to *longest_wait*. Requests of other *methods* pass
    through. *make_key* is called for a request without the *header*. *retried* are the statuses after which a request
    is sent again; for a server that answers a plain 409 while it works, `RETRIED | {409}`.

    *clock* (seconds), *now* (seconds since the epoch) and *draw* (0 to 1) are for tests.

    Raises `PolicyError` for a budget or a wait that is not positive.
    """

    within: timedelta = timedelta(minutes=1)
    attempts: int = 20
    first_wait: timedelta = timedelta(milliseconds=100)
    longest_wait: timedelta = timedelta(seconds=5)
    methods: Collection[str] = ("POST", "PATCH")
    header: str = "Idempotency-Key"
    make_key: Callable[[], str] = new_key
    retried: Collection[int] = RETRIED
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    draw: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        for name in ("within", "first_wait", "longest_wait"):
            value = getattr(self, name)
            if not isinstance(value, timedelta) or value <= timedelta(0):
                raise PolicyError(f"CallPolicy: {name!r} must be a timedelta above zero, not {value!r}.")
        if not isinstance(self.attempts, int) or self.attempts < 1:
            raise PolicyError(f"CallPolicy: 'attempts' must be an integer of at least 1, not {self.attempts!r}.")
        if isinstance(self.methods, str):
            raise PolicyError(f"CallPolicy: 'methods' must be a list of names, not the string {self.methods!r}.")


DEFAULT_POLICY: Final = CallPolicy()


class Call:
    """
    The attempts of one request. Its *headers* get the key, unless they have one, so that it goes where they go: to a
    request that is sent after a 401 or a redirect, or that is sent once more by hand.
    """

    def __init__(self, policy: CallPolicy, headers: MutableMapping[str, Any]) -> None:
        self.policy = policy
        self.headers = headers
        self.key: str = headers.get(policy.header) or policy.make_key()
        headers[policy.header] = self.key
        self.attempts = 0
        self._begun = policy.clock()

    def after(self, answer: Answer | None) -> Retry | End:
        """What to do after an attempt, which had this *answer*, or None if it was lost on the way."""
        policy = self.policy
        self.attempts += 1
        verdict = decide(
            answer,
            attempts=self.attempts,
            elapsed=policy.clock() - self._begun,
            within=policy.within.total_seconds(),
            most_attempts=policy.attempts,
            first_wait=policy.first_wait.total_seconds(),
            longest_wait=policy.longest_wait.total_seconds(),
            retried=policy.retried,
            draw=policy.draw,
        )
        if isinstance(verdict, Retry):
            seen = f"{answer.status} {answer.code}".rstrip() if answer else "no answer"
            logger.info("Attempt %d: %s. The same again in %.2f s.", self.attempts, seen, verdict.after)
        return verdict

    @property
    def given_up(self) -> str:
        """The message of a call without a final answer."""
        return (
            f"No final answer after {self.attempts} attempts. The action may have taken effect. To find out, send the"
            " same request again with the same key, which is this exception's `key`."
        )


def is_hopeless(error: BaseException) -> bool:
    """Did the server's certificate not convince us? Another attempt meets the same one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
