"""A database whose default character set is narrower than what scopes and operations may hold."""

from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.db import connection

from django_idempotency import once
from django_idempotency.models import IdempotencyRecord

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "mysql", reason="the other databases have one character set for all"),
]

TABLE = IdempotencyRecord._meta.db_table
COLUMNS = ("operation", "request", "request_id", "scope")
to_utf8mb4 = import_module("django_idempotency.migrations.0005_utf8mb4").to_utf8mb4


@once("πληρωμή.💶", key=lambda event: event)
def pay(event: str) -> int:
    return 5


def character_sets() -> set[Any]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT character_set_name FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name = %s AND column_name IN %s",
            (TABLE, COLUMNS),
        )
        return {name for (name,) in cursor.fetchall()}


def test_a_table_made_in_a_latin1_database_is_mended():
    """As a database of that default left it: the migration mends it, and then every text is stored as it is."""
    with connection.cursor() as cursor:
        for column in COLUMNS:
            cursor.execute(f"ALTER TABLE {TABLE} MODIFY {column} varchar(255) CHARACTER SET latin1 NOT NULL")
    assert character_sets() == {"latin1"}
    with connection.schema_editor() as editor:
        to_utf8mb4(apps, editor)

    assert character_sets() == {"utf8mb4"}
    assert pay("one") == pay("one") == 5
    assert IdempotencyRecord.objects.get().operation == "πληρωμή.💶"


def test_the_tables_of_this_run_are_utf8mb4():
    """Made by the migrations or from the models."""
    assert character_sets() == {"utf8mb4"}
