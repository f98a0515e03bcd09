"""Columns that compare byte for byte on every database."""

from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper


class DigestField(models.BinaryField):  # type: ignore[type-arg]
    """A digest of 32 bytes. MySQL cannot index a BLOB, so there it is a BINARY(32)."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str | None:
        return "binary(32)" if connection.vendor == "mysql" else super().db_type(connection)

    def from_db_value(self, value: Any, *args: object) -> bytes | None:
        return None if value is None else bytes(value)


class KeyField(models.CharField):  # type: ignore[type-arg]
    """An idempotency key: ASCII, so that MySQL's default collation does not take `ABC` for `abc`."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str | None:
        column = super().db_type(connection)
        return f"{column} CHARACTER SET ascii COLLATE ascii_bin" if connection.vendor == "mysql" else column


class ExactField(models.CharField):  # type: ignore[type-arg]
    """Text of any kind in a primary key: MySQL's default collation takes `POST Pay/` for `POST pay/`."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str | None:
        column = super().db_type(connection)
        return f"{column} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if connection.vendor == "mysql" else column


class Utf8Field(models.CharField):  # type: ignore[type-arg]
    """Text of any kind, though the default of MySQL's database may be latin1."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str | None:
        column = super().db_type(connection)
        return f"{column} CHARACTER SET utf8mb4" if connection.vendor == "mysql" else column
