"""
For probes (option `uncertain`): a callable of an `UnsettledOperation`, whose outcome nobody knows. It asks the other
system, and returns `Found`, `NOT_DONE` or `UNSURE`.
"""

from django_idempotency.core.probe import NOT_DONE, UNSURE, Found, UnsettledOperation

__all__ = ["NOT_DONE", "UNSURE", "Found", "UnsettledOperation"]
