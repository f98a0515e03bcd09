"""A repeated request produces the same result as a single one: `idempotent` for views, `once` for all other work."""

from django_idempotency.core.policy import Policy
from django_idempotency.engine.execution import current_operation
from django_idempotency.protection.functions import once
from django_idempotency.protection.views import idempotent

__all__ = ["Policy", "current_operation", "idempotent", "once"]
__version__ = "0.1.0"
