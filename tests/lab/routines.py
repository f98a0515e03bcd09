"""The routines of the migrations, made and dropped. A run with `STATEMENTS=1` has none: claims are plain statements."""

import os
from importlib import import_module

from django.db import connection

BY_STATEMENTS = os.environ.get("STATEMENTS") == "1"
FIRST = import_module("django_idempotency.migrations.0002_claim_function")
MYSQL = import_module("django_idempotency.migrations.0004_mysql_claim")
BEGIN = import_module("django_idempotency.migrations.0011_begin_and_commit")
SLOTS, PROCEDURES = MYSQL.Migration.operations
UNCERTAIN = import_module("django_idempotency.migrations.0009_uncertain_ttl")
ROUTINES = (*FIRST.Migration.operations, PROCEDURES, *UNCERTAIN.Migration.operations[1:], *BEGIN.Migration.operations)


def change_routines(*, create: bool) -> None:
    """What the migrations do forwards, and backwards."""
    for operation in ROUTINES if create else reversed(ROUTINES):
        with connection.schema_editor(atomic=connection.features.can_rollback_ddl) as editor:
            way = operation.database_forwards if create else operation.database_backwards
            way("django_idempotency", editor, None, None)
