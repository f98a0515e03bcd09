"""drf-idempotencykey 0.2: rows with their user, method, path and answer."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import models

from django_idempotency.adapters.scope import default_scope_of
from django_idempotency.core.moved import Moved
from django_idempotency.operations.houses.base import Foreign, House, Source, answer, count_rows, rows, table

DEFAULT_MINUTES = 60  # of its setting IDEMPOTENCY_KEY_EXPIRATION_MINUTES
TEXTS = ("json", "text", "application/xml")  # in the media types whose bodies it stores
Row = table(
    "drf_idempotencykey_idempotencykey",
    id=models.BigAutoField(primary_key=True),
    key=models.UUIDField(),
    # The column has the type of the user's own key.
    user=models.CharField(max_length=255, db_column="user_id", null=True),
    request_digest=models.BinaryField(),
    response_code=models.PositiveSmallIntegerField(null=True),
    response_body=models.TextField(),
    response_content_type=models.CharField(max_length=255),
    response_headers=models.JSONField(),
    created_at=models.DateTimeField(),
)


class DrfIdempotencykey(House):
    """Keeps the key of a user, and answers that are text."""

    package = "drf-idempotencykey"
    knows_caller = True

    def count(self, source: Source) -> int:
        return count_rows(Row, source)

    def read(self, source: Source) -> Iterator[Foreign | str]:
        lifetime = timedelta(minutes=getattr(settings, "IDEMPOTENCY_KEY_EXPIRATION_MINUTES", DEFAULT_MINUTES))
        user_model: Any = get_user_model()
        for row in rows(Row, source):
            if row.user is None:
                yield "of no user"
                continue
            scope = default_scope_of(user_model(pk=user_model._meta.pk.to_python(row.user)))
            yield Foreign(
                moved=Moved(
                    package=self.package, name=str(row.key), fingerprint=bytes(row.request_digest), scope=scope
                ),
                answer=_answer(row),
                began_at=row.created_at,
                expires_at=row.created_at + lifetime,
            )


def _answer(row: Any) -> Any:
    """The answer of *row*; None if it is in flight, or if its body was not stored, as of anything but text."""
    media_type = row.response_content_type
    if row.response_code is None or (media_type and not any(text in media_type for text in TEXTS)):
        return None
    headers = {**row.response_headers, **({"Content-Type": media_type} if media_type else {})}
    try:
        return answer(row.response_code, headers, row.response_body.encode())
    except (AttributeError, ValueError):
        return None
