"""On MariaDB and MySQL the record's strings are utf8mb4, whatever the database's default was at its creation."""

from typing import Any

from django.db import migrations, router

from django_idempotency.fields import Utf8Field

FIELDS: dict[str, dict[str, Any]] = {
    "scope": {"verbose_name": "scope"},
    "operation": {"verbose_name": "operation"},
    "request": {"verbose_name": "request", "blank": True, "default": ""},
    "request_id": {"verbose_name": "request id", "blank": True, "default": ""},
}


def to_utf8mb4(apps: Any, schema_editor: Any) -> None:
    """Change all the columns that need it in one ALTER TABLE; they are none unless the default differs."""
    connection = schema_editor.connection
    if connection.vendor != "mysql":
        return
    model = apps.get_model("django_idempotency", "IdempotencyRecord")
    if not router.allow_migrate_model(connection.alias, model):
        return
    table = model._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s"
            " AND column_name IN %s AND character_set_name <> 'utf8mb4'",
            (table, tuple(FIELDS)),
        )
        columns = [column for (column,) in cursor.fetchall()]
    if columns:
        changes = ", ".join(f"MODIFY {column} varchar(255) CHARACTER SET utf8mb4 NOT NULL" for column in columns)
        schema_editor.execute(f"ALTER TABLE {schema_editor.quote_name(table)} {changes}")


class Migration(migrations.Migration):
    dependencies = [("django_idempotency", "0004_mysql_claim")]

    operations = [
        # On every other database their type stays the same, but SQLite would copy the table for each.
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(to_utf8mb4, migrations.RunPython.noop)],
            state_operations=[
                migrations.AlterField("idempotencyrecord", name, Utf8Field(max_length=255, **options))
                for name, options in FIELDS.items()
            ],
        ),
    ]
