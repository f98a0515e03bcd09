"""
The admin of records: shows them, finds them by exact key, frees a key, settles an outcome; edits nothing. And a mixin
that protects the pages of a project's own `ModelAdmin`.
"""

from django_idempotency.admin.mixin import IdempotencyAdminMixin
from django_idempotency.admin.records import IdempotencyRecordAdmin

__all__ = ["IdempotencyAdminMixin", "IdempotencyRecordAdmin"]
