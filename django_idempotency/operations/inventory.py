"""The stores and databases of the project's records, as far as they are known before the first request."""

from collections.abc import Callable, Iterable

from django_idempotency import conf
from django_idempotency.core.policy import Policy, ResolvedPolicy
from django_idempotency.exceptions import PolicyError
from django_idempotency.protection.functions import protected_functions
from django_idempotency.protection.routes import views
from django_idempotency.stores import stores
from django_idempotency.stores.base import Store


def stores_in_use() -> dict[Store, list[ResolvedPolicy]]:
    """Each store that may be used, with the policies that name it: those of the setting, of views and of events."""
    project = conf.resolved()
    of_events = (_resolved(conf.resolved_once, policy) for *_, policy in protected_functions())
    used: dict[Store, list[ResolvedPolicy]] = {}
    for policy in filter(None, (project, *policies_of_views(), *of_events)):
        used.setdefault(stores[policy.store], []).append(policy)
    for alias in conf.configured_stores():  # a task that is not imported may use it
        used.setdefault(stores[alias], [project])
    return used


def policies_of_views() -> list[ResolvedPolicy]:
    """The policies that protect views of the URLconf."""
    found = (_resolved(conf.resolved, *handler.policies) for view in views() for handler in view.handlers)
    return [policy for policy in found if policy is not None]


def databases_in_use() -> tuple[str, ...]:
    """The aliases of the databases with records, except those that a callable `using` chooses."""
    found: set[str | None] = set()
    for store, policies in stores_in_use().items():
        if store.commits_with_handler:
            found |= {store.database(), *named_databases(policies)}
    return tuple(sorted(filter(None, found)))


def some_are_unknown() -> bool:
    """Does a callable `using` choose databases for each request?"""
    return any(callable(policy.using) for policies in stores_in_use().values() for policy in policies)


def named_databases(policies: Iterable[ResolvedPolicy]) -> frozenset[str]:
    """The aliases that options `using` name. What a callable chooses is known only at the request."""
    return frozenset(policy.using for policy in policies if isinstance(policy.using, str))


def _resolved(resolve: Callable[..., ResolvedPolicy], *policies: Policy) -> ResolvedPolicy | None:
    try:
        return resolve(*policies)
    except PolicyError:
        return None  # E003
