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
    connections.late_duplicate,
    connections.half_body,
    credentials.other,
    credentials.none,
    publication.documentation,
    connections.hang_up,  # last: it leaves the server with work of which nobody tells when it ends
)
