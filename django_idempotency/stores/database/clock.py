"""
The server's times, with `USE_TZ` and without. If `USE_TZ` is False, Django reads and writes naive times: in UTC on
MariaDB, MySQL and SQLite, as our statements do, and in `TIME_ZONE` on PostgreSQL.
"""

from datetime import UTC, datetime

from django.conf import settings
from django.db import connections
from django.utils import timezone


def in_utc(using: str, moment: datetime) -> datetime:
    """Convert *moment*, which Django read from *using*, to UTC."""
    if timezone.is_naive(moment):
        zone = timezone.get_default_timezone() if connections[using].vendor == "postgresql" else UTC
        moment = moment.replace(tzinfo=zone)
    return moment.astimezone(UTC)


def as_django_writes(using: str, moment: datetime | None) -> datetime | None:
    """Convert *moment* to a parameter on *using*, because Django refuses aware times if `USE_TZ` is False."""
    if moment is None or settings.USE_TZ or timezone.is_naive(moment) or connections[using].vendor == "postgresql":
        return moment
    return moment.astimezone(UTC).replace(tzinfo=None)
