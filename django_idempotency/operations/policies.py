"""The policies of the project's operations, as an operator's record names them."""

from functools import cached_property

from django_idempotency import conf
from django_idempotency.core.keys import MAX_STRING
from django_idempotency.core.policy import ResolvedPolicy
from django_idempotency.models import IdempotencyRecord
from django_idempotency.protection.functions import protected_functions
from django_idempotency.protection.routes import views
from django_idempotency.stores.stored import StoredRecord


class Policies:
    """The policies of the project's operations, found once: by route and method for requests, by name for `@once`."""

    @cached_property
    def _functions(self) -> dict[str, ResolvedPolicy]:
        return {operation: conf.resolved_once(policy) for _name, operation, policy in protected_functions()}

    @cached_property
    def _handlers(self) -> list[tuple[str, frozenset[str], ResolvedPolicy]]:
        return [
            (view.route, handler.methods, conf.resolved(*handler.policies))
            for view in views()
            for handler in view.handlers
        ]

    def policy(self, record: StoredRecord | IdempotencyRecord) -> ResolvedPolicy | None:
        """The policy of the operation that *record* belongs to; None if it is not known (any more)."""
        if not record.request:
            known = self._functions
            return known.get(record.operation) or next(
                (policy for policy in known.values() if record.operation in (policy.operation_aliases or ())), None
            )
        method, host, _route = [*record.request.split(" ", 2), "", ""][:3]
        for route, methods, policy in self._handlers:
            if (not methods or method in methods) and f"{method} {host} {route}"[:MAX_STRING] == record.request:
                return policy
        return None
