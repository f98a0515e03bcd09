"""
Idempotency keys for Django: a request that is sent again takes effect once, and its retry gets the stored answer.

`idempotent` protects views and `once` all other work; a `Policy` holds the options of either. `idempotency_exempt`
leaves a view out of what the middleware protects.
"""

from django_idempotency.core.policy import Policy
from django_idempotency.engine.execution import current_operation
from django_idempotency.protection.exemptions import idempotency_exempt
from django_idempotency.protection.functions import once
from django_idempotency.protection.views import idempotent

__all__ = ["Policy", "current_operation", "idempotency_exempt", "idempotent", "once"]
__version__ = "0.1.0"
