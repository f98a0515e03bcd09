"""The checks, by subject. Each file has its experiments and, under each, the checks that judge what it saw."""

from django_idempotency.conformance.checks import (
    concurrency,
    connections,
    credentials,
    keys,
    publication,
    retries,
    reuse,
)
from django_idempotency.conformance.checks.base import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    keys.string,
    keys.bare,
    keys.case,
    keys.long,
    keys.missing,
    *keys.MALFORMED,
    retries.retry,
    retries.error,
    retries.get,
    reuse.other_payload,
    reuse.first_again,
    reuse.other_query,
    reuse.other_type,
    concurrency.race,
    connections.hang_up,
    connections.half_body,
    connections.late_duplicate,
    credentials.other,
    credentials.none,
    publication.documentation,
)
