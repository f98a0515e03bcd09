"""What a PostgreSQL connection has on it that the next who gets it has not asked for."""

from typing import Any

# Each is empty on a connection as Django makes it.
LEFTOVERS = {
    "advisory locks": "SELECT mode FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    "prepared statements": "SELECT name FROM pg_prepared_statements",
    "cursors": "SELECT name FROM pg_cursors WHERE name <> ''",
    "listens": "SELECT pg_listening_channels()",
    "temporary tables": "SELECT relname::text FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
    "settings": "SELECT name || ' = ' || setting FROM pg_settings WHERE source = 'session' AND name <> ALL(%s)",
}
# What Django sets on a connection, and what a pooler keeps for each of its clients.
CLIENTS_OWN = ["application_name", "client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings"]


def leftovers(cursor: Any) -> dict[str, list[str]]:
    """What is left on the server's session behind *cursor*, by what it is: nothing, where all is well."""
    found = {}
    for what, question in LEFTOVERS.items():
        cursor.execute(question, [CLIENTS_OWN] if "%s" in question else None)
        if rows := cursor.fetchall():
            found[what] = [row[0] for row in rows]
    return found


BUSY = """
    SELECT state, query FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
    UNION ALL
    SELECT 'lock', mode FROM pg_locks
    WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def busy(cursor: Any) -> list[tuple[str, str]]:
    """The other sessions of this database that are in a transaction, and every advisory lock in it."""
    cursor.execute(BUSY)
    return cursor.fetchall()
