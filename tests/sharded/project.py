"""A project whose tenants live in two shards, each known by its host: what the page "Growing" shows."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse

from django_idempotency.models import AnswerEnd, IdempotencyRecord, PhasedRun

SHARDS = ("north", "south")
ACME, BOLT = "tenant-a.example", "tenant-b.example"
homes = {ACME: "north", BOLT: "south"}  # in a real project, a table

current: ContextVar[str | None] = ContextVar("shard", default=None)


def shard_of(request: HttpRequest) -> str:
    """The shard of the request's tenant, as the option `using` wants it."""
    return homes[request.get_host()]


class ShardMiddleware:
    """Names the shard for the router, as long as a request lasts."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        token = current.set(shard_of(request))
        try:
            return self.get_response(request)
        finally:
            current.reset(token)


class PaymentRouter:
    """Payments are in the shard, users in the default database. Records go where the option `using` says."""

    def db_for_write(self, model: type[Any], **hints: Any) -> str | None:
        return current.get() if model._meta.label == "app.Payment" else None

    db_for_read = db_for_write


class ShardRouter:
    """The same for records, without the option."""

    def db_for_write(self, model: type[Any], **hints: Any) -> str | None:
        return current.get() if model._meta.label in ("app.Payment", "django_idempotency.IdempotencyRecord") else None

    db_for_read = db_for_write


def move_records(scopes: list[str], source: str, target: str) -> int:
    """Copy the records of these *scopes* to another shard, while the tenant's requests are refused."""
    records = list(IdempotencyRecord.objects.using(source).filter(scope__in=scopes))
    digests = [record.pk for record in records]
    with transaction.atomic(target):
        IdempotencyRecord.objects.using(target).bulk_create(records)
        for model in (AnswerEnd, PhasedRun):
            model.objects.using(target).bulk_create(model.objects.using(source).filter(digest__in=digests))
    return len(records)
