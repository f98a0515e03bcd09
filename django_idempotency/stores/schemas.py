"""Schemas of tenants, which django-tenants and django-tenant-schemas keep on the connection."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections


def tenant_database() -> str:
    """The alias of the database that has the tenants' schemas, if there are any."""
    return str(getattr(settings, "TENANT_DB_ALIAS", DEFAULT_DB_ALIAS))


def schema_of(using: str) -> str | None:
    """The schema in which the connection to *using* works, or None without tenants."""
    return getattr(connections[using], "schema_name", None) or None


@contextmanager
def in_schema(using: str, schema: str | None) -> Iterator[None]:
    """Let the connection to *using* work in *schema*, and afterwards in its own again. None changes nothing."""
    if schema is None or schema == schema_of(using):
        yield
        return
    connection: Any = connections[using]
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
    """The schema that all tenants share."""
    return str(getattr(settings, "PUBLIC_SCHEMA_NAME", "public"))


def schemas_with(using: str, table: str) -> list[str]:
    """The schemas of *using* that have *table*."""
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT schemaname FROM pg_tables WHERE tablename = %s ORDER BY schemaname", [table])
        return [row[0] for row in cursor.fetchall()]
