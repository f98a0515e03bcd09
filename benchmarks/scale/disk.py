"""What a table takes on disk, and what an execution adds to it."""

import re
import time
from collections.abc import Callable

TABLE = "django_idempotency_record"
STATISTICS_DELAY = 1.5  # seconds; PostgreSQL processes report their figures once a second


def settle() -> None:
    """Let the server know what it holds: after a fill, as a table in use is."""
    from django.db import connection

    with connection.cursor() as cursor:
        match connection.vendor:
            case "postgresql":
                cursor.execute(f"VACUUM (ANALYZE) {TABLE}")
                cursor.execute("CHECKPOINT")
            case "mysql":
                cursor.execute(f"ANALYZE TABLE {TABLE}")
                cursor.fetchall()
            case _:
                cursor.execute("ANALYZE")
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def sizes() -> dict[str, int]:
    """Bytes of the rows themselves, under "rows", and of each index, by what it serves."""
    from django.db import connection

    with connection.cursor() as cursor:
        match connection.vendor:
            case "postgresql":
                cursor.execute("SELECT pg_relation_size(%s), pg_table_size(%s)", [TABLE, TABLE])
                heap, whole = cursor.fetchone()
                cursor.execute(
                    "SELECT indexrelname, pg_relation_size(indexrelid) FROM pg_stat_user_indexes WHERE relname = %s",
                    [TABLE],
                )
                # The rest of the table: TOAST with its index, free space map, visibility map.
                return {"rows": heap, "TOAST and maps": whole - heap, **_by_column(cursor.fetchall())}
            case "mysql":
                cursor.execute(
                    "SELECT index_name, stat_value * @@innodb_page_size FROM mysql.innodb_index_stats"
                    " WHERE database_name = DATABASE() AND table_name = %s AND stat_name = 'size'",
                    [TABLE],
                )
                return {name: int(size) for name, size in _by_column(cursor.fetchall()).items()}
            case _:
                cursor.execute(
                    "SELECT name, sum(pgsize) FROM dbstat WHERE name IN"
                    " (SELECT name FROM sqlite_schema WHERE tbl_name = %s) GROUP BY name",
                    [TABLE],
                )
                return _by_column(cursor.fetchall())


def _by_column(found: list[tuple[str, int]]) -> dict[str, int]:
    """Sizes by column instead of by the index's name; InnoDB keeps the rows in the primary key."""
    named = {}
    for name, size in sorted(found):
        if name in (TABLE, "PRIMARY"):
            named["rows"] = size
        elif re.search(r"_pkey$|autoindex", name):
            named["digest"] = size
        else:
            named[name.removeprefix("idempotency_record_").removesuffix("_at")] = size
    return named


def written_by(execute: Callable[[], float], times: int) -> dict[str, float]:
    """What PostgreSQL writes to its log for each of that many executions: bytes, and whole pages among them."""
    from django.db import connection

    with connection.cursor() as cursor:

        def written() -> tuple[int, int]:
            cursor.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
            position = int(cursor.fetchone()[0])
            time.sleep(STATISTICS_DELAY)
            cursor.execute("SELECT 1")  # a server process reports its figures at the end of a transaction
            cursor.execute("SELECT wal_fpi FROM pg_stat_wal")
            return position, int(cursor.fetchone()[0])

        bytes_before, pages_before = written()
        for _ in range(times):
            execute()
        bytes_after, pages_after = written()
    return {"bytes": (bytes_after - bytes_before) / times, "pages": (pages_after - pages_before) / times}
