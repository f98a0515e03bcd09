"""The system checks of the DatabaseStore: of a database's settings, and of its server under `--database`."""

from collections.abc import Iterator
from typing import Any

from django.core import checks
from django.core.checks import CheckMessage, Warning
from django.db import Error, connections, router
from django.db.backends.utils import CursorWrapper

from django_idempotency.models import IdempotencyRecord
from django_idempotency.stores.database.dialect import TABLE
from django_idempotency.stores.database.dialects import SUPPORTED
from django_idempotency.stores.database.engines import other_engine

HEAD = 64 * 1024  # bytes of a record beside its body, at most
ESCAPED = 2  # bytes that one byte takes in a literal, at most


def check_settings(using: str) -> list[CheckMessage]:
    """E006, W001. No server is asked."""
    connection = connections[using]
    if connection.vendor not in SUPPORTED:
        return [_unsupported(using, connection.display_name)]
    mode = connection.settings_dict["OPTIONS"].get("transaction_mode")
    if connection.vendor != "sqlite" or str(mode).upper() in ("IMMEDIATE", "EXCLUSIVE"):
        return []
    return [
        Warning(
            f"The SQLite database {using!r} has no transaction_mode 'IMMEDIATE': while another request writes, a"
            " transaction that reads before it writes is refused at once, instead of waiting for its turn.",
            hint=f"Set DATABASES[{using!r}]['OPTIONS']['transaction_mode'] to 'IMMEDIATE'.",
            id="django_idempotency.W001",
        )
    ]


def check_server(using: str, max_body: int) -> list[CheckMessage]:
    """E006, E009, E010, W004, W005, W007, W027: asks the server. *max_body*: bytes of the largest stored response."""
    connection = connections[using]
    if connection.vendor not in SUPPORTED:
        return []
    try:
        connection.ensure_connection()
    except Error as error:
        return [
            Warning(
                f"Database {using!r} does not answer, so its table and its server were not checked: {error}",
                hint="Start the server, or correct its entry in DATABASES.",
                id="django_idempotency.W007",
            )
        ]
    with connection.cursor() as cursor:
        engine = other_engine(connection.vendor, cursor)
        if engine is not None:
            return [_unsupported(using, engine.name) if engine.is_refused else _never_run(using, engine.name)]
        tables = connection.introspection.table_names(cursor)
        messages = [*_check_mysql(using, cursor, max_body)] if connection.vendor == "mysql" else []
    # A database without any migration does not need our table yet.
    if TABLE not in tables and "django_migrations" in tables:
        messages.append(_missing(using))
    return messages


def _missing(using: str) -> CheckMessage:
    if router.allow_migrate_model(using, IdempotencyRecord):
        hint = f"Run `manage.py migrate django_idempotency --database {using}`."
    else:
        hint = (
            "Let DATABASE_ROUTERS migrate the app django_idempotency to it, or name another one in the option `using`."
        )
    # A warning: an error would stop the very command that creates the table.
    return Warning(f"The table {TABLE!r} is missing in database {using!r}.", hint=hint, id="django_idempotency.W004")


def _unsupported(using: str, name: str) -> CheckMessage:
    return checks.Error(
        f"The DatabaseStore does not support {name} (database {using!r}).",
        hint="Keep records in PostgreSQL, MariaDB, MySQL or SQLite: the database that the protected views write to.",
        id="django_idempotency.E006",
    )


def _never_run(using: str, name: str) -> CheckMessage:
    return Warning(
        f"Database {using!r} is {name}, on which the package was never run: of two requests with one key both handlers"
        " may run, and one of them fails at COMMIT.",
        hint="Keep records in MySQL or MariaDB, or test your views there and silence this check.",
        id="django_idempotency.W027",
    )


def _check_mysql(using: str, cursor: CursorWrapper, max_body: int) -> Iterator[CheckMessage]:
    cursor.execute("SHOW GLOBAL VARIABLES WHERE Variable_name IN ('wsrep_on', 'max_allowed_packet')")
    variables: dict[str, Any] = {name.lower(): value for name, value in cursor.fetchall()}
    if variables.get("wsrep_on") == "ON":
        yield checks.Error(
            f"Database {using!r} is a Galera cluster. Its nodes do not see each other's locks, so of two requests with"
            " one key on two nodes both may run, until one fails at COMMIT.",
            hint="Send all writes to one node, then silence this check in SILENCED_SYSTEM_CHECKS. Or silence it if the"
            " handlers' work is all in this database, and set the option `retries`, so that the loser gets the answer.",
            id="django_idempotency.E009",
        )
    needed = max_body * ESCAPED + HEAD
    if int(variables.get("max_allowed_packet", needed)) < needed:
        yield Warning(
            f"Database {using!r} takes statements of at most {variables['max_allowed_packet']} bytes"
            f" (max_allowed_packet); a response of {max_body} bytes (option 'max_body') can take {needed}.",
            hint=f"Raise max_allowed_packet to {needed}, or lower the option `max_body`.",
            id="django_idempotency.W005",
        )
    cursor.execute(
        "SELECT engine FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s", (TABLE,)
    )
    row = cursor.fetchone()
    if row is not None and row[0] != "InnoDB":
        yield checks.Error(
            f"The table {TABLE!r} in database {using!r} has the engine {row[0]}, so its rows do not commit and roll"
            " back with the handler's work.",
            hint=f"Run ALTER TABLE {TABLE} ENGINE = InnoDB, and the same for tables that the handlers write to.",
            id="django_idempotency.E010",
        )
