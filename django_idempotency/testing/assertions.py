"""`assert_idempotent`: sends one request in every way in which clients repeat it."""

from collections.abc import Callable, Iterable
from typing import Any

from django_idempotency.testing.arguments import texts
from django_idempotency.testing.calls import Sender, new_key
from django_idempotency.testing.compare.snapshots import LARGEST_TABLE
from django_idempotency.testing.observe.requests import Observer
from django_idempotency.testing.steps import DERIVED, Proof, Steps


def assert_idempotent(
    call: Sender,
    *,
    other_payload: Any = DERIVED,
    other_user: Any = None,
    required: bool | None = None,
    key: str | Callable[[], str] = new_key,
    effect: bool = True,
    using: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] = (),
    limit: int = LARGEST_TABLE,
) -> Proof:
    """
    Prove that *call* takes effect once, however its client sends it: again after its transaction failed, as a
    duplicate, with another payload, as another user, with a malformed key and without one.

    After each request the content of the databases (*using*; by default all that the test may use) is compared, and so
    are e-mails and the caches in this process's memory.

    *other_payload* is data for the call, or a call; by default the kit makes one, and None leaves it out. *other_user*
    is a user, a client or a call. *required* is by default that of the view's policy; with False, a request without a
    key has to run. *key* is the key, or a callable that makes one, for a view that demands a format. *effect* is False
    for a call without a change that the kit can see.

    *ignore* names what may change with each request: tables and columns (`"audit_*"`, `"auth_user.last_seen"`), keys of
    caches (`"cache:rl:*"`), headers (`"header:X-Served-By"`), `"mail"`. *limit* is the largest number of rows of a
    table.

    Raises `NotProved`, an `AssertionError`, with all that was found, and `TypeError` if the call cannot take the other
    payload or user.
    """
    ignored = texts(ignore)
    observer = Observer(using=using, ignore=ignored, limit=limit)
    first_key = key if isinstance(key, str) else key()
    trial = Steps(call=call, observer=observer, key=first_key, effect=effect, ignore=ignored)
    trial.first_run()
    trial.duplicates()
    trial.another_payload(other_payload)
    trial.another_user(other_user)
    trial.bad_keys(required)
    return trial.verdict()
