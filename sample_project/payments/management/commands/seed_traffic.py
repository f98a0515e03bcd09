"""`manage.py seed_traffic`: a week of requests to look at in the admin, and two people who may look."""

from datetime import UTC, datetime
from typing import Any

from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import Group, Permission, User
from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction
from django.utils import timezone

from sample_project.traffic import rhythm
from sample_project.traffic.history import CUSTOMERS, History

OPERATOR = "operator"  # may do everything
SUPPORT = "support"  # may look: not at bodies, and not free a key
# What support staff gets, as a group: to see that a payment was made once, not what was answered.
SUPPORT_MAY = {
    "django_idempotency": ["view_idempotencyrecord", "view_decisioncount"],
    "payments": ["view_account", "view_charge", "view_refund", "view_transfer", "view_deposit"],
}

USAGE = """\
{records} records of {days} days are in the admin, {base}/admin/django_idempotency/idempotencyrecord/

  {operator} may do everything, {support} may look. Both have the password {password!r}.
"""
RELEASE = """
A release on {release:%A %d %B, %H:%M} UTC cut connections: look at its hour on the dashboard, and at the two
statements that it left without an outcome.
"""


def moment(text: str) -> datetime:
    """An ISO 8601 time; UTC where it names no other zone."""
    value = datetime.fromisoformat(text)
    return value if value.tzinfo else value.replace(tzinfo=UTC)


class Command(BaseCommand):
    help = "Makes up a week of requests, and two users of the admin. Run again, it changes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--until", type=moment, help="when it ends, like 2026-11-25T09:40; now, if left out")
        parser.add_argument("--days", type=int, default=7, help="3 or more have the release")
        parser.add_argument("--per-day", type=int, default=400, help="first requests on a working day")
        parser.add_argument("--password", default="sample-password", help="of both users")
        parser.add_argument("--base-url", default="http://127.0.0.1:8000", help="for the printed links")

    @transaction.atomic
    def handle(self, *args: Any, until: datetime | None, days: int, per_day: int, **options: Any) -> None:
        if User.objects.filter(username=next(iter(CUSTOMERS))).exists():
            self.stdout.write("The traffic is there already; other days need a new database.")
            return
        history = History(until or timezone.now(), days, per_day)
        history.carry_out()
        hashed = make_password(options["password"])
        User.objects.create(username=OPERATOR, password=hashed, is_staff=True, is_superuser=True)
        User.objects.create(username=SUPPORT, password=hashed, is_staff=True).groups.add(support_group())
        self.stdout.write(
            USAGE.format(
                records=len(history.kept.records),
                days=days,
                base=options["base_url"],
                operator=OPERATOR,
                support=SUPPORT,
                password=options["password"],
            )
        )
        released = rhythm.release(history.until)
        if released > history.begins:
            self.stdout.write(RELEASE.format(release=released))


def support_group() -> Group:
    group, _ = Group.objects.get_or_create(name="Support")
    for app, codenames in SUPPORT_MAY.items():
        group.permissions.add(*Permission.objects.filter(content_type__app_label=app, codename__in=codenames))
    return group
