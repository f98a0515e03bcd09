"""
What the package would have kept of requests that are past: their records, and the figures of each hour.

Requests are read by the package's own functions, so one that is sent again is replayed while its record lives;
`tests/sample/test_traffic.py` holds the rest to what the API leaves.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from itertools import accumulate
from typing import Any

from django.contrib.auth.models import User
from django.test import RequestFactory

from django_idempotency import Policy, conf
from django_idempotency.adapters.plain import PlainAdapter
from django_idempotency.core.fingerprint import digest
from django_idempotency.core.keys import Attempt, Identity
from django_idempotency.core.record import CompletionRecord
from django_idempotency.models import UNSETTLED, DecisionCount, IdempotencyRecord, StorageSample
from django_idempotency.operations.counts import hour_of

from .rhythm import Repeats

HOST = "127.0.0.1:8000"  # where `make run` serves
FOR_A_DAY, FOR_A_WEEK = Policy(), Policy(ttl=timedelta(days=7))


def request_attempt(
    user: User, path: str, payload: dict[str, Any], *, key: str, request_id: str, policy: Policy = FOR_A_DAY
) -> Attempt:
    """What the package reads of this POST by *user*."""
    headers = {"Host": HOST, "Idempotency-Key": f'"{key}"', "X-Request-ID": request_id}
    request = RequestFactory().post(path, payload, content_type="application/json", headers=headers)
    request.user = user
    attempt = PlainAdapter(request, conf.resolved(policy)).read()
    assert attempt is not None  # noqa: S101 - it has a key
    return attempt


def event_attempt(operation: str, event: dict[str, Any]) -> Attempt:
    """What `@once` reads of *event*."""
    return Attempt(
        identity=Identity("-", operation, event["id"]),
        fingerprint=digest(b"event", b""),
        ttl=conf.resolved(FOR_A_DAY).ttl,
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """Records and counts, in memory until `save`."""

    records: list[IdempotencyRecord] = field(default_factory=list)
    counts: defaultdict[tuple[int, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    due: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))

    def answer(
        self,
        attempt: Attempt,
        moment: datetime,
        *,
        status: HTTPStatus,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        reason: str | None = None,
        repeats: Repeats,
    ) -> None:
        """An execution, its answer, and its repetitions within the hour."""
        reason = status.phrase if reason is None else reason
        record = CompletionRecord(status=status, reason=reason, headers=tuple(headers), body=body)
        self.records.append(_row(attempt, moment, record))
        operation = attempt.identity.operation
        counts = self._counts(attempt, moment)
        counts["executions"] += 1
        for name in ("replays", "conflicts", "mismatches", "forgotten"):
            # Fractions add up to whole repetitions, without chance, so a small history has some of each kind too.
            self.due[operation, name] += getattr(repeats, name)
            whole = int(self.due[operation, name])
            self.due[operation, name] -= whole
            counts[name] += whole

    def no_outcome(self, attempt: Attempt, moment: datetime, *, refused: int) -> None:
        """A claim whose handler ended the transaction, and how many of its retries were *refused*."""
        self.records.append(_row(attempt, moment, None))
        counts = self._counts(attempt, moment)
        counts["unsettled"] += 1
        counts["unknown_outcomes"] += refused

    def save(self) -> None:
        IdempotencyRecord.objects.bulk_create(self.records, batch_size=200)
        counted = self.counts.items()
        DecisionCount.objects.bulk_create(
            [DecisionCount(hour=hour, operation=operation, **counts) for (hour, operation), counts in counted]
        )
        # Nothing was purged yet: an hour has the records of all earlier hours.
        new = Counter(hour_of(record.executed_at.timestamp()) for record in self.records)
        stored = accumulate(new[hour] for hour in sorted(new))
        StorageSample.objects.bulk_create(
            [StorageSample(hour=hour, records=records) for hour, records in zip(sorted(new), stored, strict=True)],
            ignore_conflicts=True,  # an earlier server has a sample of this hour
        )

    def _counts(self, attempt: Attempt, moment: datetime) -> Counter[str]:
        return self.counts[hour_of(moment.timestamp()), attempt.identity.operation]


def _row(attempt: Attempt, moment: datetime, record: CompletionRecord | None) -> IdempotencyRecord:
    identity = attempt.identity
    return IdempotencyRecord(
        digest=identity.digest,
        scope=identity.scope,
        operation=identity.operation,
        key=identity.key,
        fingerprint=attempt.fingerprint,
        request=attempt.request,
        request_id=attempt.request_id,
        status=UNSETTLED if record is None else record.status,
        head=b"" if record is None else record.head(),
        body=b"" if record is None else record.body,
        executed_at=moment,
        expires_at=moment + timedelta(seconds=attempt.ttl),
    )
