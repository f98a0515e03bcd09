"""Reads the keys of a package from its Redis, with their remaining lifetimes."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from django.utils import timezone
from redis import Redis

from django_idempotency.operations.houses.base import BATCH_SIZE, CannotRead, Source


def count_keys(source: Source, prefix: str) -> int:
    with _client(source) as client:
        return sum(1 for _ in client.scan_iter(_pattern(source, prefix), count=BATCH_SIZE))


def values(source: Source, prefix: str) -> Iterator[tuple[str, bytes, datetime | None]]:
    """
    Yield each key of *source* without its prefix (by default *prefix*), its value, and when it expires; None for never.
    A key that is no string is left out. Raises `CannotRead` without the URL of a Redis.
    """
    begins = source.prefix if source.prefix is not None else prefix
    with _client(source) as client:
        found = client.scan_iter(_pattern(source, prefix), count=BATCH_SIZE)
        while keys := list(islice(found, BATCH_SIZE)):
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.get(key).pttl(key)
            answers = pipeline.execute(raise_on_error=False)
            now = timezone.now()
            for key, value, left in zip(keys, answers[::2], answers[1::2], strict=True):
                if isinstance(value, bytes) and isinstance(left, int):  # else it is of another type, or has expired
                    expires_at = now + timedelta(milliseconds=left) if left >= 0 else None
                    yield key.decode(errors="replace")[len(begins) :], value, expires_at


def _client(source: Source) -> Any:
    if source.redis is None:
        raise CannotRead("its records are in a Redis: name it with --redis URL")
    return Redis.from_url(source.redis)


def _pattern(source: Source, prefix: str) -> str:
    text = source.prefix if source.prefix is not None else prefix
    return "".join(f"\\{each}" if each in "*?[]\\^" else each for each in text) + "*"
