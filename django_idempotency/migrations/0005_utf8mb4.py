"""On MariaDB and MySQL the record's text is utf8mb4, whatever the database's default was when the table was made."""

from typing import Any

from django.db import migrations, router

import django_idempotency.fields

COLUMNS = ("operation", "request", "request_id", "scope")


def to_utf8mb4(apps: Any, schema_editor: Any) -> None:
    """One ALTER TABLE for all the columns that need it, which are none unless the default is another one."""
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
            (table, COLUMNS),
        )
        columns = [column for (column,) in cursor.fetchall()]
    if columns:
        changes = ", ".join(f"MODIFY {column} varchar(255) CHARACTER SET utf8mb4 NOT NULL" for column in columns)
        schema_editor.execute(f"ALTER TABLE {schema_editor.quote_name(table)} {changes}")


class Migration(migrations.Migration):
    dependencies = [("django_idempotency", "0004_mysql_claim")]

    operations = [
        # Their type is the same as before on every other database, where SQLite would copy the table for each.
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(to_utf8mb4, migrations.RunPython.noop)],
            state_operations=[
                migrations.AlterField(
                    "idempotencyrecord",
                    "scope",
                    django_idempotency.fields.Utf8Field(max_length=255, verbose_name="scope"),
                ),
                migrations.AlterField(
                    "idempotencyrecord",
                    "operation",
                    django_idempotency.fields.Utf8Field(max_length=255, verbose_name="operation"),
                ),
                migrations.AlterField(
                    "idempotencyrecord",
                    "request",
                    django_idempotency.fields.Utf8Field(blank=True, default="", max_length=255, verbose_name="request"),
                ),
                migrations.AlterField(
                    "idempotencyrecord",
                    "request_id",
                    django_idempotency.fields.Utf8Field(
                        blank=True, default="", max_length=255, verbose_name="request id"
                    ),
                ),
            ],
        ),
    ]
