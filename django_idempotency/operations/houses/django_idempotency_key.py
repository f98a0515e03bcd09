"""
django-idempotency-key 1.3 (yoyowallet): pickled responses in a cache on Redis, its storage `CacheKeyStorage`.

Its default storage, `MemoryKeyStorage`, is in the memory of each process and ends with it.
"""

import re
from collections.abc import Iterator
from typing import Any

from django.utils import timezone

from django_idempotency.core.moved import Moved
from django_idempotency.core.record import CompletionRecord
from django_idempotency.operations.houses.base import UNREADABLE, Foreign, House, Source, answer
from django_idempotency.operations.houses.pickles import Part, parts
from django_idempotency.operations.houses.redis_keys import count_keys, values

PREFIX = ":1:"  # of Django's caches: KEY_PREFIX, and version 1
DIGEST = re.compile(r"[0-9a-f]{64}")


class DjangoIdempotencyKey(House):
    """Keeps one digest of the key, the request and the credential, and no claims."""

    package = "django-idempotency-key"
    in_redis = True

    def count(self, source: Source) -> int:
        return count_keys(source, PREFIX)

    def read(self, source: Source) -> Iterator[Foreign | str]:
        for key, value, expires_at in values(source, PREFIX):
            if not DIGEST.fullmatch(key):
                continue  # the project's own
            try:
                inner = parts(value)  # the cache pickles what the package has pickled
                given = _answer(parts(inner))
            except (AttributeError, KeyError, TypeError, ValueError):
                yield UNREADABLE
                continue
            moved = Moved(package=self.package, name=key)
            yield Foreign(moved=moved, answer=given, began_at=timezone.now(), expires_at=expires_at)


def _answer(response: Any) -> CompletionRecord:
    """The answer in the parts of an `HttpResponse`, whichever version of Django has pickled it."""
    if not isinstance(response, Part):
        raise ValueError("no response")
    state = response.state
    headers = state["headers"].state["_store"].values()
    body = b"".join(state["_container"])
    return answer(state["status_code"], dict(headers), body)
