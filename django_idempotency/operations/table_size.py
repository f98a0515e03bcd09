"""Measures how many records a database holds, and their size, as cheaply for a billion as for a thousand."""

from dataclasses import dataclass

from django.db import connections

from django_idempotency.models import IdempotencyRecord, StorageSample

COUNTED = 10_000  # records that are counted one by one; beyond that the server's own estimate is taken
COUNTED_WITHOUT_ESTIMATE = 100_000  # on SQLite, which has no estimate, but is not across a network

# The planner's number of rows, and bytes with all indexes. MySQL's figures may be a day old. PostgreSQL's table may be
# partitioned: then its rows and bytes are those of its partitions.
ESTIMATES = {
    "postgresql": (
        "SELECT sum(reltuples)::bigint, sum(pg_total_relation_size(oid))::bigint FROM pg_class,"
        " to_regclass(%s) AS whole WHERE relkind <> 'p' AND (oid = whole OR oid IN ("
        "SELECT relid FROM pg_partition_tree(whole)))"
    ),
    "mysql": (
        "SELECT table_rows, data_length + index_length FROM information_schema.tables"
        " WHERE table_schema = DATABASE() AND table_name = %s"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """The records of a database, expired ones included."""

    records: int
    is_estimate: bool
    size: int | None  # bytes; None if the database does not know


def measure(using: str) -> Storage:
    """
    Measure the database *using*. A few records are counted. For many the database's own estimate is returned, or, if it
    has none, the number at which counting stopped.
    """
    guess, size = estimate(using)
    limit = COUNTED_WITHOUT_ESTIMATE if guess is None else COUNTED
    if guess is not None and guess > limit:
        return Storage(records=guess, is_estimate=True, size=size)
    count = IdempotencyRecord.objects.using(using).order_by()[: limit + 1].count()
    return Storage(records=min(count, limit), is_estimate=count > limit, size=size)


def sample(using: str, hour: int) -> None:
    """
    Measure the database *using* and store it for *hour*, as `StorageSample` numbers hours: an hour keeps its last
    sample. Raises what the database raises.
    """
    storage = measure(using)
    has_target = connections[using].features.supports_update_conflicts_with_target
    StorageSample.objects.using(using).bulk_create(
        [StorageSample(hour=hour, records=storage.records, size=storage.size)],
        update_conflicts=True,
        update_fields=["records", "size"],
        unique_fields=["hour"] if has_target else None,
    )


def estimate(using: str) -> tuple[int | None, int | None]:
    """The planner's number of rows in the table, and its bytes; None for what the server does not know."""
    connection = connections[using]
    if connection.vendor not in ESTIMATES:
        return None, None
    with connection.cursor() as cursor:
        cursor.execute(ESTIMATES[connection.vendor], [IdempotencyRecord._meta.db_table])
        guess, size = cursor.fetchone() or (None, None)
    return int(guess or 0), size if size is None else int(size)
