"""Records of any content, the pages of the admin that show them, and who looks at those."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from django_idempotency.core.record import CompletionRecord
from django_idempotency.models import IdempotencyRecord
from tests.operations.records import record

JSON = (("Content-Type", "application/json"), ("Content-Length", None))
SITE = "django_idempotency_idempotencyrecord"


def make_record(
    key: str = "key-1",
    *,
    using: str = "default",
    headers: tuple[tuple[str, str | None], ...] = JSON,
    body: bytes = b'{"id":1,"amount":10}',
    ttl: timedelta = timedelta(hours=24),
    **fields: Any,
) -> IdempotencyRecord:
    """A completed record of *key*; *fields* overwrite its columns."""
    fields = {"request": "POST shop.example pay/", "request_id": "request-1"} | fields
    answer = CompletionRecord(status=201, headers=headers, body=body)
    made = record(key, answer=answer, expires_in=ttl.total_seconds(), **fields)
    made.save(using=using, force_insert=True)
    return made


def make_unsettled(key: str = "key-1", **fields: Any) -> IdempotencyRecord:
    """A claim that was committed without an outcome. It may expire if its *ttl* is negative."""
    record = make_record(key, status=0, head=b"", body=b"", **fields)
    if "uncertain_until" not in fields and fields.get("ttl", timedelta(1)) < timedelta(0):
        record.uncertain_until = record.expires_at
        record.save()
    return record


def address(record: IdempotencyRecord) -> str:
    """What stands in URLs and in the log for *record*."""
    return str(record) if record._state.db == "default" else f"{record}@{record._state.db}"


def page(name: str, record: IdempotencyRecord | str | None = None, site: str = "admin") -> str:
    """The URL of an admin page: `changelist`, or that of a record or of an address."""
    text = address(record) if isinstance(record, IdempotencyRecord) else record
    args = () if text is None else (quote(text),)
    return reverse(f"admin:{SITE}_{name}", args=args, current_app=site)


def text(response: HttpResponse) -> str:
    """A page, for what is in it."""
    return response.content.decode()


def decide(client: Client, name: str, of: IdempotencyRecord | str, **data: str) -> Any:
    """Open the page that asks for a decision about a record, and send its form with *data*."""
    opened = client.get(page(name, of))
    assert opened.status_code == 200
    hidden = opened.context["adminform"].form.initial
    return client.post(page(name, of), {**hidden, "reason": "Looked.", **data}, follow=True)


@pytest.fixture
def operator(django_user_model) -> Callable[..., Client]:
    """A client of a member of staff with the permission to view records, and those that are named."""

    def log_in(*permissions: str, view: bool = True, name: str = "operator") -> Client:
        user = django_user_model.objects.create_user(name, password="secret", is_staff=True)
        names = [*permissions, *(["view_idempotencyrecord"] if view else [])]
        found = Permission.objects.filter(content_type__app_label="django_idempotency", codename__in=names)
        assert len(found) == len(names)
        user.user_permissions.set(found)
        client = Client()
        client.force_login(user)
        return client

    return log_in
