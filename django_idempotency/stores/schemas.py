"""Schemas of tenants, as django-tenants and django-tenant-schemas keep them on their database's connection."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.db import connections


def schema_of(using: str) -> str | None:
    """The schema that the connection to *using* works in, or None if the project has no tenants there."""
    return getattr(connections[using], "schema_name", None) or None


@contextmanager
def in_schema(using: str, schema: str | None) -> Iterator[None]:
    """Let the connection to *using* work in *schema*, and in its own again at the end. None changes nothing."""
    connection: Any = connections[using]
    if schema in (None, schema_of(using)):
        yield
        return
    tenant = connection.tenant
    connection.set_schema(schema)
    try:
        yield
    finally:
        if tenant is None:
            connection.set_schema_to_public()
        else:
            connection.set_tenant(tenant)


def public_schema() -> str:
    """The schema that all tenants share, by the setting of those packages."""
    return str(getattr(settings, "PUBLIC_SCHEMA_NAME", "public"))


def schemas_with(using: str, table: str) -> list[str]:
    """The schemas of *using* that have *table*."""
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT schemaname FROM pg_tables WHERE tablename = %s ORDER BY schemaname", [table])
        return [row[0] for row in cursor.fetchall()]
