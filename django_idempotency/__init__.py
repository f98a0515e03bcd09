"""
Idempotency keys for Django: a request that is sent again takes effect once, and its retry gets the stored answer.

`idempotent` protects views and `once` all other work; a `Policy` holds the options of either. `idempotency_exempt`
leaves a view out of what the middleware protects.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django_idempotency.core.policy import Policy
    from django_idempotency.engine.execution import current_operation
    from django_idempotency.protection.exemptions import idempotency_exempt
    from django_idempotency.protection.functions import once
    from django_idempotency.protection.views import idempotent

__all__ = ["Policy", "current_operation", "idempotency_exempt", "idempotent", "once"]
__version__ = "0.1.0"

_OWNERS = {
    "Policy": "core.policy",
    "current_operation": "engine.execution",
    "idempotency_exempt": "protection.exemptions",
    "idempotent": "protection.views",
    "once": "protection.functions",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a program that imports `client` alone loads no server (PEP 562)."""
    if name not in _OWNERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"{__name__}.{_OWNERS[name]}"), name)
    return found
