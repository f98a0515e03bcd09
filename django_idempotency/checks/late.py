"""The checks of the options about late retries, of a view or of a function of `@once`."""

from collections.abc import Iterator

from django.core.checks import CheckMessage, Error, Warning

from django_idempotency.adapters.former import template
from django_idempotency.core.keys import CLOCK_TOLERANCE
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.stores import stores


def check_late(name: str, policy: ResolvedPolicy) -> Iterator[CheckMessage]:
    """E017, W019."""
    if policy.tombstone_ttl is not None and not stores[policy.store].keeps_tombstones:
        yield Error(
            f"{name} has the option 'tombstone_ttl', but store {policy.store!r} keeps no tombstones: it takes a late"
            " retry for a new request.",
            hint="Use a DatabaseStore or a RedisStore, or leave `tombstone_ttl` out. A store of your own says"
            " `keeps_tombstones = True` if it keeps them.",
            id="django_idempotency.E017",
        )
    kept = policy.ttl + (policy.tombstone_ttl or 0.0)
    if policy.key_max_age is not None and policy.key_max_age + CLOCK_TOLERANCE > kept:
        yield Warning(
            f"{name} accepts keys that are up to {policy.key_max_age:.0f} s old (option 'key_max_age'), but remembers"
            f" them for {kept:.0f} s: a request that is repeated in between is executed again.",
            hint="Make `ttl`, or `ttl` and `tombstone_ttl` together, longer than `key_max_age` by at least"
            f" {CLOCK_TOLERANCE:.0f} seconds, by which a client's clock may be ahead.",
            id="django_idempotency.W019",
        )


def check_aliases(name: str, route: str, policy: ResolvedPolicy) -> Iterator[CheckMessage]:
    """W020, of a view at *route*."""
    for alias in policy.operation_aliases or ():
        method, _, former = alias.partition(" ")
        if not former or not method.isupper():
            continue  # no route: the path is the same
        try:
            missing = ", ".join(sorted(set(template(former)[1]) - set(template(route)[1])))
            reason = f"has the parameters {missing}, which today's route does not have" if missing else ""
        except ValueError as error:
            reason = f"does not say what it matches ({error})"
        if reason:
            yield Warning(
                f"{name} (route {route!r}): the former route in the option 'operation_aliases', {former!r}, {reason}."
                " The path of the first request cannot be found, so its retry is refused as another request (422"
                " key-reused).",
                hint="Keep the names of the parameters when a route is renamed, or write the former route with names"
                " that today's route has.",
                id="django_idempotency.W020",
            )
