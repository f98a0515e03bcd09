"""djangorestframework-idempotency-key 1.0: rows with recovery points, and the answer's status and data."""

from collections.abc import Iterator
from typing import Any

from django.db import models

from django_idempotency.core.moved import Moved
from django_idempotency.core.operator_answer import JSON
from django_idempotency.operations.houses.base import Foreign, House, Source, answer, count_rows, rows, table

STARTED, FINISHED = "started", "finished"
Row = table(
    "idempotency_key",
    id=models.AutoField(primary_key=True),
    idempotency_key=models.UUIDField(),
    last_run_at=models.DateTimeField(),
    locked_at=models.DateTimeField(null=True),
    request_digest=models.BinaryField(),
    response_code=models.PositiveSmallIntegerField(null=True),
    response_body=models.TextField(null=True),
    recovery_point=models.CharField(max_length=64),
)


class DjangorestframeworkIdempotencyKey(House):
    """Keeps the key, but neither the user nor headers. Work and record commit together."""

    package = "djangorestframework-idempotency-key"

    def count(self, source: Source) -> int:
        return count_rows(Row, source)

    def read(self, source: Source) -> Iterator[Foreign | str]:
        for row in rows(Row, source):
            if row.recovery_point == STARTED and row.locked_at is None:
                yield "of a request whose work was rolled back"  # with its recovery point, in one transaction
                continue
            moved = Moved(package=self.package, name=str(row.idempotency_key), fingerprint=bytes(row.request_digest))
            yield Foreign(moved=moved, answer=_answer(row), began_at=row.last_run_at, expires_at=None)


def _answer(row: Any) -> Any:
    """The answer of *row*, which DRF renders as JSON; None if it is in flight or between two recovery points."""
    if row.recovery_point != FINISHED:
        return None
    body = row.response_body
    is_empty = body in (None, "null")  # of a response without data, which DRF sends without a body
    try:
        return answer(row.response_code, {} if is_empty else {"Content-Type": JSON}, b"" if is_empty else body.encode())
    except ValueError:
        return None
