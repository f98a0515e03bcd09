"""The checks of phased mode, of a view or of a function of `@once`."""

from collections.abc import Collection, Iterator

from django.conf import settings
from django.core.checks import CheckMessage, Error

from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.core.progress import PHASED
from django_idempotency.stores import stores


def check_store(name: str, policy: ResolvedPolicy) -> Iterator[CheckMessage]:
    """E018."""
    if policy.mode == PHASED and stores[policy.store].runs is None:
        yield Error(
            f'{name} has mode="{PHASED}", but store {policy.store!r} keeps no runs.',
            hint="Use a DatabaseStore.",
            id="django_idempotency.E018",
        )


def check_requests(name: str, policy: ResolvedPolicy, excepted: Collection[str]) -> Iterator[CheckMessage]:
    """E019. The databases *excepted* have no transaction around the view."""
    if policy.mode != PHASED or callable(policy.using):
        return
    using = policy.using or stores[policy.store].database()
    if using is not None and settings.DATABASES[using].get("ATOMIC_REQUESTS") and using not in excepted:
        yield Error(
            f'{name} has mode="{PHASED}", and ATOMIC_REQUESTS of {using!r} puts one transaction around it, in which no'
            " phase can commit.",
            hint="Decorate the view with @transaction.non_atomic_requests.",
            id="django_idempotency.E019",
        )
