"""Columns that compare byte for byte on every database."""

from typing import Any, ClassVar

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper


class DigestField(models.BinaryField):  # type: ignore[type-arg]
    """A digest of 32 bytes. MySQL cannot index a BLOB, so there it is a BINARY(32)."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str | None:
        return "binary(32)" if connection.vendor == "mysql" else super().db_type(connection)

    def from_db_value(self, value: Any, *args: object) -> bytes | None:
        return None if value is None else bytes(value)


class Utf8Field(models.CharField):  # type: ignore[type-arg]
    """Any string, even if the default character set of MySQL's database is latin1."""

    character_set: ClassVar[str] = "utf8mb4"

    def db_type(self, connection: BaseDatabaseWrapper) -> str | None:
        column = super().db_type(connection)
        return f"{column} CHARACTER SET {self.character_set}" if connection.vendor == "mysql" else column


class ExactField(Utf8Field):
    """Any string in a primary key: MySQL's default collation takes `POST Pay/` for `POST pay/`."""

    character_set = "utf8mb4 COLLATE utf8mb4_bin"


class KeyField(Utf8Field):
    """An idempotency key: ASCII, so that MySQL's default collation does not take `ABC` for `abc`."""

    character_set = "ascii COLLATE ascii_bin"
