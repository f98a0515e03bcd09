"""The admin of records: shows them, finds them by exact key, frees a key, settles an outcome; edits nothing."""

from django_idempotency.admin.records import IdempotencyRecordAdmin

__all__ = ["IdempotencyRecordAdmin"]
